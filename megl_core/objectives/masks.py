"""Masks at the resolution of a map."""

from torch import Tensor
from torch.nn import functional as F


def pool_masks(masks: Tensor, side: int) -> Tensor:
    """The marked share of each cell: masks (B, S, S) in [0, 1] to (B, side, side) in [0, 1]."""
    return F.adaptive_avg_pool2d(masks[:, None], side)[:, 0]
