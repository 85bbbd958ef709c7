"""Heat maps and masks drawn on pictures, with Pillow alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Equal steps of heat are about equal steps of lightness, dark violet to light yellow.
_COLOURS = np.array(
    [
        (14, 8, 46),
        (56, 16, 102),
        (103, 24, 122),
        (150, 38, 118),
        (196, 57, 98),
        (230, 90, 66),
        (246, 135, 42),
        (249, 187, 62),
        (252, 238, 150),
    ],
    dtype=np.float64,
)
_NEAREST_FROM = 3.0

HeatMap = NDArray[np.floating[Any]]


def resize_map(heat_map: HeatMap, width: int, height: int) -> NDArray[np.float32]:
    """A map (h, w) at another size (height, width): bilinear, and area-weighted where it shrinks."""
    picture = Image.fromarray(heat_map.astype(np.float32))
    return np.array(picture.resize((width, height), Image.Resampling.BILINEAR))


def colourise(heat_map: HeatMap) -> NDArray[np.uint8]:
    """Heat (H, W) in [0, 1] as colours (H, W, 3)."""
    position = np.clip(heat_map, 0.0, 1.0) * (len(_COLOURS) - 1)
    stops = np.arange(len(_COLOURS))
    channels = [np.interp(position, stops, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def fit(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that its longer side is `side` pixels; tiny ones keep their pixels visible."""
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    nearest = factor >= _NEAREST_FROM
    return image.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC)


def overlay(image: Image.Image, heat_map: HeatMap) -> Image.Image:
    """The greyed picture with heat (any size, in [0, 1]) laid over it: the hotter, the more opaque."""
    heat = resize_map(heat_map, *image.size)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None] * 0.8 + 25.0
    opacity = 0.8 * np.clip(heat, 0.0, 1.0)[..., None] ** 0.6
    blended = grey * (1.0 - opacity) + colourise(heat) * opacity
    return Image.fromarray(blended.round().astype(np.uint8))


def outline(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The picture with the marked region (any size, bool) edged white inside and black outside."""
    marked = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    core = _shrink(_shrink(marked))
    around = marked.filter(ImageFilter.MaxFilter(3))
    pixels = np.array(image.convert("RGB"))
    pixels[(np.asarray(around) > 0) & (np.asarray(marked) == 0)] = 0
    pixels[(np.asarray(marked) > 0) & (np.asarray(core) == 0)] = 255
    return Image.fromarray(pixels)


def _shrink(marked: Image.Image) -> Image.Image:
    """One pixel less on every side; beyond the picture's edge counts as unmarked."""
    framed = Image.new("L", (marked.width + 2, marked.height + 2))
    framed.paste(marked, (1, 1))
    return framed.filter(ImageFilter.MinFilter(3)).crop((1, 1, marked.width + 1, marked.height + 1))
