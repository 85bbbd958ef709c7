"""Reading packed data: random access to memory-mapped Arrow shards, without the `datasets` library.

The kernel's page cache holds what is read, shared by all processes of a machine; a row is found by two
look-ups.
"""

import bisect
import hashlib
import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from megl_core.data.contract import DATASET_JSON
from megl_core.data.manifest import digest_rows, row_digest
from megl_core.errors import DataError, IntegrityError
from megl_core.files import canonical_json, read_json, resolve_inside

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A packed dataset: its root digest, its labels in index order, and the rows of each split."""

    digest: str
    labels: list[str]
    splits: dict[str, int]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One packed sample; `label` is an index into the labels, `image` and `mask` are encoded files."""

    id: str
    label: int
    group: str | None
    image: bytes
    mask: bytes | None
    explanations: tuple[str, ...]
    extra: dict[str, Any]


def read_info(root: Path) -> PackInfo:
    """What a packed folder holds.

    Raises:
        DataError: it is no packed folder, or one of another version.
    """
    description = _read_description(root)
    splits = {name: split["rows"] for name, split in description["splits"].items()}
    return PackInfo(description["digest"], description["labels"], splits)


def verify(root: Path) -> PackInfo:
    """Compute the root digest again from the bytes in the shards.

    Raises:
        IntegrityError: the shards do not hold what dataset.json says.
    """
    info = read_info(root)
    digests = []
    for split, num_rows in info.splits.items():
        data = PackedDataset(root, split)
        if len(data) != num_rows:
            raise IntegrityError(f"split {split!r} holds {len(data)} rows, not {num_rows}", where=str(root))
        digests += [_digest(data[index], split, info.labels) for index in range(len(data))]
    if digest_rows(digests) != info.digest:
        raise IntegrityError(
            "the packed bytes do not have the recorded digest", where=str(root), fix="pack the dataset again"
        )
    return info


class PackedDataset:
    """A split of a packed folder, by row number.

    Raises:
        DataError: the folder has no such split.
    """

    def __init__(self, root: Path, split: str) -> None:
        splits = _read_description(root)["splits"]
        if split not in splits:
            raise DataError(
                f"no split {split!r}", where=str(root), fix=f"choose one of: {', '.join(sorted(splits))}"
            )
        self.root = root
        self.split = split
        self._shards: list[str] = splits[split]["shards"]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> PackedRow:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        row = self._batches[number].slice(index - self._starts[number], 1).to_pylist()[0]
        return PackedRow(
            id=row["id"],
            label=row["label"],
            group=row["group"],
            image=row["image"]["bytes"],
            mask=None if row["mask"] is None else row["mask"]["bytes"],
            explanations=tuple(row["explanations"]),
            extra=json.loads(row["extra"]),
        )

    @cached_property
    def annotated(self) -> NDArray[np.bool_]:
        """Whether each row has a mask, (N,)."""
        columns = [batch["mask"].is_valid().to_numpy(zero_copy_only=False) for batch in self._batches]
        return np.concatenate([np.empty(0, np.bool_), *columns])

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return [batch for shard in self._shards for batch in _map(resolve_inside(self.root, shard))]

    @cached_property
    def _starts(self) -> list[int]:
        """The number of the first row of every batch, and the number of rows."""
        return list(itertools.accumulate((len(batch) for batch in self._batches), initial=0))


def _map(shard: Path) -> list[pa.RecordBatch]:
    try:
        return list(pa.ipc.open_stream(pa.memory_map(str(shard))))
    except (OSError, pa.ArrowInvalid) as error:
        raise IntegrityError(
            f"packed shard {shard.name} cannot be read: {error}",
            where=str(shard),
            fix="pack the dataset again",
        ) from None


def _read_description(root: Path) -> dict[str, Any]:
    description = read_json(root / DATASET_JSON)
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"not a packed dataset of version {FORMAT_VERSION}",
            where=str(root),
            fix="make one: megl data pack DATASET OUTPUT",
        )
    return dict(description)


def _digest(row: PackedRow, split: str, labels: list[str]) -> tuple[str, str]:
    """Id and digest of a packed row, as the manifest has them."""
    content = {
        "id": row.id,
        "label": labels[row.label],
        "split": split,
        "group": row.group,
        "image_sha256": hashlib.sha256(row.image).hexdigest(),
        "mask_sha256": None if row.mask is None else hashlib.sha256(row.mask).hexdigest(),
        "explanations": list(row.explanations),
        "extra": canonical_json(row.extra).decode(),
    }
    return row.id, row_digest(content)
