"""The stored bytes of a DVC version, whether or not a working copy still has them."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megl_core.errors import IntegrityError
from megl_core.redaction import redact
from megl_core.storage.dvc import repository_at

_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredFolder:
    """A tracked folder in the default remote of its repository; without a remote, in the cache.

    Attributes:
        place: where its objects lie.
        files: `{path: md5}`, relative to the folder, as its listing has them.
    """

    place: str
    files: Mapping[str, str]
    _store: Any

    def is_there(self, path: str) -> bool:
        """Whether a file's object exists."""
        return bool(self._store.fs.exists(self._store.oid_to_path(self.files[path])))

    def chunks(self, path: str) -> Iterator[bytes]:
        """A file's stored bytes, in constant memory.

        Raises:
            IntegrityError: the object is gone, or is not what its hash says.
        """
        yield from _chunks(self._store, self.files[path])

    def sha256(self, path: str) -> str:
        """Of a file's stored bytes.

        Raises:
            IntegrityError: the object is gone, or is not what its hash says.
        """
        digest = hashlib.sha256()
        for chunk in self.chunks(path):
            digest.update(chunk)
        return digest.hexdigest()


@contextlib.contextmanager
def stored_folder(repository: str, revision: str | None, md5: str) -> Iterator[StoredFolder]:
    """The objects of a tracked folder.

    Args:
        repository: folder or URL of the DVC repository.
        revision: the Git commit; None: the repository as it is.
        md5: of the folder's listing, ending in `.dir`.

    Raises:
        DataError: no such repository or revision.
        IntegrityError: the listing is gone, or is not what its hash says.
        UnavailableError: the repository or its remote cannot be read.
    """
    with repository_at(repository, revision) as repo:
        store = _store(repo)
        listing = json.loads(b"".join(_chunks(store, md5)))
        files = {str(item["relpath"]): str(item["md5"]) for item in listing}
        yield StoredFolder(redact(str(store.fs.unstrip_protocol(store.path))), files, store)


def _store(repo: Any) -> Any:
    from dvc.config import NoRemoteError

    try:
        return repo.cloud.get_remote_odb()
    except NoRemoteError:
        return repo.cache.local


def _chunks(store: Any, oid: str) -> Iterator[bytes]:
    digest = hashlib.md5(usedforsecurity=False)
    where = f"DVC object {oid}"
    try:
        with store.fs.open(store.oid_to_path(oid), "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                yield chunk
    except FileNotFoundError:
        raise IntegrityError("the object is gone", where=where) from None
    if digest.hexdigest() != oid.removesuffix(".dir"):
        raise IntegrityError("the bytes are not what the hash says", where=where)
