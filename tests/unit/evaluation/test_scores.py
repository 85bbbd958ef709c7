import numpy as np
import pytest

from megl_core.config import EvaluationConfig
from megl_core.evaluation.predict import MASK_SCORES, Prediction
from megl_core.evaluation.scores import score_split

LABELS = ["cat", "dog"]


def made(
    row, label, predicted, *, confidence=0.75, energy=None, rationale=None, references=(), cue=None, **extra
):
    probabilities = np.full(2, 1 - confidence, dtype=np.float32)
    probabilities[predicted] = confidence
    return Prediction(
        row=row,
        id=f"s{row}",
        label=label,
        predicted=predicted,
        probabilities=probabilities,
        mask_scores=None if energy is None else dict.fromkeys(MASK_SCORES, energy),
        energy_in_cue=cue,
        rationale=rationale,
        references=tuple(references),
        extra=extra,
    )


def score(predictions, by_id=None, **config):
    return score_split(predictions, LABELS, EvaluationConfig(**config), by_id or {})


def test_a_set_with_labels_only_has_class_metrics_only():
    scores = score([made(0, 0, 0), made(1, 0, 1), made(2, 1, 1), made(3, 1, 1)])
    assert scores.metrics == pytest.approx(
        {
            "n": 4,
            "accuracy": 0.75,
            "macro_precision": (1 + 2 / 3) / 2,
            "macro_recall": 0.75,
            "macro_f1": (2 / 3 + 4 / 5) / 2,
            "auc": 0.75,  # wins 2 of 4 pairs, ties 2
            "ece": 0.0,  # all confidences 0.75, 3 of 4 right
        }
    )
    assert scores.confusion == [[1, 1], [0, 2]]
    assert scores.groups == []
    assert scores.slots == {}


def test_one_class_has_no_auc_and_absent_classes_no_row():
    scores = score([made(0, 0, 0), made(1, 0, 1)])
    assert "auc" not in scores.metrics
    assert [row["label"] for row in scores.per_class] == ["cat"]


def test_saliency_is_averaged_over_masked_samples_only():
    scores = score([made(0, 0, 0, energy=0.25, cue=0.5), made(1, 1, 1, energy=0.75), made(2, 1, 1)])
    assert scores.metrics["energy_in_mask"] == 0.5
    assert scores.metrics["masks_n"] == 2
    assert scores.metrics["energy_in_cue"] == 0.5
    assert scores.metrics["cues_n"] == 1


def test_groups_cross_the_label_with_the_columns_and_come_worst_first():
    predictions = [
        *(made(index, 0, 0, cue_class="bone") for index in range(2)),
        made(2, 0, 1, cue_class="fish"),
        made(3, 0, 0, cue_class="fish"),
        made(4, 1, 0, cue_class="fish"),  # a group of one
        made(5, 1, 1),  # in no group
    ]
    scores = score(predictions, min_group=2, group_columns=["cue_class", "absent"])
    assert scores.groups == [
        {"label": "cat", "cue_class": "fish", "accuracy": 0.5, "n": 2},
        {"label": "cat", "cue_class": "bone", "accuracy": 1.0, "n": 2},
    ]
    assert scores.metrics["worst_group_accuracy"] == 0.5


def test_texts_are_scored_with_and_without_wrong_classes():
    predictions = [
        made(0, 0, 0, rationale="a red cat", references=["a red cat"]),
        made(1, 1, 0, rationale="x y z", references=["a dog barks"]),
        made(2, 1, 1, rationale="unreferenced"),
        made(3, 1, 1, references=["not written"]),
    ]
    metrics = score(predictions).metrics
    assert (metrics["rationale_n"], metrics["rationale_filtered_n"]) == (2, 1)
    assert (metrics["bleu1"], metrics["bleu1_filtered"]) == (0.5, 1.0)
    assert metrics["rouge_l"] == pytest.approx(0.5)
    assert metrics["rouge_l_filtered"] == pytest.approx(1.0)


def test_slots_need_no_reference():
    predictions = [
        made(0, 0, 0, rationale="a red cat", slots={"colour": "red", "place": "left"}),
        made(1, 1, 0, rationale="a red cat", slots={"colour": "blue", "odd": 3}),
        made(2, 1, 1, rationale="a red cat", slots="broken"),
    ]
    scores = score(predictions)
    assert scores.slots == {"colour": 0.5, "place": 0.0}
    assert scores.metrics["slot_accuracy"] == 0.25
    assert scores.metrics["slot_n"] == 2
    assert scores.metrics["slot_accuracy_filtered"] == 0.5
    assert scores.metrics["slot_filtered_n"] == 1
    assert "bleu4" not in scores.metrics


def test_cue_flips_are_counted_over_twins_with_another_cue():
    twins = [made(10, 0, 1, cue_class="b"), made(11, 0, 1, cue_class="b"), made(12, 0, 0, cue_class="a")]
    predictions = [
        made(0, 0, 0, cue_class="a", twin="s10"),  # flips
        made(1, 0, 1, cue_class="a", twin="s11"),  # stays
        made(2, 0, 1, cue_class="a", twin="s12"),  # the same cue: no pair
        made(3, 0, 1, cue_class="a", twin="s99"),  # not evaluated
        made(4, 0, 1, twin="s10"),  # unknown cue
        made(5, 0, 1, cue_class="a", twin=["s10"]),  # not an id
    ]
    metrics = score(predictions, {twin.id: twin for twin in twins}).metrics
    assert metrics["cue_flip_rate"] == 0.5
    assert metrics["cue_flip_n"] == 2
