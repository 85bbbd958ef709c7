"""Where the pipeline and the nodes of a training meet: a folder that all of them see, or an address on S3.

    data/<digest>/                 packed data, sent once
    trainings/<fingerprint>/
      order.json                   what is to be trained
      checkpoints/<run>/step-<n>/  while it lasts
      model/  provenance.json      what came of it
      result.json                  written last: digests, metrics, MLflow run

A folder is there as a whole, with an index of its bytes, or not at all, and is compared with its index
whenever it is fetched.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Protocol, Self

from megl_core.config import StorageConfig
from megl_core.errors import DataError, IntegrityError
from megl_core.files import atomic_directory, read_json, resolve_inside, tree_digests, write_bytes, write_json
from megl_core.storage import s3
from megl_core.storage.s3 import INDEX


class Exchange(Protocol):
    """Files and folders by name. Names are ours: plain words, joined by `/`."""

    address: str

    def below(self, name: str) -> Self:
        """The part of the exchange that lies in a folder of it."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Store a file."""

    def put(self, name: str, folder: Path) -> None:
        """Store all files below a folder; the same files are stored once.

        Raises:
            DataError: there are no files, or a link leads out of the folder.
        """

    def fetch(self, name: str, folder: Path) -> None:
        """Copy a stored folder to `folder`, whole and compared with its index.

        Raises:
            DataError: there is no complete folder of that name.
            IntegrityError: its bytes are not those that were stored.
        """

    def folders(self, name: str) -> list[str]:
        """What is stored below a name, complete or not."""

    def remove(self, name: str) -> None:
        """Remove a folder, if it is there."""


def open_exchange(address: str, storage: StorageConfig) -> Exchange:
    """The exchange at a folder or an s3:// address."""
    return Bucket(address, storage) if s3.is_s3(address) else SharedFolder(address)


class SharedFolder:
    """An exchange on a disk that all machines see."""

    def __init__(self, address: str) -> None:
        self.address = str(Path(address).resolve())

    def below(self, name: str) -> "SharedFolder":
        return SharedFolder(str(self._path(name)))

    def read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return self._path(name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        write_bytes(self._path(name), content)

    def put(self, name: str, folder: Path) -> None:
        files = tree_digests(folder)
        if not files:
            raise DataError("there are no files in this folder", where=str(folder))
        target = self._path(name)
        if (target / INDEX).is_file() and read_json(target / INDEX) == files:
            return
        with atomic_directory(target, marker=INDEX) as temporary:
            _copy(folder, temporary, files)
            write_json(temporary / INDEX, files)

    def fetch(self, name: str, folder: Path) -> None:
        source = self._path(name)
        if not (source / INDEX).is_file():
            raise DataError("there is no complete folder of this name", where=str(source))
        files: dict[str, str] = read_json(source / INDEX)
        if folder.is_dir() and tree_digests(folder) == files:
            return
        with atomic_directory(folder, marker=min(files)) as temporary:
            _copy(source, temporary, files)
            if tree_digests(temporary) != files:
                raise IntegrityError("the bytes are not those that were stored", where=str(source))

    def folders(self, name: str) -> list[str]:
        folder = self._path(name)
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")

    def remove(self, name: str) -> None:
        folder = self._path(name)
        if folder.is_dir():
            shutil.rmtree(folder)

    def _path(self, name: str) -> Path:
        return resolve_inside(Path(self.address), name)


class Bucket:
    """An exchange on S3."""

    def __init__(self, address: str, storage: StorageConfig) -> None:
        self.address = address.rstrip("/")
        self.storage = storage

    def below(self, name: str) -> "Bucket":
        return Bucket(self._uri(name), self.storage)

    def read(self, name: str) -> bytes | None:
        return s3.read_object(self._uri(name), self.storage)

    def write(self, name: str, content: bytes) -> None:
        s3.write_object(content, self._uri(name), self.storage)

    def put(self, name: str, folder: Path) -> None:
        s3.upload_folder(folder, self._uri(name), self.storage)

    def fetch(self, name: str, folder: Path) -> None:
        s3.download_folder(self._uri(name), folder, self.storage)

    def folders(self, name: str) -> list[str]:
        return s3.list_folders(self._uri(name), self.storage)

    def remove(self, name: str) -> None:
        s3.remove_folder(self._uri(name), self.storage)

    def _uri(self, name: str) -> str:
        return f"{self.address}/{name}"


def _copy(source: Path, target: Path, files: dict[str, str]) -> None:
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(resolve_inside(source, name), target / name)
        except FileNotFoundError:
            raise IntegrityError(f"{name} is gone", where=str(source)) from None
