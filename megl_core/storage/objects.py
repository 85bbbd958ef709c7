"""The stored bytes of a DVC version, whether or not a working copy still has them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megl_core.errors import IntegrityError
from megl_core.storage.dvc import repository_at

_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file of a folder that DVC tracks.

    Attributes:
        path: POSIX, relative to the folder.
        md5: what the folder's listing says.
        sha256: of the stored bytes; None if they were not read.
        problem: why they are not what the listing says; "" if they are.
    """

    path: str
    md5: str
    sha256: str | None
    problem: str = ""


def stored_files(repository: str, revision: str | None, md5: str, *, read: bool) -> Iterator[StoredFile]:
    """The files of a tracked folder, as the default remote holds them; without a remote, the cache.

    Args:
        repository: folder or URL of the DVC repository.
        revision: the Git commit; None: the repository as it is.
        md5: of the folder's listing, ending in `.dir`.
        read: hash every file's bytes; else only look whether the objects are there.

    Raises:
        IntegrityError: the listing is gone, or is not what its hash says.
        UnavailableError: the repository or its remote cannot be read.
    """
    with repository_at(repository, revision) as repo:
        store = _store(repo)
        listing = _listing(store, md5)
        for path, file_md5 in listing:
            yield _look(store, path, file_md5, read=read)


def _store(repo: Any) -> Any:
    from dvc.config import NoRemoteError

    try:
        return repo.cloud.get_remote_odb()
    except NoRemoteError:
        return repo.cache.local


def _listing(store: Any, md5: str) -> list[tuple[str, str]]:
    """`(path, md5)` of each file of a folder."""
    import json

    content = b"".join(_chunks(store, md5))
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
        raise IntegrityError("the folder's listing is not what its hash says", where=f"DVC object {md5}")
    return [(str(item["relpath"]), str(item["md5"])) for item in json.loads(content)]


def _look(store: Any, path: str, md5: str, *, read: bool) -> StoredFile:
    if not read:
        there = store.fs.exists(store.oid_to_path(md5))
        return StoredFile(path, md5, None, "" if there else "the object is gone")
    ours, theirs = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        for chunk in _chunks(store, md5):
            ours.update(chunk)
            theirs.update(chunk)
    except IntegrityError as error:
        return StoredFile(path, md5, None, error.what)
    problem = "" if theirs.hexdigest() == md5 else "the bytes are not what the hash says"
    return StoredFile(path, md5, ours.hexdigest(), problem)


def _chunks(store: Any, oid: str) -> Iterator[bytes]:
    try:
        with store.fs.open(store.oid_to_path(oid), "rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except FileNotFoundError:
        raise IntegrityError("the object is gone", where=f"DVC object {oid}") from None
