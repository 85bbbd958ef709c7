"""L_reg: where nobody drew a mask, the rationale says roughly where the object is."""

from torch import Tensor

from megl_core.models.saliency import energy_form
from megl_core.objectives.reduce import masked_mean


def says_where(regions: Tensor, has_mask: Tensor) -> Tensor:
    """(B,) bool: the samples without a mask whose region (B, h, w) leaves something out."""
    return ~has_mask & ~regions.flatten(1).all(dim=1)


def region_loss(saliency: Tensor, regions: Tensor, has_mask: Tensor, count: Tensor | None = None) -> Tensor:
    """The share of positive evidence outside the region, over all samples with a region and without a mask.

    It is the energy loss with the region in the place of the mask: a region is larger than its object, so
    the loss says nothing of what happens inside.

    Args:
        saliency: (B, h, w) raw maps.
        regions: (B, h, w) bool; all true where the rationale says nothing of the place.
        has_mask: (B,) bool.
        count: how many samples count in the whole step; None: those of all processes.

    Returns:
        A scalar in [0, 1], exact under data-parallel training; zero where no sample counts.
    """
    outside = 1 - (energy_form(saliency) * regions).sum(dim=(1, 2))
    return masked_mean(outside, says_where(regions, has_mask), count)
