"""L_vis: the map's energy belongs inside the mask."""

from torch import Tensor

from megl_core.models.saliency import energy_form


def energy_loss(saliency: Tensor, masks: Tensor) -> Tensor:
    """1 - sum_{p in A} pi_E_p, the share of positive evidence outside the mask, for each sample.

    Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023.

    Args:
        saliency: (B, h, w) raw maps.
        masks: (B, h, w) in [0, 1], pooled to the map.

    Returns:
        (B,) in [0, 1]; a map without any positive evidence costs 1.
    """
    return 1 - (energy_form(saliency) * masks).sum(dim=(1, 2))
