"""Background mixing: an annotated object before the background of another annotated image.

Whatever lies outside the mask has nothing to do with the class, so it may be exchanged: a cue that
travels with the background no longer tells the label. The other image's object is taken out first, by
its own mask, lest the picture show two objects and carry the label of one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def mix_background(image: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """The marked pixels of `image` (3, S, S) before `background` (3, S, S); `mask` (S, S), all uint8."""
    return torch.where(mask > 0, image, background)


def remove_object(image: Tensor, mask: Tensor) -> Tensor:
    """`image` (3, S, S) uint8 without what `mask` (S, S) marks, filled from its surroundings.

    Push-pull interpolation (Gortler et al., "The Lumigraph", SIGGRAPH 1996): means of the known pixels on
    coarser and coarser grids, enlarged again wherever nothing is known. A rim of one pixel goes with the
    object, for its colour bleeds into it. Where everything is marked the image's mean colour remains.
    """
    marked = F.max_pool2d((mask > 0).float()[None, None], 3, stride=1, padding=1)
    pixels = image.float()[None]
    filled = _fill(pixels, 1 - marked, pixels.mean(dim=(2, 3), keepdim=True))
    return filled[0].round().clamp(0, 255).to(torch.uint8)


def _fill(pixels: Tensor, known: Tensor, otherwise: Tensor) -> Tensor:
    """(1, 3, H, W) with every pixel that is not known, (1, 1, H, W) in {0, 1}, taken from a coarser grid."""
    if bool(known.all()):
        return pixels
    if known.shape[-1] == 1:
        return torch.where(known > 0, pixels, otherwise)
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    means = F.avg_pool2d(pixels * known, 2, ceil_mode=True) / weight.clamp(min=1e-6)
    coarse = _fill(means, (weight > 0).float(), otherwise)
    enlarged = F.interpolate(coarse, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, pixels, enlarged)
