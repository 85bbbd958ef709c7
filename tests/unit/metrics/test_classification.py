import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional import classification as torchmetrics

from megl_core.metrics import classification

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def drawn():
    """200 samples of 4 classes with noisy probabilities."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 200)
    scores = random.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return labels, probabilities


def test_accuracy_counts_hits():
    assert classification.accuracy(LABELS, PREDICTIONS) == 4 / 6
    assert math.isnan(classification.accuracy(LABELS[:0], PREDICTIONS[:0]))


def test_confusion_matrix_has_true_classes_in_rows():
    confusion = classification.confusion_matrix(LABELS, PREDICTIONS, 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_per_class_scores_by_hand():
    confusion = classification.confusion_matrix(LABELS, PREDICTIONS, 3)
    assert classification.precision_per_class(confusion) == pytest.approx([1.0, 0.5, 0.5])
    assert classification.recall_per_class(confusion) == pytest.approx([2 / 3, 0.5, 1.0])
    assert classification.f1_per_class(confusion) == pytest.approx([0.8, 0.5, 2 / 3])
    assert classification.macro(classification.f1_per_class(confusion), confusion) == pytest.approx(
        (0.8 + 0.5 + 2 / 3) / 3
    )


def test_a_class_without_samples_is_left_out_of_the_mean():
    confusion = classification.confusion_matrix(np.array([0, 0]), np.array([0, 1]), 3)
    recall = classification.recall_per_class(confusion)
    assert recall[0] == 0.5
    assert np.isnan(recall[1:]).all()
    assert classification.macro(recall, confusion) == 0.5
    assert classification.precision_per_class(confusion).tolist() == [1.0, 0.0, 0.0]


def test_per_class_scores_match_scikit_learn(drawn):
    labels, probabilities = drawn
    predictions = probabilities.argmax(axis=1)
    confusion = classification.confusion_matrix(labels, predictions, 4)
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(labels, predictions)
    assert confusion.tolist() == sklearn_metrics.confusion_matrix(labels, predictions).tolist()
    assert classification.precision_per_class(confusion) == pytest.approx(precision)
    assert classification.recall_per_class(confusion) == pytest.approx(recall)
    assert classification.f1_per_class(confusion) == pytest.approx(f1)


def test_auc_by_hand_counts_ties_one_half():
    # class 0: positives 0.8, 0.5 against negatives 0.5, 0.1 -> wins 1, 1, 1/2, 1 of 4; class 1 mirrors it
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    assert classification.auc_ovr(np.array([0, 0, 1, 1]), probabilities) == pytest.approx(3.5 / 4)


def test_auc_matches_scikit_learn(drawn):
    labels, probabilities = drawn
    rounded = probabilities.round(1)  # many ties
    expected = np.mean(
        [sklearn_metrics.roc_auc_score(labels == index, rounded[:, index]) for index in range(4)]
    )
    assert classification.auc_ovr(labels, rounded) == pytest.approx(expected)


def test_auc_of_one_class_has_no_meaning():
    assert math.isnan(classification.auc_ovr(np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]])))


def test_calibration_error_by_hand():
    # bin (0.9, 1]: confidence 0.95, accuracy 1/2; bin (0.5, 0.6]: confidence 0.6, accuracy 1
    confidences = np.array([0.95, 0.95, 0.6])
    correct = np.array([True, False, True])
    expected = 2 / 3 * 0.45 + 1 / 3 * 0.4
    assert classification.expected_calibration_error(confidences, correct, num_bins=10) == pytest.approx(
        expected
    )


def test_calibration_bins_are_closed_above():
    # 0.5 belongs to (0, 0.5]: the gaps +0.5 and -0.6 are in different bins and cannot cancel
    confidences = np.array([0.5, 0.6, 1.0])
    correct = np.array([True, False, True])
    expected = (0.5 + abs(-0.6 + 0.0)) / 3
    assert classification.expected_calibration_error(confidences, correct, num_bins=2) == pytest.approx(
        expected
    )


def test_perfectly_calibrated_single_precision_confidence_is_error_free():
    confidences = np.ones(5, dtype=np.float32)
    assert classification.expected_calibration_error(confidences, np.ones(5, dtype=bool)) == 0.0


@pytest.mark.parametrize("num_bins", [1, 5, 15])
def test_calibration_error_matches_torchmetrics(drawn, num_bins):
    labels, probabilities = drawn
    predictions, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    expected = torchmetrics.multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=4, n_bins=num_bins, norm="l1"
    )
    found = classification.expected_calibration_error(confidences, predictions == labels, num_bins)
    assert found == pytest.approx(expected.item(), abs=1e-6)


def test_macro_scores_match_torchmetrics_and_micro_ones_are_the_accuracy(drawn):
    """With one label a sample, every false positive is a false negative too: nothing to report apart."""
    labels, probabilities = drawn
    predictions = probabilities.argmax(axis=1)
    confusion = classification.confusion_matrix(labels, predictions, 4)
    for ours, theirs, public in (
        (classification.precision_per_class, torchmetrics.multiclass_precision, "precision_score"),
        (classification.recall_per_class, torchmetrics.multiclass_recall, "recall_score"),
        (classification.f1_per_class, torchmetrics.multiclass_f1_score, "f1_score"),
    ):
        expected = theirs(torch.tensor(predictions), torch.tensor(labels), num_classes=4, average="macro")
        assert classification.macro(ours(confusion), confusion) == pytest.approx(expected.item())
        micro = getattr(sklearn_metrics, public)(labels, predictions, average="micro")
        assert classification.accuracy(labels, predictions) == pytest.approx(micro)


def test_mean_auc_matches_torchmetrics(drawn):
    labels, probabilities = drawn
    expected = torchmetrics.multiclass_auroc(torch.tensor(probabilities), torch.tensor(labels), num_classes=4)
    assert classification.auc_ovr(labels, probabilities) == pytest.approx(expected.item(), abs=1e-6)


def test_aligned_values_are_the_most_over_represented():
    labels = ["cow"] * 4 + ["camel"] * 4
    values = ["grass", "grass", "grass", "sand", "sand", "sand", "grass", "snow"]
    assert classification.aligned_values(labels, values) == {"cow": "grass", "camel": "sand"}


def test_a_value_that_is_frequent_everywhere_is_nobodys_cue():
    # dark hair: 5 women of 9; fair hair: 5 women of 5. Both are mostly women, yet dark hair goes with men.
    labels = ["dark"] * 9 + ["fair"] * 5
    values = ["woman"] * 5 + ["man"] * 4 + ["woman"] * 5
    assert classification.aligned_values(labels, values) == {"dark": "man", "fair": "woman"}


def test_of_equally_aligned_values_the_first_is_taken():
    assert classification.aligned_values(["a", "a", "b"], ["x", "y", "z"]) == {"a": "x", "b": "z"}
    assert classification.aligned_values([], []) == {}


def test_worst_group_ignores_small_groups():
    correct = np.array([True, False, True, True, False])
    groups = ["a", "a", "b", "b", "c"]
    accuracies = classification.group_accuracy(correct, groups, min_group=2)
    assert accuracies == {"a": (0.5, 2), "b": (1.0, 2)}
    assert classification.worst_group(accuracies) == ("a", 0.5)
    assert classification.worst_group({}) is None


def test_cue_flip_rate():
    assert classification.cue_flip_rate(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])) == 0.5
