"""`vqa-x`: questions about COCO images with textual explanations (VQA-X), raw or processed.

Raw: `textual/<split>_exp_anno.json`, `{question_id: [sentence, ...]}`, which needs the answers of VQA v2
beside it: `*mscoco_*_annotations.json`, and for the questions `*_mscoco_*_questions.json`.
Processed: `vqaX_<split>.json`, `{question_id: {...}}` with the keys question, answers, image_id, image_name
and explanation.
The label is the answer that most annotators gave.
"""

from collections import Counter
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
    objects_of,
    read_document,
    split_files,
    text_of,
    texts_of,
)
from megl_core.errors import DataError

_RAW = "textual/*_exp_anno.json"
_PROCESSED = "vqaX_*.json"
_ANSWERS = "*mscoco_*_annotations.json"
_QUESTIONS = "*_mscoco_*_questions.json"


def rows(source: Path, config: DataConfig) -> Iterator[Item]:  # noqa: ARG001 (the interface)
    if any(source.glob(_PROCESSED)):
        for path in split_files(source, _PROCESSED):
            split = path.stem.removeprefix("vqaX_")
            for key, row in read_document(path).items():
                where = f"{path.name} key {key!r}"
                yield attempt(where, partial(_incoming, source, where, key, row, split))
    else:
        yield from _raw_rows(source)


def _raw_rows(source: Path) -> Iterator[Item]:
    explained = {path: read_document(path) for path in split_files(source, _RAW)}
    facts = _vqa_facts(source, wanted={key for document in explained.values() for key in document})
    for path, document in explained.items():
        split = path.stem.removesuffix("_exp_anno")
        for key, texts in document.items():
            where = f"{path.name} key {key!r}"
            row = facts.get(key, {}) | {"explanation": texts}
            yield attempt(where, partial(_incoming, source, where, key, row, split))


def _vqa_facts(source: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Answers, image and question of the explained questions, in the processed form."""
    facts: dict[str, dict[str, Any]] = {}
    for path in split_files(source, _ANSWERS):
        document = read_document(path)
        subset = text_of(document, "data_subtype")
        for row in objects_of(document, "annotations", path):
            if (key := str(row.get("question_id"))) in wanted:
                image_id = text_of(row, "image_id")
                name = f"COCO_{subset}_{image_id.zfill(12)}.jpg"
                facts[key] = {"answers": row.get("answers"), "image_id": image_id, "image_name": name}
    for path in sorted(source.glob(_QUESTIONS)):
        for row in objects_of(read_document(path), "questions", path):
            if (key := str(row.get("question_id"))) in facts:
                facts[key]["question"] = row.get("question")
    return facts


def _incoming(source: Path, where: str, key: str, row: Any, split: str) -> Incoming:
    if not isinstance(row, dict) or "answers" not in row:
        raise DataError("no answers for this question")
    name = text_of(row, "image_name")
    folders = ("images", "images/train2014", "images/val2014", "train2014", "val2014")
    sample = Sample(
        id=key,
        image=name,
        label=_majority(row["answers"]),
        explanations=texts_of(row.get("explanation"), "explanation"),
        split=split,
        group=text_of(row, "image_id"),  # several questions share an image
        extra={"question": text_of(row, "question")} if row.get("question") else {},
    )
    return Incoming(where, sample, locate(source, *(f"{folder}/{name}" for folder in folders)))


def _majority(answers: Any) -> str:
    """The most frequent answer; of several, the one given first."""
    if not isinstance(answers, list) or not answers:
        raise DataError("'answers' must be a list of VQA answers")
    return Counter(text_of(answer, "answer") for answer in answers).most_common(1)[0][0]


VQA_X = Importer("VQA-X: questions with textual explanations, raw (with VQA v2) or processed JSON", rows)
