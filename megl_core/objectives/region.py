"""L_reg: where nobody drew a mask, the rationale says roughly where the object is."""

from torch import Tensor

from megl_core.models.saliency import energy_form
from megl_core.objectives.reduce import masked_mean


def region_loss(saliency: Tensor, regions: Tensor, has_mask: Tensor) -> Tensor:
    """The share of positive evidence outside the region, over all samples with a region and without a mask.

    It is the energy loss with the region in the place of the mask: a region is larger than its object, so
    the loss says nothing of what happens inside.

    Args:
        saliency: (B, h, w) raw maps.
        regions: (B, h, w) bool; all true where the rationale says nothing of the place.
        has_mask: (B,) bool.

    Returns:
        A scalar in [0, 1], exact under data-parallel training; zero where no sample counts.
    """
    counts = ~has_mask & ~regions.flatten(1).all(dim=1)
    outside = 1 - (energy_form(saliency) * regions).sum(dim=(1, 2))
    return masked_mean(outside, counts)
