"""The files of a folder on S3, fetched when they are opened into a bounded folder of this machine.

A file is named there by its SHA-256, so that any number of processes and datasets share it, and a folder
that is uploaded anew is never mixed with its predecessor.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Self

from megl_core.config import StorageConfig
from megl_core.errors import ConfigError
from megl_core.files import locked
from megl_core.storage.s3 import fetch, join, open_client, require_index

_ABANDONED = 3600.0  # seconds after which a part that nobody writes to may go


class FolderCache:
    """A folder on S3 as one to read from; threads and processes may share it and its disk.

    Attributes:
        where: the folder's address.

    Raises:
        DataError: there is no complete folder at the address.
        ConfigError: its largest file does not fit the cache.
        UnavailableError: the store does not answer, or refuses.
    """

    def __init__(self, uri: str, config: StorageConfig) -> None:
        self.where = uri
        self._config = config
        self._client = open_client(config)
        self._files = require_index(self._client, uri)
        self._folder = config.cache or _default_folder()
        self._limit = config.cache_mb << 20
        self._require_room()
        _make(self._folder)
        self._stop = threading.Event()
        self._workers = ThreadPoolExecutor(config.threads, thread_name_prefix="fetch")
        self._coming: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End what is being fetched; what has arrived stays for the next time."""
        self._stop.set()
        self._workers.shutdown(cancel_futures=True)

    def open(self, name: str) -> BinaryIO:
        """A file of the folder, its bytes those of the index; stays readable whatever becomes of the cache.

        Raises:
            FileNotFoundError: the folder has no such file.
            IntegrityError: the object is not what the index says.
            UnavailableError: the store does not answer after several tries.
        """
        if name not in self._files:
            raise FileNotFoundError(f"no {name} in this folder")
        with contextlib.suppress(FileNotFoundError):
            return self._open_kept(name)
        return self._fetched(name)

    def ahead(self, names: Iterable[str]) -> None:
        """Begin to fetch files that are not here, in this order. What fails is told when they are opened."""
        for name in names:
            coming = self._coming.get(name)
            if coming is not None and not coming.done():
                continue
            try:
                os.utime(self._path(name))
            except FileNotFoundError:
                self._coming[name] = self._workers.submit(self._fetch_ahead, name)

    def _fetch_ahead(self, name: str) -> None:
        self._fetched(name).close()

    def _open_kept(self, name: str) -> BinaryIO:
        stream = self._path(name).open("rb")
        os.utime(stream.fileno())  # the order in which files have to go
        return stream

    def _fetched(self, name: str) -> BinaryIO:
        """Fetch a file, once for all processes, and open it before another one may remove it."""
        path, file = self._path(name), self._files[name]
        with locked(self._folder / f".{path.name}.lock"):
            if not path.exists():
                self._make_room(file.size)
                fetch(self._client, join(self.where, name), path, file, self._config, self._stop)
            return self._open_kept(name)

    def _make_room(self, size: int) -> None:
        """Remove what was not opened for the longest time, until `size` bytes fit."""
        with locked(self._folder / ".room.lock"):
            found = _files_in(self._folder)
            excess = sum(status.st_size for status in found.values()) + size - self._limit
            for path, status in sorted(found.items(), key=lambda item: item[1].st_mtime_ns):
                if excess <= 0:
                    return
                if path.suffix != ".part" or time.time() - status.st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)
                    excess -= status.st_size

    def _path(self, name: str) -> Path:
        return self._folder / self._files[name].sha256

    def _require_room(self) -> None:
        largest = max(self._files.values(), key=lambda file: file.size)
        if largest.size > self._limit:
            raise ConfigError(
                f"the cache of {self._limit >> 20} MiB does not hold a file of {largest.size} bytes",
                where="storage.cache_mb",
                fix="raise it, or pack the data with a smaller pack.shard_mb",
            )


def _default_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "megl"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder of the cache cannot be made: {error.strerror}",
            where=str(folder),
            fix="set storage.cache to a folder on a disk of this machine",
        ) from None


def _files_in(folder: Path) -> dict[Path, os.stat_result]:
    """The cached files and the parts of those that are on their way."""
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a part that was whole in the meantime
            if path.suffix != ".lock":
                found[path] = path.stat()
    return found
