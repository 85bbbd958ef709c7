"""From predictions to the numbers of a split. A metric that the data cannot give is left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megl_core.config import EvaluationConfig
from megl_core.evaluation.cues import Cue
from megl_core.evaluation.judges import TEXT_MODELS
from megl_core.evaluation.predict import Prediction
from megl_core.metrics import classification, text
from megl_core.metrics.meteor import Meteor


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
    cue: Cue | None = None,
    meteor: Meteor | None = None,
) -> SplitScores:
    """The scores of a split's predictions.

    Args:
        predictions: one at least.
        labels: the model's.
        by_id: predictions of all splits, where twins are found.
        cue: the data's spurious cue.
        meteor: scores rationales too.
    """
    true = np.array([prediction.label for prediction in predictions], dtype=np.int64)
    predicted = np.array([prediction.predicted for prediction in predictions], dtype=np.int64)
    confusion = classification.confusion_matrix(true, predicted, len(labels))
    groups = _groups(predictions, labels, config)
    texts, slots = _text_scores(predictions, config, meteor)
    metrics = _class_scores(predictions, confusion) | _saliency_scores(predictions) | texts
    if cue is not None:
        metrics |= _cue_scores(predictions, labels, cue) | _cue_flip_scores(predictions, by_id, cue.column)
    if groups:
        metrics["worst_group_accuracy"] = groups[0]["accuracy"]
    return SplitScores(
        metrics={name: value for name, value in metrics.items() if not math.isnan(value)},
        per_class=_per_class(confusion, labels),
        groups=groups,
        confusion=confusion.tolist(),
        slots=slots,
    )


def _cue_scores(predictions: Sequence[Prediction], labels: Sequence[str], cue: Cue) -> dict[str, float]:
    """Accuracy and n of the samples whose cue goes with their label, and of those whose cue does not."""
    known = [
        (prediction, cue.aligned[labels[prediction.label]] == str(prediction.extra[cue.column]))
        for prediction in predictions
        if prediction.extra.get(cue.column) is not None and labels[prediction.label] in cue.aligned
    ]
    correct = np.array([prediction.correct for prediction, _ in known], dtype=np.bool_)
    sides = classification.group_accuracy(correct, [aligned for _, aligned in known])
    scores: dict[str, float] = {}
    for name, side in (("aligned", True), ("conflicting", False)):
        if side in sides:
            scores[f"{name}_accuracy"], scores[f"{name}_n"] = sides[side]
    return scores


def _cue_flip_scores(
    predictions: Sequence[Prediction], by_id: Mapping[str, Prediction], column: str
) -> dict[str, float]:
    """`cue_flip_rate` and its n over the samples whose twin was evaluated too and carries another cue."""
    pairs = [
        (prediction.predicted, by_id[twin].predicted)
        for prediction in predictions
        if isinstance(twin := prediction.extra.get("twin"), str) and twin in by_id
        if _differ(prediction.extra.get(column), by_id[twin].extra.get(column))
    ]
    if not pairs:
        return {}
    first, second = np.array(pairs).T
    return {"cue_flip_rate": classification.cue_flip_rate(first, second), "cue_flip_n": len(pairs)}


def _differ(cue: Any, twin: Any) -> bool:
    return cue is not None and twin is not None and cue != twin


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
    tried = [prediction.faithfulness for prediction in predictions if prediction.faithfulness is not None]
    if tried:
        scores |= {name: _mean([row[name] for row in tried]) for name in tried[0]}
        scores["faithfulness_n"] = len(tried)
    return scores


def _text_scores(
    predictions: Sequence[Prediction], config: EvaluationConfig, meteor: Meteor | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Text metrics over all rationales, `..._filtered` over those with the right class; and slots by name."""
    written = [prediction for prediction in predictions if prediction.rationale is not None]
    right = [prediction for prediction in written if prediction.correct]
    scores, slots = _score_rationales(written, config, meteor)
    filtered, _ = _score_rationales(right, config, meteor)
    return scores | {_filtered(name): value for name, value in filtered.items()}, slots


def _filtered(name: str) -> str:
    return f"{name.removesuffix('_n')}_filtered_n" if name.endswith("_n") else f"{name}_filtered"


def _score_rationales(
    written: Sequence[Prediction], config: EvaluationConfig, meteor: Meteor | None
) -> tuple[dict[str, float], dict[str, float]]:
    scores: dict[str, float] = {}
    referenced = [prediction for prediction in written if prediction.references]
    if referenced:
        rationales = [prediction.rationale or "" for prediction in referenced]
        references = [prediction.references for prediction in referenced]
        for order, value in enumerate(text.bleu(rationales, references), start=1):
            scores[f"bleu{order}"] = value
        scores["rouge_l"] = text.rouge_l(rationales, references)
        scores["cider"] = text.cider(rationales, references)
        if meteor is not None:
            scores["meteor"] = meteor.score(rationales, references)
        scores["rationale_n"] = len(referenced)
    for name in TEXT_MODELS:
        judged = [prediction.text_scores[name] for prediction in written if name in prediction.text_scores]
        if judged:
            scores |= {name: _mean(judged), f"{name}_n": len(judged)}
    told = [(prediction.rationale or "", _slots(prediction, config)) for prediction in written]
    told = [(rationale, values) for rationale, values in told if values]
    slots = text.slot_accuracy([rationale for rationale, _ in told], [values for _, values in told])
    if slots:
        scores |= {"slot_accuracy": _mean(list(slots.values())), "slot_n": len(told)}
    return scores, slots


def _slots(prediction: Prediction, config: EvaluationConfig) -> dict[str, str]:
    """The facts that a rationale should tell: of the column `slots`, and what the references agree on."""
    named = {
        name: text.common_phrase(prediction.references, phrases)
        for name, phrases in config.slot_phrases.items()
    }
    column = prediction.extra.get("slots")
    values = named | (column if isinstance(column, dict) else {})
    return {str(name): value for name, value in values.items() if isinstance(value, str)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
