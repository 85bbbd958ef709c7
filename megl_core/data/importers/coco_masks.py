"""COCO segmentations as pixels: polygons, and run-length codes plain or compressed."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from megl_core.data.images import MAX_PIXELS
from megl_core.errors import DataError

Mask = NDArray[np.bool_]


def draw_masks(segmentations: Iterable[Any], *, width: int, height: int) -> Mask | None:
    """The union (height, width) of segmentations, or None if there are none (annotations with a box only).

    Raises:
        DataError: a segmentation is malformed, or the canvas is larger than any image we would decode.
    """
    if width * height > MAX_PIXELS:
        raise DataError(f"too many pixels: {width} x {height}, the limit is {MAX_PIXELS}")
    given = [segmentation for segmentation in segmentations if segmentation]
    if not given:
        return None
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    union = np.zeros((height, width), dtype=bool)
    for segmentation in given:
        if isinstance(segmentation, list):
            for polygon in segmentation:
                draw.polygon(_points(polygon), fill=1)
        else:
            union |= _decode_runs(segmentation, width, height)
    return union | np.asarray(canvas)


def _points(polygon: Any) -> list[float]:
    numbers = isinstance(polygon, list) and all(isinstance(value, int | float) for value in polygon)
    if not numbers or len(polygon) < 6 or len(polygon) % 2:
        raise DataError("a polygon must be a list of at least three x, y pairs")
    if not all(abs(value) <= MAX_PIXELS for value in polygon):  # no side is longer; NaN is not smaller
        raise DataError("a polygon has a corner that is no finite number, or is far outside of any image")
    return list(polygon)


def _decode_runs(segmentation: Any, width: int, height: int) -> Mask:
    """A run-length code: lengths of alternating runs of 0 and 1, column by column."""
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise DataError(f"a run-length code must have the image's size [{height}, {width}]")
    counts: Any = segmentation.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise DataError("a run-length code must hold a list of lengths, or their compressed form")
    if sum(runs) != width * height:
        raise DataError(f"a run-length code covers {sum(runs)} pixels of {width * height}")
    marked = np.arange(len(runs)) % 2 == 1
    return np.repeat(marked, runs).reshape(width, height).T


def _decompress(code: str) -> list[int]:
    """COCO's compressed counts: base-32 digits from '0', least first; from the fourth on, each is the
    difference to the one before the last.

    Bit 5 of a digit says that more digits follow; bit 4 of the last digit is the sign.
    """
    runs: list[int] = []
    value = shift = 0
    for character in code:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise DataError(f"{character!r} cannot occur in a compressed run-length code")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
