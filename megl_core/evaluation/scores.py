"""From predictions to the numbers of a split. A metric that the data cannot give is left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megl_core.config import EvaluationConfig
from megl_core.evaluation.predict import Prediction
from megl_core.metrics import classification, text


@dataclass(frozen=True)
class SplitScores:
    """The numbers of one split, as they stand in evaluation.json.

    Attributes:
        metrics: one number for each name, counts (`n`, `..._n`) included.
        per_class: label, precision, recall, f1 and n of each class that occurs.
        groups: accuracy and n of each group of label and group columns, the worst first.
        confusion: (C, C) counts, true classes in rows.
        slots: share of rationales that say the slot's value, by slot.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    confusion: list[list[int]]
    slots: dict[str, float]


def score_split(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    config: EvaluationConfig,
    by_id: Mapping[str, Prediction],
) -> SplitScores:
    """The scores of a split's predictions; `by_id` holds those of all splits, where twins are found."""
    true = np.array([prediction.label for prediction in predictions], dtype=np.int64)
    predicted = np.array([prediction.predicted for prediction in predictions], dtype=np.int64)
    confusion = classification.confusion_matrix(true, predicted, len(labels))
    groups = _groups(predictions, labels, config)
    texts, slots = _text_scores(predictions)
    metrics = _class_scores(predictions, confusion) | _saliency_scores(predictions) | texts
    metrics |= _cue_flip_scores(predictions, by_id)
    if groups:
        metrics["worst_group_accuracy"] = groups[0]["accuracy"]
    return SplitScores(
        metrics={name: value for name, value in metrics.items() if not math.isnan(value)},
        per_class=_per_class(confusion, labels),
        groups=groups,
        confusion=confusion.tolist(),
        slots=slots,
    )


def _cue_flip_scores(predictions: Sequence[Prediction], by_id: Mapping[str, Prediction]) -> dict[str, float]:
    """`cue_flip_rate` and its n over the samples whose twin was evaluated too and carries another cue."""
    pairs = [
        (prediction.predicted, by_id[twin].predicted)
        for prediction in predictions
        if isinstance(twin := prediction.extra.get("twin"), str) and twin in by_id
        if _cues_differ(prediction.extra, by_id[twin].extra)
    ]
    if not pairs:
        return {}
    first, second = np.array(pairs).T
    return {"cue_flip_rate": classification.cue_flip_rate(first, second), "cue_flip_n": len(pairs)}


def _cues_differ(extra: Mapping[str, Any], twin: Mapping[str, Any]) -> bool:
    cue, other = extra.get("cue_class"), twin.get("cue_class")
    return cue is not None and other is not None and cue != other


def _class_scores(predictions: Sequence[Prediction], confusion: Any) -> dict[str, float]:
    true = np.array([prediction.label for prediction in predictions])
    probabilities = np.stack([prediction.probabilities for prediction in predictions])
    correct = np.array([prediction.correct for prediction in predictions])
    confidences = np.array([prediction.confidence for prediction in predictions])
    return {
        "n": len(predictions),
        "accuracy": float(correct.mean()),
        "macro_precision": classification.macro(classification.precision_per_class(confusion), confusion),
        "macro_recall": classification.macro(classification.recall_per_class(confusion), confusion),
        "macro_f1": classification.macro(classification.f1_per_class(confusion), confusion),
        "auc": classification.auc_ovr(true, probabilities),
        "ece": classification.expected_calibration_error(confidences, correct),
    }


def _per_class(confusion: Any, labels: Sequence[str]) -> list[dict[str, Any]]:
    columns = (
        labels,
        classification.precision_per_class(confusion).tolist(),
        classification.recall_per_class(confusion).tolist(),
        classification.f1_per_class(confusion).tolist(),
        confusion.sum(axis=1).tolist(),
    )
    names = ("label", "precision", "recall", "f1", "n")
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    return [row for row in rows if row["n"]]


def _groups(
    predictions: Sequence[Prediction], labels: Sequence[str], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Groups of equal label and equal values of the group columns that the data has; none without columns."""
    columns = [
        column
        for column in config.group_columns
        if any(prediction.extra.get(column) is not None for prediction in predictions)
    ]
    members = [
        prediction
        for prediction in predictions
        if columns and all(prediction.extra.get(column) is not None for column in columns)
    ]
    keys = [(labels[member.label], *(str(member.extra[column]) for column in columns)) for member in members]
    correct = np.array([member.correct for member in members], dtype=np.bool_)
    accuracies = classification.group_accuracy(correct, keys, config.min_group)
    groups = [
        dict(zip(("label", *columns), key, strict=True)) | {"accuracy": accuracy, "n": n}
        for key, (accuracy, n) in accuracies.items()
    ]
    return sorted(groups, key=lambda group: group["accuracy"])


def _saliency_scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    scores: dict[str, float] = {}
    masked = [prediction.mask_scores for prediction in predictions if prediction.mask_scores is not None]
    if masked:
        scores = {name: _mean([row[name] for row in masked]) for name in masked[0]} | {"masks_n": len(masked)}
    cues = [prediction.energy_in_cue for prediction in predictions if prediction.energy_in_cue is not None]
    if cues:
        scores |= {"energy_in_cue": _mean(cues), "cues_n": len(cues)}
    return scores


def _text_scores(predictions: Sequence[Prediction]) -> tuple[dict[str, float], dict[str, float]]:
    """Text metrics over all rationales, `..._filtered` over those with the right class; and slots by name."""
    written = [prediction for prediction in predictions if prediction.rationale is not None]
    scores, slots = _score_rationales(written)
    filtered, _ = _score_rationales([prediction for prediction in written if prediction.correct])
    return scores | {_filtered(name): value for name, value in filtered.items()}, slots


def _filtered(name: str) -> str:
    return f"{name.removesuffix('_n')}_filtered_n" if name.endswith("_n") else f"{name}_filtered"


def _score_rationales(written: Sequence[Prediction]) -> tuple[dict[str, float], dict[str, float]]:
    scores: dict[str, float] = {}
    referenced = [prediction for prediction in written if prediction.references]
    if referenced:
        rationales = [prediction.rationale or "" for prediction in referenced]
        references = [prediction.references for prediction in referenced]
        for order, value in enumerate(text.bleu(rationales, references), start=1):
            scores[f"bleu{order}"] = value
        scores["rouge_l"] = text.rouge_l(rationales, references)
        scores["cider"] = text.cider(rationales, references)
        scores["rationale_n"] = len(referenced)
    slotted = [prediction for prediction in written if _slots(prediction.extra)]
    slots = text.slot_accuracy(
        [prediction.rationale or "" for prediction in slotted],
        [_slots(prediction.extra) for prediction in slotted],
    )
    if slots:
        scores |= {"slot_accuracy": _mean(list(slots.values())), "slot_n": len(slotted)}
    return scores, slots


def _slots(extra: Mapping[str, Any]) -> dict[str, str]:
    slots = extra.get("slots")
    if not isinstance(slots, dict):
        return {}
    return {str(name): value for name, value in slots.items() if isinstance(value, str)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
