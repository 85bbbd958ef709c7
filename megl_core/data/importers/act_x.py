"""`act-x`: activities with textual explanations (ACT-X), raw or processed; images lie in `images/`.

Raw: `textual/exp_<split>_split.json`, `{key: {"ans", "iid", "exp"}}`.
Processed: `actX_<split>.json`, `{key: {"answers", "image_id", "image_name", "explanation"}}`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from megl_core.config import DataConfig
from megl_core.data.contract import Sample
from megl_core.data.importers.base import (
    Importer,
    Incoming,
    Item,
    attempt,
    locate,
    read_document,
    split_files,
    text_of,
    texts_of,
)

_RAW = "textual/exp_*_split.json"
_PROCESSED = "actX_*.json"


def rows(source: Path, config: DataConfig) -> Iterator[Item]:  # noqa: ARG001 (the interface)
    pattern = _PROCESSED if any(source.glob(_PROCESSED)) else _RAW
    for path in split_files(source, pattern):
        split = path.stem.split("_")[1]
        for key, row in read_document(path).items():
            where = f"{path.name} key {key!r}"
            yield attempt(where, partial(_incoming, source, where, key, row, split))


def _incoming(source: Path, where: str, key: str, row: Any, split: str) -> Incoming:
    if isinstance(row, dict) and "iid" in row:
        image_id = text_of(row, "iid")
        name, label, texts = f"{image_id}.jpg", text_of(row, "ans"), texts_of(row.get("exp"), "exp")
    else:
        image_id = text_of(row, "image_id")
        name, label = text_of(row, "image_name"), text_of(row, "answers")
        texts = texts_of(row.get("explanation"), "explanation")
    image = locate(source, f"images/{name}")
    sample = Sample(id=key, image=name, label=label, explanations=texts, split=split, group=image_id)
    return Incoming(where, sample, image)


ACT_X = Importer("ACT-X: activities with textual explanations, raw or processed JSON", rows)
