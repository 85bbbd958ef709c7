"""Where data are imported from: a folder, a folder on S3, or a version that a DVC repository records."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from megl_core.config import DataConfig, StorageConfig
from megl_core.data.importers import find_importer
from megl_core.errors import DataError, IntegrityError
from megl_core.files import sha256_json, sha256_tree
from megl_core.redaction import location_uri
from megl_core.storage import dvc, s3


@dataclass(frozen=True, slots=True)
class Source:
    """Data that were found; none is copied yet.

    Attributes:
        uri: what they are called in records; without credentials.
        content: says what the bytes are: the same for the same bytes in a source of the same kind.
        digests: what the records know them by: `sha256` of the tree, or `dvcMd5` and `gitCommit`.
        fetch: puts them into a folder that is not there yet, or returns the one where they lie.
    """

    uri: str
    content: str
    digests: Mapping[str, str]
    fetch: Callable[[Path], Path]

    @property
    def record(self) -> dict[str, Any]:
        """In the form of an in-toto resource."""
        return {"uri": self.uri, "digest": dict(self.digests)}


def find_source(data: DataConfig, storage: StorageConfig) -> Source | None:
    """What `data.source`, `data.path` and `data.revision` name; None: nothing, or the importer needs none.

    Raises:
        ConfigError: no such importer.
        DataError: no such folder, revision or path.
        UnavailableError: the store or the repository cannot be reached.
    """
    if data.source is None or not find_importer(data.importer).needs_source:
        return None
    if data.path is not None:
        return _in_dvc(data.source, data.path, data.revision)
    if s3.is_s3(data.source):
        return _on_s3(data.source, storage)
    return _folder(Path(data.source))


@contextmanager
def fetched(source: Source | None, target: Path) -> Iterator[Path | None]:
    """The data as a folder, to be imported to `target`. What has to be copied lies in a hidden folder beside
    that until the block ends well, so that a download that stopped goes on there."""
    target = target.absolute()  # "." has no name
    scratch = target.with_name(f".{target.name}.source")
    try:
        yield source.fetch(scratch / source.content[:16]) if source else None
    except BaseException:
        with suppress(OSError):
            scratch.rmdir()  # where nothing has arrived
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise DataError("no such source folder", where=str(folder))
    try:
        digest = sha256_tree(folder)
    except OSError as error:
        raise DataError(
            f"a file of the source cannot be read: {error.strerror}",
            where=str(error.filename),
            fix="make it readable, or take it out of the folder",
        ) from None
    return Source(folder.resolve().as_uri(), digest, {"sha256": digest}, lambda _: folder)


def _on_s3(uri: str, storage: StorageConfig) -> Source:
    digest = sha256_json({path: file.sha256 for path, file in s3.list_folder(uri, storage).items()})

    def fetch(folder: Path) -> Path:
        s3.download_folder(uri, folder, storage)
        return folder

    return Source(uri, digest, {"sha256": digest}, fetch)


def _in_dvc(repository: str, path: str, revision: str | None) -> Source:
    if Path(repository).is_dir():
        repository = str(Path(repository).resolve())
    found = dvc.resolve(repository, path, revision)
    commit = {"gitCommit": found.revision} if found.revision else {}
    return Source(
        f"{location_uri('dvc', repository)}#{quote(path)}",
        found.md5,
        {"dvcMd5": found.md5, **commit},
        partial(_fetch_from_dvc, repository, path, found.revision or revision, found.md5),
    )


def _fetch_from_dvc(repository: str, path: str, revision: str | None, md5: str, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # of an import that failed
    if dvc.fetch(repository, path, revision, folder).md5 != md5:
        raise IntegrityError("the version changed while it was fetched", where=repository, fix="run it again")
    return folder
