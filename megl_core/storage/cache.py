"""The files of a folder on S3, fetched when they are opened into a bounded folder of this machine.

A file is named there by its SHA-256, so that any number of processes and datasets share it, and a folder
that is uploaded anew is never mixed with its predecessor.

    <sha256>                    a file
    .<sha256>.<version>.part    what has arrived of it
    .<sha256>.room              an empty file of its size: room for what is on its way
    .<sha256>.lock              held by who fetches it; nothing of this file goes before
    .room.lock                  held by who makes room
"""

import contextlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from megl_core.config import StorageConfig
from megl_core.errors import ConfigError, UnavailableError
from megl_core.locks import locked
from megl_core.storage.s3 import fetch, join, open_client, require_index

_POLL_SECONDS = 0.02


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
        self._files = require_index(self._client, uri, config)
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
        if os.fstat(stream.fileno()).st_size != self._files[name].size:  # as a machine leaves it that fails
            stream.close()
            raise FileNotFoundError(name)
        os.utime(stream.fileno())  # the order in which files have to go
        return stream

    def _fetched(self, name: str) -> BinaryIO:
        """Fetch a file, once for all processes, and open it."""
        while not self._stop.is_set():
            with contextlib.suppress(BlockingIOError):  # another one fetches it
                if stream := self._fetch(name):
                    return stream
            self._stop.wait(_POLL_SECONDS)
        raise UnavailableError("the download was stopped", where=join(self.where, name))

    def _fetch(self, name: str) -> BinaryIO | None:
        """Open a file that may have come by now, or fetch it; None: no room, others are on their way."""
        path, file = self._path(name), self._files[name]
        with locked(_lock_of(path), wait=False):
            with contextlib.suppress(FileNotFoundError):
                return self._open_kept(name)
            room = path.with_name(f".{path.name}.room")
            if not self._claim(room, path, file.size):
                return None
            try:
                fetch(self._client, join(self.where, name), path, file, self._config, self._stop)
            finally:
                room.unlink(missing_ok=True)
            return self._open_kept(name)

    def _claim(self, room: Path, path: Path, size: int) -> bool:
        """Announce a file of `size` bytes; what was not opened for the longest time goes for it.

        False where all the rest is on its way: that stays.
        """
        with locked(self._folder / ".room.lock"):
            others = [kept for kept in _kept_in(self._folder) if kept.path != path]
            excess = sum(kept.size for kept in others) + size - self._limit
            for kept in sorted(others, key=lambda kept: kept.opened):
                if excess > 0 and kept.remove():
                    excess -= kept.size
            if excess <= 0:
                with room.open("wb") as stream:
                    stream.truncate(size)
            return excess <= 0

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


@dataclass(frozen=True)
class _Kept:
    """A file of the cache, whole or on its way: its place, the bytes it takes or will take, its entries."""

    path: Path
    size: int
    opened: int
    entries: list[Path]

    def remove(self) -> bool:
        """Remove it, unless somebody fetches it."""
        try:
            with locked(_lock_of(self.path), wait=False):
                for entry in self.entries:
                    entry.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return True


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _kept_in(folder: Path) -> list[_Kept]:
    found: dict[str, list[tuple[Path, os.stat_result]]] = {}
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a part that was whole in the meantime
            if entry.suffix != ".lock":
                status = entry.stat()
                found.setdefault(entry.name.lstrip(".").partition(".")[0], []).append((entry, status))
    return [
        _Kept(
            folder / sha256,
            max(status.st_size for _, status in entries),
            max(status.st_mtime_ns for _, status in entries),
            [entry for entry, _ in entries],
        )
        for sha256, entries in found.items()
    ]
