"""How well classes are predicted: from true and predicted class indices and probabilities.

N samples, C classes. Where a value has no meaning (recall of a class that never occurs) it is NaN.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Hashable)


def accuracy(labels: Ints, predictions: Ints) -> float:
    """Share of samples whose prediction (N,) is the label (N,); in [0, 1]."""
    return float(np.mean(labels == predictions)) if len(labels) else float("nan")


def confusion_matrix(labels: Ints, predictions: Ints, num_classes: int) -> NDArray[np.int64]:
    """Counts (C, C): row i, column j holds the samples of class i that were predicted as class j."""
    flat = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FP) for each class (C,), in [0, 1]; 0 for a class that was never predicted."""
    hits = np.diag(confusion)
    return hits / np.maximum(confusion.sum(axis=0), 1)


def recall_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FN) for each class (C,), in [0, 1]; NaN for a class without samples."""
    support = confusion.sum(axis=1)
    return np.where(support > 0, np.diag(confusion) / np.maximum(support, 1), np.nan)


def f1_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN) for each class (C,), in [0, 1]; NaN for a class without samples."""
    support = confusion.sum(axis=1)
    total = support + confusion.sum(axis=0)
    return np.where(support > 0, 2 * np.diag(confusion) / np.maximum(total, 1), np.nan)


def macro(per_class: Floats, confusion: NDArray[np.int64]) -> float:
    """Unweighted mean of a per-class score (C,) over the classes that have samples."""
    present = confusion.sum(axis=1) > 0
    return float(per_class[present].mean()) if present.any() else float("nan")


def auc_ovr(labels: Ints, probabilities: Floats) -> float:
    """Area under the ROC curve, each class against the rest, averaged over classes; in [0, 1].

    For one class this is the Mann-Whitney statistic: the chance that a random sample of the class
    has a higher probability (N, C) for it than a random other sample, ties counting one half
    (Hanley and McNeil, Radiology 1982). Classes that all or no samples belong to are left out;
    NaN if no class remains.
    """
    areas = [_auc(labels == index, probabilities[:, index]) for index in range(probabilities.shape[1])]
    areas = [area for area in areas if not np.isnan(area)]
    return float(np.mean(areas)) if areas else float("nan")


def _auc(positive: NDArray[np.bool_], scores: Floats) -> float:
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    rank_sum = _mid_ranks(scores)[positive].sum()
    wins = rank_sum - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def _mid_ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]


def expected_calibration_error(confidences: Floats, correct: NDArray[np.bool_], num_bins: int = 15) -> float:
    """Gap between confidence and accuracy, averaged over equal-width bins of confidence; in [0, 1].

    sum_b n_b / N * |accuracy_b - mean confidence_b| with bins (lower, upper] of the confidence (N,)
    of the predicted class (Naeini et al., AAAI 2015; Guo et al., ICML 2017).
    """
    if not len(confidences):
        return float("nan")
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.digitize(confidences, edges, right=True) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidences.astype(np.float64), minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def group_accuracy(
    correct: NDArray[np.bool_], groups: Sequence[Key], min_group: int = 1
) -> dict[Key, tuple[float, int]]:
    """`{group: (accuracy, n)}` of each group with at least `min_group` samples, in order of appearance.

    `groups` (N,) names the group of each sample, usually (label, value of a column) pairs
    (Sagawa et al., ICLR 2020).
    """
    members: dict[Key, list[bool]] = defaultdict(list)
    for group, is_correct in zip(groups, correct, strict=True):
        members[group].append(bool(is_correct))
    return {
        group: (sum(hits) / len(hits), len(hits)) for group, hits in members.items() if len(hits) >= min_group
    }


def worst_group(accuracies: dict[Key, tuple[float, int]]) -> tuple[Key, float] | None:
    """The group with the lowest accuracy and that accuracy, or None where there is no group."""
    if not accuracies:
        return None
    worst = min(accuracies, key=lambda group: accuracies[group][0])
    return worst, accuracies[worst][0]


def aligned_values(labels: Sequence[Key], values: Sequence[Value]) -> dict[Key, Value]:
    """For each label the value of a cue that goes with it: the most over-represented one.

    That is the value whose share among the label's samples exceeds its mean share over all labels by
    most; of several the one seen first. `labels` and `values` (N,) belong to the training samples.
    """
    counts: dict[Key, Counter[Value]] = defaultdict(Counter)
    for label, value in zip(labels, values, strict=True):
        counts[label][value] += 1
    shares = {
        label: {value: count / seen.total() for value, count in seen.items()}
        for label, seen in counts.items()
    }
    excess = {
        label: {value: share - _mean_share(shares, value) for value, share in own.items()}
        for label, own in shares.items()
    }
    return {label: max(own, key=own.__getitem__) for label, own in excess.items()}


def _mean_share(shares: dict[Key, dict[Value, float]], value: Value) -> float:
    return sum(own.get(value, 0.0) for own in shares.values()) / len(shares)


def cue_flip_rate(predictions: Ints, twin_predictions: Ints) -> float:
    """Share of pairs whose prediction differs, in [0, 1]; 0 is best.

    The two images of a pair differ only in a cue that has nothing to do with the class.
    """
    return float(np.mean(predictions != twin_predictions)) if len(predictions) else float("nan")
