"""`folder`: the data contract's own form, so that a set can be copied, checked and normalised."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from megl_core.config import DataConfig
from megl_core.data.contract import ANNOTATIONS, BadRow, Sample, declared_labels, read_annotations
from megl_core.data.importers.base import Importer, Incoming, Item, Problem, attempt, locate


def rows(source: Path, config: DataConfig) -> Iterator[Item]:  # noqa: ARG001 (the interface)
    for line, row in read_annotations(source):
        where = f"{ANNOTATIONS} line {line}"
        if isinstance(row, BadRow):
            yield Problem(where, row.reason)
        else:
            yield attempt(where, partial(_incoming, source, where, row))


def _incoming(source: Path, where: str, sample: Sample) -> Incoming:
    image = locate(source, sample.image)
    mask = None if sample.mask is None else locate(source, sample.mask)
    return Incoming(where, sample, image, mask)


def labels(source: Path, config: DataConfig) -> list[str] | None:  # noqa: ARG001 (the interface)
    return declared_labels(source)


FOLDER = Importer("a folder of the data contract (images/, masks/, annotations.jsonl)", rows, labels)
