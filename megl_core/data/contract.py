"""The data contract: a folder that any importer writes and every step reads.

    <dataset>/
      images/            image files
      masks/             8-bit or 1-bit images; non-zero = "look here"
      annotations.jsonl  one object a line: id, image, label, mask, explanations,
                         and optionally split, group and free columns
      dataset.json       optional: name, declared labels, where the data came from

docs/data.md describes it for people; `megl_core/data/annotation.schema.json` for programs.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megl_core.errors import DataError, MeglError
from megl_core.files import canonical_json, read_json, refuse_to_replace_others, unique_keys

ANNOTATIONS = "annotations.jsonl"
DATASET_JSON = "dataset.json"
IMAGES = "images"
MASKS = "masks"

TRAIN = "train"
VAL = "val"
TEST = "test"

_CORE_KEYS = ("id", "image", "label", "mask", "explanations", "split", "group")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it becomes part of file names


@dataclass(frozen=True, slots=True)
class Sample:
    """One annotated image. Paths are POSIX, relative to the dataset's folder."""

    id: str
    image: str
    label: str
    mask: str | None = None
    explanations: tuple[str, ...] = ()
    split: str | None = None
    group: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that stands in annotations.jsonl; absent optional keys are left out."""
        row: dict[str, Any] = {
            "id": self.id,
            "image": self.image,
            "label": self.label,
            "mask": self.mask,
            "explanations": list(self.explanations),
        }
        if self.split is not None:
            row["split"] = self.split
        if self.group is not None:
            row["group"] = self.group
        return row | dict(self.extra)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line of annotations.jsonl that is no sample, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"{ANNOTATIONS} line {self.line}: {self.reason}"


def stated(sample: Sample) -> dict[str, Any]:
    """What the annotations say of a sample, in the manifest's columns and without the split."""
    return {
        "id": sample.id,
        "label": sample.label,
        "group": sample.group,
        "image": sample.image,
        "mask": sample.mask,
        "explanations": list(sample.explanations),
        "extra": canonical_json(dict(sample.extra)).decode(),
    }


def refuse_to_replace(dataset: Path) -> None:
    """Refuse a place that holds something else than nothing or a dataset that an importer wrote.

    What somebody wrote by hand, or laid beside an import, is never removed.

    Raises:
        MeglError: it does.
    """
    refuse_to_replace_others(dataset, DATASET_JSON)
    names = {path.name for path in dataset.iterdir()} if dataset.is_dir() else set()
    if not names:
        return
    description = read_json(dataset / DATASET_JSON)
    foreign = sorted(names - {ANNOTATIONS, DATASET_JSON, IMAGES, MASKS})
    if foreign or not isinstance(description, dict) or "importer" not in description:
        reason = f"holds {foreign[0]}" if foreign else f"its {DATASET_JSON} names no importer"
        raise MeglError(
            f"{dataset.name} is there already, and no import of ours alone ({reason})",
            where=str(dataset),
            fix="choose another folder, or move this one away",
        )


def read_annotations(root: Path) -> Iterator[tuple[int, Sample | BadRow]]:
    """Stream the rows of a dataset folder with their line numbers, in constant memory.

    Lines count from 1; blank ones count, but are no rows. A line that is no sample comes out as a
    `BadRow`, so that a caller can report all of them.

    Raises:
        DataError: the folder has no annotations file, or the file has no rows.
    """
    path = root / ANNOTATIONS
    if not path.is_file():
        raise DataError(
            f"no {ANNOTATIONS} in the dataset folder",
            where=str(root),
            fix="one line for each picture, as docs/data.md says; other forms: megl data import --help",
        )
    empty = True
    with path.open("rb") as stream:
        for line_number, line in enumerate(stream, start=1):
            if line.strip():
                empty = False
                yield line_number, parse_line(line, line_number)
    if empty:
        raise DataError(f"{ANNOTATIONS} is empty", where=str(path))


def parse_line(line: bytes, number: int) -> Sample | BadRow:
    """One line of annotations.jsonl as a `Sample`, or as a `BadRow` saying what is wrong."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_reject_constant, object_pairs_hook=unique_keys)
        canonical_json(row)  # a lone surrogate is legal JSON and no text
    except UnicodeDecodeError as error:
        return BadRow(number, f"not valid UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return BadRow(number, f"not valid JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"not usable JSON: {error}")
    if not isinstance(row, dict):
        return BadRow(number, "not a JSON object")
    if reason := _wrong_field(row):
        return BadRow(number, reason)
    return Sample(
        id=row["id"],
        image=row["image"],
        label=row["label"],
        mask=row.get("mask"),
        explanations=tuple(row.get("explanations") or ()),
        split=row.get("split"),
        group=row.get("group"),
        extra={key: value for key, value in row.items() if key not in _CORE_KEYS},
    )


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _wrong_field(row: dict[str, Any]) -> str | None:
    for key in ("id", "image", "label"):
        if not isinstance(row.get(key), str) or not row[key]:
            return f"{key!r} must be a non-empty string (got {row.get(key)!r})"
    for key in ("mask", "split", "group"):
        value = row.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            return f"{key!r} must be a non-empty string or null (got {value!r})"
    texts = row.get("explanations")
    if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        return "'explanations' must be a list of strings"
    split = row.get("split")
    if split is not None and not _SPLIT_NAME.fullmatch(split):
        return f"'split' must be a short name of letters, digits, '.', '_' and '-' (got {split!r})"
    return None


def declared_labels(root: Path) -> list[str] | None:
    """The labels that dataset.json declares, or None where it declares none.

    Raises:
        DataError: dataset.json is no JSON object, or its labels are no list of distinct strings.
    """
    path = root / DATASET_JSON
    if not path.is_file():
        return None
    description = read_json(path)
    if not isinstance(description, dict):
        raise DataError(f"{DATASET_JSON} must hold a JSON object", where=str(path))
    labels = description.get("labels")
    if not labels:
        return None
    strings = isinstance(labels, list) and all(isinstance(label, str) and label for label in labels)
    if not strings or len(set(labels)) != len(labels):
        raise DataError("'labels' must be a list of distinct, non-empty strings", where=str(path))
    return list(labels)
