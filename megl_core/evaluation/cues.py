"""The spurious cue of a dataset: which column holds it, and which of its values goes with which label."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from megl_core.data.contract import TRAIN
from megl_core.data.manifest import read_manifest
from megl_core.data.pack import MANIFEST
from megl_core.data.packed import PackedFiles
from megl_core.errors import DataError
from megl_core.metrics.classification import aligned_values


@dataclass(frozen=True)
class Cue:
    """Attributes:
    column: the free column.
    aligned: the value that goes with each label; labels without training samples may be missing.
    """

    column: str
    aligned: dict[str, str]


def find_cue(data: PackedFiles, columns: Sequence[str], labels: Sequence[str]) -> Cue | None:
    """The cue of packed data: the first of `columns` with a value, or None.

    A column that holds nothing but labels names the class itself. Of another column the training rows
    tell which value goes with which label.

    Raises:
        DataError: the packed data lacks its manifest.
    """
    try:
        with data.open(MANIFEST) as file:
            table = read_manifest(file, ["label", "split", "extra"])
    except FileNotFoundError:
        raise DataError("the packed data lack their manifest", where=data.where) from None
    extras = [json.loads(extra) for extra in table["extra"].to_pylist()]
    column = next((name for name in columns if any(extra.get(name) is not None for extra in extras)), None)
    if column is None:
        return None
    rows = [
        (label, split, str(extra[column]))
        for label, split, extra in zip(
            table["label"].to_pylist(), table["split"].to_pylist(), extras, strict=True
        )
        if extra.get(column) is not None
    ]
    if {value for _, _, value in rows} <= set(labels):
        return Cue(column, {label: label for label in labels})
    seen = [(label, value) for label, split, value in rows if split == TRAIN]
    return Cue(column, aligned_values(*zip(*seen, strict=True)) if seen else {})
