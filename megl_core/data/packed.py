"""Reading packed data: rows from the index, images from the shards, without the `datasets` library.

An index is mapped into memory; the kernel's page cache holds it once for all processes of a machine. An
image is read by its place in a shard, and is compared with the digest that the index has of it.
"""

import bisect
import hashlib
import itertools
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from megl_core.data.contract import DATASET_JSON
from megl_core.data.index import images_in, index_name
from megl_core.data.manifest import digest_rows, row_digest
from megl_core.errors import DataError, IntegrityError
from megl_core.files import resolve_inside

FORMAT_VERSION = 2
_PACK = "pack a dataset: megl data pack DATASET FOLDER"
_PACK_AGAIN = "pack the dataset again; where it is read from S3, empty storage.cache first"
_ROW = ("id", "label", "group", "mask", "explanations", "extra")


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A packed dataset: its root digest, its labels in index order, and the rows of each split."""

    digest: str
    labels: list[str]
    splits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is known of a packed image; `label` is an index into the labels, `mask` an encoded file."""

    id: str
    label: int
    group: str | None
    mask: bytes | None
    explanations: tuple[str, ...]
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PackedRow(Annotation):
    """One packed sample; `image` is an encoded file."""

    image: bytes


class PackedFiles(Protocol):
    """Where the files of a packed folder are read from.

    Attributes:
        where: the folder's address, for messages.
    """

    where: str

    def open(self, name: str) -> BinaryIO:
        """A file by its name in the folder.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """

    def ahead(self, names: Iterable[str]) -> None:
        """These files will be opened soon, in about this order."""


class LocalFiles:
    """The files of a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.where = str(root)
        self._root = root
        self._paths: dict[str, Path] = {}  # resolved once: a shard is opened for every image

    def open(self, name: str) -> BinaryIO:
        path = self._paths.get(name)
        if path is None:
            path = self._paths[name] = resolve_inside(self._root, name)
        return path.open("rb")

    def ahead(self, names: Iterable[str]) -> None:
        """Nothing needs to be fetched."""


def is_packed(folder: Path) -> bool:
    """Whether a folder holds packed data, rather than a dataset or something else."""
    return (folder / DATASET_JSON).is_file() and any(folder.glob("*.arrow"))


def read_info(source: Path | PackedFiles) -> PackInfo:
    """What a packed folder holds.

    Raises:
        DataError: it is no packed folder, or one of another version.
    """
    description = _read_description(_files(source))
    splits = {name: split["rows"] for name, split in description["splits"].items()}
    return PackInfo(description["digest"], description["labels"], splits)


def verify(root: Path) -> PackInfo:
    """Compute the root digest again from the bytes in the shards, and hold the index against them.

    Raises:
        IntegrityError: index or shards do not hold what dataset.json says.
    """
    info = verify_index(root)
    digests = []
    for split in info.splits:
        data = PackedDataset(root, split)
        places = data.places()
        for row in _rows_of_shards(root, data):
            image, mask = row["image"]["bytes"], row["mask"]
            row["mask"] = None if mask is None else mask["bytes"]
            digests.append(_digest(row, hashlib.sha256(image).hexdigest(), split, info.labels))
            fits = next(places, None) == row["place"]
            _require(fits, f"the index does not say where the image of sample {row['id']!r} lies", str(root))
    recorded = digest_rows(digests) == info.digest
    _require(recorded, "the packed bytes do not have the recorded digest", str(root))
    return info


def verify_index(source: Path | PackedFiles) -> PackInfo:
    """Compute the root digest again from the indices: of all but the images, whose digests are taken as read.

    As each image is compared with its digest when it is read, this is all there is to do before the data
    are used from afar.

    Raises:
        IntegrityError: the indices do not hold what dataset.json says.
    """
    files = _files(source)
    info = read_info(files)
    digests: list[tuple[str, str]] = []
    for split, num_rows in info.splits.items():
        data = PackedDataset(files, split)
        _require(
            len(data) == num_rows, f"split {split!r} holds {len(data)} rows, not {num_rows}", files.where
        )
        digests += data.row_digests(info.labels)
    _require(digest_rows(digests) == info.digest, "the index does not have the recorded digest", files.where)
    return info


class PackedDataset:
    """A split of a packed folder, by row number.

    Raises:
        DataError: the folder has no such split.
    """

    def __init__(self, source: Path | PackedFiles, split: str) -> None:
        self.files = _files(source)
        splits = _read_description(self.files)["splits"]
        if split not in splits:
            raise DataError(
                f"no split {split!r}",
                where=self.files.where,
                fix=f"choose one of: {', '.join(sorted(splits))}",
            )
        self.split = split
        self.shards: list[str] = splits[split]["shards"]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> PackedRow:
        return PackedRow(**self._row(index), image=self.image(index))

    def annotation(self, index: int) -> Annotation:
        """All of a row but its image, without a look at the shards."""
        return Annotation(**self._row(index))

    def image(self, index: int) -> bytes:
        """The encoded image of a row.

        Raises:
            IntegrityError: its bytes are not those that were packed, or its shard cannot be read.
        """
        batch, row = self._find(index)
        shard, offset, size = (batch[name][row].as_py() for name in ("shard", "offset", "size"))
        what = f"the image of sample {batch['id'][row].as_py()!r} is not the one that was packed"
        _require(0 <= shard < len(self.shards) and min(offset, size) >= 0, what, self.files.where)
        with self._open(self.shards[shard]) as stream:
            stream.seek(offset)
            content = stream.read(size)
        is_sound = hashlib.sha256(content).hexdigest() == batch["image_sha256"][row].as_py()
        _require(is_sound, what, f"{self.files.where}/{self.shards[shard]}")
        return content

    def ahead(self, indices: NDArray[np.int64]) -> None:
        """The images of these rows will be read soon."""
        self.files.ahead(
            self.shards[number] for number in dict.fromkeys(self.shard_numbers[indices].tolist())
        )

    @cached_property
    def annotated(self) -> NDArray[np.bool_]:
        """Whether each row has a mask, (N,)."""
        columns = (batch["mask"].is_valid().to_numpy(zero_copy_only=False) for batch in self._batches)
        return np.concatenate([np.empty(0, np.bool_), *columns])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The label of each row, (N,)."""
        return np.concatenate(
            [np.empty(0, np.int64), *(batch["label"].to_numpy() for batch in self._batches)]
        )

    @cached_property
    def shard_numbers(self) -> NDArray[np.int32]:
        """Which shard each row's image lies in, (N,); ascending."""
        return np.concatenate(
            [np.empty(0, np.int32), *(batch["shard"].to_numpy() for batch in self._batches)]
        )

    def explanations(self) -> Iterator[list[str]]:
        """The rationales of each row."""
        for batch in self._batches:
            yield from batch["explanations"].to_pylist()

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Of each row's image: the number of its shard, and offset and size of its bytes there."""
        for batch in self._batches:
            columns = (batch[name].to_pylist() for name in ("shard", "offset", "size"))
            yield from zip(*columns, strict=True)

    def row_digests(self, labels: list[str]) -> Iterator[tuple[str, str]]:
        """Id and digest of each row, as the manifest has them, from the index alone."""
        for batch in self._batches:
            for row in batch.to_pylist():
                yield _digest(row, row["image_sha256"], self.split, labels)

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        name = index_name(self.split)
        with self._open(name) as stream:
            try:
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                return list(pa.ipc.open_stream(pa.py_buffer(content)))
            except (OSError, ValueError, pa.ArrowInvalid) as error:
                raise _unreadable(name, self.files.where, error) from None

    @cached_property
    def _starts(self) -> list[int]:
        """The number of the first row of every batch, and the number of rows."""
        return list(itertools.accumulate((len(batch) for batch in self._batches), initial=0))

    def _find(self, index: int) -> tuple[pa.RecordBatch, int]:
        """The batch of the index that holds a row, and the row's place in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self._batches[number], index - self._starts[number]

    def _row(self, index: int) -> dict[str, Any]:
        batch, place = self._find(index)
        row = {name: batch[name][place].as_py() for name in _ROW}
        return row | {"explanations": tuple(row["explanations"]), "extra": json.loads(row["extra"])}

    def _open(self, name: str) -> BinaryIO:
        try:
            return self.files.open(name)
        except OSError as error:
            raise _unreadable(name, self.files.where, error) from None


def _files(source: Path | PackedFiles) -> PackedFiles:
    return LocalFiles(source) if isinstance(source, Path) else source


def _read_description(files: PackedFiles) -> dict[str, Any]:
    try:
        with files.open(DATASET_JSON) as stream:
            description = json.load(stream)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"no packed data here: there is no folder with a {DATASET_JSON}", where=files.where, fix=_PACK
        ) from None
    except ValueError as error:
        raise DataError(f"{DATASET_JSON} is not valid JSON: {error}", where=files.where) from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"not a packed dataset of version {FORMAT_VERSION}",
            where=files.where,
            fix=_PACK,
        )
    return dict(description)


def _rows_of_shards(root: Path, data: PackedDataset) -> Iterator[dict[str, Any]]:
    """The rows as the shards hold them, each with its image's place in its shard."""
    for number, name in enumerate(data.shards):
        try:
            for batch, offsets, sizes in images_in(resolve_inside(root, name)):
                for row, offset, size in zip(
                    batch.to_pylist(), offsets.tolist(), sizes.tolist(), strict=True
                ):
                    yield row | {"place": (number, offset, size)}
        except (OSError, pa.ArrowInvalid) as error:
            raise _unreadable(name, str(root), error) from None


def _digest(row: Mapping[str, Any], image_sha256: str, split: str, labels: list[str]) -> tuple[str, str]:
    """Id and digest of a packed row, as the manifest has them."""
    content = {
        "id": row["id"],
        "label": labels[row["label"]],
        "split": split,
        "group": row["group"],
        "image_sha256": image_sha256,
        "mask_sha256": None if row["mask"] is None else hashlib.sha256(row["mask"]).hexdigest(),
        "explanations": row["explanations"],
        "extra": row["extra"],
    }
    return row["id"], row_digest(content)


def _unreadable(name: str, where: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"packed file {name} cannot be read: {error}", where=where, fix=_PACK_AGAIN)


def _require(is_sound: bool, what: str, where: str) -> None:
    if not is_sound:
        raise IntegrityError(what, where=where, fix=_PACK_AGAIN)
