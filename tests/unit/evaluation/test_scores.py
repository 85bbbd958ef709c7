import numpy as np
import pytest

from megl_core.config import EvaluationConfig
from megl_core.evaluation.cues import Cue
from megl_core.evaluation.judges import FAITHFULNESS
from megl_core.evaluation.predict import MASK_SCORES, Prediction
from megl_core.evaluation.scores import score_split

LABELS = ["cat", "dog"]


def made(
    row,
    label,
    predicted,
    *,
    confidence=0.75,
    energy=None,
    faithfulness=None,
    rationale=None,
    references=(),
    text_scores=None,
    cue=None,
    **extra,
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
        faithfulness=faithfulness and dict.fromkeys(FAITHFULNESS, faithfulness),
        rationale=rationale,
        references=tuple(references),
        text_scores=text_scores or {},
        extra=extra,
    )


def score(predictions, by_id=None, cue=None, meteor=None, **config):
    return score_split(predictions, LABELS, EvaluationConfig(**config), by_id or {}, cue, meteor)


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
    by_id = {twin.id: twin for twin in twins}
    metrics = score(predictions, by_id, Cue("cue_class", {})).metrics
    assert metrics["cue_flip_rate"] == 0.5
    assert metrics["cue_flip_n"] == 2
    assert "cue_flip_rate" not in score(predictions, by_id, Cue("scene", {})).metrics
    assert "cue_flip_rate" not in score(predictions, by_id).metrics


def test_accuracy_is_told_apart_where_the_cue_agrees_and_where_it_conflicts():
    cue = Cue("scene", {"cat": "sofa", "dog": "park"})
    predictions = [
        made(0, 0, 0, scene="sofa"),
        made(1, 1, 1, scene="park"),
        made(2, 1, 0, scene="park"),
        made(3, 0, 1, scene="park"),
        made(4, 0, 1, scene="moon"),  # a value of no label conflicts too
        made(5, 1, 1),  # unknown: on neither side
    ]
    metrics = score(predictions, cue=cue).metrics
    assert metrics["aligned_accuracy"] == pytest.approx(2 / 3)
    assert metrics["conflicting_accuracy"] == 0.0
    assert (metrics["aligned_n"], metrics["conflicting_n"]) == (3, 2)
    assert "conflicting_accuracy" not in score(predictions[:3], cue=cue).metrics
    assert "aligned_n" not in score(predictions[:3], cue=Cue("scene", {})).metrics


def test_faithfulness_is_averaged_over_the_samples_that_were_tried():
    metrics = score([made(0, 0, 0, faithfulness=0.2), made(1, 0, 0, faithfulness=0.6), made(2, 1, 1)]).metrics
    assert {metrics[name] for name in FAITHFULNESS} == {0.4}
    assert metrics["faithfulness_n"] == 2


def test_scores_of_other_models_come_with_their_own_n():
    predictions = [
        made(0, 0, 0, rationale="a", references=["a"], text_scores={"bertscore": 0.5, "clipscore": 1.0}),
        made(1, 1, 0, rationale="a", text_scores={"clipscore": 0.5}),
        made(2, 1, 1, references=["a"]),
    ]
    metrics = score(predictions).metrics
    assert (metrics["bertscore"], metrics["bertscore_n"]) == (0.5, 1)
    assert (metrics["clipscore"], metrics["clipscore_n"]) == (0.75, 2)
    assert (metrics["clipscore_filtered"], metrics["clipscore_filtered_n"]) == (1.0, 1)


def test_slots_that_only_sentences_tell():
    places = {"place": ["in the centre", "in the upper centre"]}
    told = {"references": ["A cat in the upper centre.", "In the upper centre sits a cat."]}
    predictions = [
        made(0, 0, 0, rationale="it is in the upper centre", **told),
        made(1, 0, 1, rationale="it is in the centre", **told),
        made(2, 0, 0, rationale="it is in the centre", references=["a cat"]),  # no place is known
        made(3, 0, 0, rationale="in the centre", slots={"place": "in the centre", "colour": "red"}, **told),
    ]
    scores = score(predictions, slot_phrases=places)
    assert scores.slots == {"place": pytest.approx(2 / 3), "colour": 0.0}
    assert scores.metrics["slot_n"] == 3
    assert scores.metrics["slot_filtered_n"] == 2
    assert score(predictions).slots == {"place": 1.0, "colour": 0.0}
