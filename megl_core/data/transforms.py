"""Pixels to tensors: resize, joint shifts of image and mask."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image


def image_to_tensor(image: "Image", size: int) -> Tensor:
    """A picture as (3, size, size) uint8; the aspect ratio is not kept, so nothing is cut off."""
    from PIL import Image

    rgb = image.convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(rgb).transpose(2, 0, 1).copy())


def mask_to_tensor(mask: NDArray[np.bool_], size: int) -> Tensor:
    """A mask (H, W) as (size, size) uint8 in 0..255: the marked share of each pixel's area."""
    from PIL import Image

    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.array(picture))


def shift(images: Tensor, masks: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Translate images (B, 3, S, S) and their masks (B, S, S) by `offsets` (B, 2) pixels down and right.

    Uncovered image pixels repeat the border; uncovered mask pixels are unmarked.
    """
    reach = int(offsets.abs().max())
    if reach == 0:
        return images, masks
    size = images.shape[-1]
    wide_images = F.pad(images.float(), (reach,) * 4, mode="replicate").to(images.dtype)
    wide_masks = F.pad(masks, (reach,) * 4)
    steps = torch.arange(size, device=images.device)
    rows = (reach - offsets[:, :1] + steps)[:, :, None]
    columns = (reach - offsets[:, 1:] + steps)[:, None, :]
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return wide_images[sample, :, rows, columns].permute(0, 3, 1, 2), wide_masks[sample, rows, columns]
