"""L_dist: maps of images without a mask should be distributed like the masks of the others.

| kind | what is compared | what it says |
|---|---|---|
| `marginal` | mean sorted curves | how large and how peaked maps are, and nothing of where they look |
| `class` | the same for each class | as `marginal`, where the classes' objects differ in size |
| `spatial` | mean maps | where maps look on average, for data whose objects have a usual place |

U are the samples of the global batch without a mask. Every process computes the same value.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from megl_core.config import ConsistencyKind
from megl_core.models.saliency import display_form, energy_form
from megl_core.objectives.reduce import global_sum

PSEUDO_COUNT = 8.0
"""A class counts as if it had so many masks more, with the curve of all classes."""
FLOOR = 0.01
"""Uniform share that is added to mean maps, so that their logarithms exist."""

ConsistencyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


def sorted_curve(maps: Tensor) -> Tensor:
    """Each map's values relative to its maximum, from the largest down: (B, h, w) to (B, P)."""
    return display_form(maps).flatten(1).sort(dim=1, descending=True).values


def marginal_loss(
    saliency: Tensor, unannotated: Tensor, labels: Tensor, reference: Tensor, others: Tensor | None = None
) -> Tensor:
    """mean_k |mean_{i in U} q_ik - Q_k| for sorted curves q.

    Args:
        saliency: (B, h, w) raw maps.
        unannotated: (B,) 1 where the sample is in U, else 0.
        labels: (B,) class indices.
        reference: (P,) Q, the mean sorted curve of the annotated training masks.
        others: `unannotated_sums` of the samples of this process's other micro-batches, if there are any.

    Returns:
        A scalar; zero with zero gradients where U is empty on all processes.
    """
    (mean,), (count,) = _means("marginal", saliency, unannotated, labels, reference, others)
    distance = (mean - reference).abs().mean()
    return distance * (count > 0)


def class_loss(
    saliency: Tensor, unannotated: Tensor, labels: Tensor, reference: Tensor, others: Tensor | None = None
) -> Tensor:
    """sum_c |U_c| / |U| mean_k |mean_{i in U_c} q_ik - Q_ck|, U_c being those of class c in U.

    Args and returns as `marginal_loss`, except that the reference is (C, P), a curve for each class.
    """
    means, counts = _means("class", saliency, unannotated, labels, reference, others)
    distances = (means - reference).abs().mean(dim=1)
    return (counts * distances).sum() / counts.sum().clamp(min=1)


def spatial_loss(
    saliency: Tensor, unannotated: Tensor, labels: Tensor, reference: Tensor, others: Tensor | None = None
) -> Tensor:
    """KL(p || r) of p, the mean energy form over U, from r, that of the annotated training masks.

    Args and returns as `marginal_loss`, except that the reference is r (P,), positive and summing to 1.
    """
    (mean,), (count,) = _means("spatial", saliency, unannotated, labels, reference, others)
    share = _distribution(mean)
    divergence = (share * (share / reference).log()).sum()
    return divergence * (count > 0)


CONSISTENCIES: Mapping[ConsistencyKind, ConsistencyLoss] = {
    "marginal": marginal_loss,
    "class": class_loss,
    "spatial": spatial_loss,
}


def reference_statistics(kind: ConsistencyKind, cells: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """What a kind compares with, from the annotated training masks.

    A class of n masks has the curve (n mean_c + 8 Q) / (n + 8): with few masks it is about that of all.

    Args:
        kind: which loss it is for.
        cells: (N, h, w) in [0, 1], the marked share of each cell, N > 0.
        labels: (N,) class indices.
        num_classes: C.

    Returns:
        Q (P,) for `marginal`, (C, P) for `class`, r (P,) for `spatial`.
    """
    if kind == "spatial":
        return _distribution(energy_form(cells).flatten(1).mean(dim=0))
    curves = sorted_curve(cells)
    marginal = curves.mean(dim=0)
    if kind == "marginal":
        return marginal
    totals = torch.zeros(num_classes, curves.shape[1]).index_add(0, labels, curves)
    counts = labels.bincount(minlength=num_classes)[:, None]
    return (totals + PSEUDO_COUNT * marginal) / (counts + PSEUDO_COUNT)


def unannotated_sums(
    kind: ConsistencyKind, saliency: Tensor, unannotated: Tensor, labels: Tensor, reference: Tensor
) -> Tensor:
    """What samples add to the statistics of U, (G, P + 1): each group's sum of rows, and their number.

    The groups are the C classes for `class`, else U as a whole. Arguments as for the kind's loss.
    """
    rows = energy_form(saliency).flatten(1) if kind == "spatial" else sorted_curve(saliency)
    member = unannotated.bool()[:, None]
    if kind == "class":
        member = member & (labels[:, None] == torch.arange(len(reference), device=labels.device))
    counted = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    return member.to(rows.dtype).T @ counted


def _means(
    kind: ConsistencyKind,
    saliency: Tensor,
    unannotated: Tensor,
    labels: Tensor,
    reference: Tensor,
    others: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Means (G, P) of the groups over all processes, zero for empty ones, and their sizes (G,)."""
    sums = unannotated_sums(kind, saliency, unannotated, labels, reference)
    sums = global_sum(sums if others is None else sums + others)
    counts = sums[:, -1].detach()  # they depend on no map
    return sums[:, :-1] / counts.clamp(min=1)[:, None], counts


def _distribution(mean: Tensor) -> Tensor:
    """A mean map (P,) as positive shares that sum to 1."""
    share = mean + FLOOR / len(mean)
    return share / share.sum()
