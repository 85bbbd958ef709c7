"""Small pictures of dataset rows for a page; what cannot be shown says why."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from megl_core.data.images import decode_image, decode_mask, encode_png, read_file
from megl_core.errors import DataError
from megl_core.files import resolve_inside
from megl_core.html import data_uri

MAX_SIDE = 96
_TINT = (255, 0, 160)
_TINT_WEIGHT = 0.5
_FRAME_GAP = 3


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as a data URI, or the reason why there is none."""

    alt: str
    width: int = 0
    """On the page; a tiny picture is shown enlarged by a whole number."""
    height: int = 0
    uri: Markup | None = None
    reason: str | None = None
    """Why the picture (or, beside a picture, its mask) is not shown."""


def thumbnail(dataset: Path, row: Mapping[Hashable, Any], with_mask: bool) -> Thumbnail:
    """The picture of a manifest row, at most 96 pixels a side, its marked pixels tinted if `with_mask`.

    A broken file never raises: the reason takes the place of the picture.
    """
    alt = f"image {row['id']}, label {row['label']}"
    try:
        image = decode_image(read_file(resolve_inside(dataset, str(row["image"]))))
    except DataError as error:
        return Thumbnail(alt, reason=error.what)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    scale = MAX_SIDE // max(image.size)
    reason = None
    if with_mask and isinstance(row["mask"], str):
        try:
            marked = decode_mask(read_file(resolve_inside(dataset, row["mask"])))
            image = _show_mask(image, marked)
            alt += ", marked pixels tinted and framed"
        except DataError as error:
            reason = f"mask: {error.what}"
    uri = data_uri(encode_png(np.asarray(image)), "image/png")
    return Thumbnail(alt, scale * image.width, scale * image.height, uri, reason)


def _show_mask(image: Image.Image, marked: NDArray[np.bool_]) -> Image.Image:
    """The picture with the mask, stretched to its size, tinted and framed: a single pixel is found."""
    area = Image.fromarray(marked.astype(np.float32)).resize(image.size, Image.Resampling.BOX)
    inside = np.asarray(area) > 0  # any part of the pixel
    tinted = Image.blend(image, Image.new("RGB", image.size, _TINT), _TINT_WEIGHT)
    shown = Image.composite(tinted, image, Image.fromarray(inside))
    if box := Image.fromarray(inside).getbbox():
        left, top, right, bottom = box
        frame = (left - _FRAME_GAP, top - _FRAME_GAP, right + _FRAME_GAP - 1, bottom + _FRAME_GAP - 1)
        ImageDraw.Draw(shown).rectangle(frame, outline=_TINT)
    return shown
