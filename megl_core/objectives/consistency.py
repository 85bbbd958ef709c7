"""L_dist: maps of images without a mask should be distributed like the masks of the others.

The sorted values of a map say how large and how peaked it is and nothing of where it looks, so the term
constrains images whose mask nobody drew.
"""

import torch
from torch import Tensor

from megl_core.models.saliency import display_form
from megl_core.objectives.reduce import global_sum


def sorted_curve(maps: Tensor) -> Tensor:
    """Each map's values relative to its maximum, from the largest down: (B, h, w) to (B, P)."""
    return display_form(maps).flatten(1).sort(dim=1, descending=True).values


def distribution_loss(saliency: Tensor, unannotated: Tensor, reference: Tensor) -> Tensor:
    """mean_k |mean_{i in U} q_ik - Q_k| over the global batch; the same value on every process.

    Args:
        saliency: (B, h, w) raw maps.
        unannotated: (B,) 1 where the sample has no mask (it is in U), else 0.
        reference: (P,) Q, the mean sorted curve of the annotated training masks.

    Returns:
        A scalar; zero with zero gradients where U is empty on all processes.
    """
    member = unannotated.to(saliency.dtype)
    total = global_sum((sorted_curve(saliency) * member[:, None]).sum(dim=0))
    count = global_sum(member.sum().detach())
    distance = (total / count.clamp(min=1) - reference).abs().mean()
    return torch.where(count > 0, distance, total.sum() * 0.0)
