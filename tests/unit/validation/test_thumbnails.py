"""Thumbnails: small, with the mask visible, and never a traceback for a broken file."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from megl_core.validation.thumbnails import Thumbnail, thumbnail

GREY = (100, 100, 100)
TINTED = (177, 50, 130)  # halfway from grey to (255, 0, 160)
FRAME = (255, 0, 160)


def row(**change: Any) -> dict[Any, Any]:
    return {"id": "a", "label": "cup", "image": "a.png", "mask": "m.png"} | change


def pixels_of(shown: Thumbnail) -> "np.ndarray":
    content = base64.b64decode(str(shown.uri).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def draw(folder: Path, size: tuple[int, int], marked: tuple[slice, slice]) -> None:
    Image.new("RGB", size, GREY).save(folder / "a.png")
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[marked] = True
    Image.fromarray(mask).save(folder / "m.png")


def test_marked_pixels_are_tinted_and_framed(tmp_path: Path) -> None:
    draw(tmp_path, (40, 30), (slice(10, 12), slice(20, 25)))
    pixels = pixels_of(thumbnail(tmp_path, row(), with_mask=True))

    assert pixels.shape == (30, 40, 3)
    tinted = np.argwhere(np.abs(pixels.astype(int) - TINTED).max(axis=2) <= 1)
    assert {tuple(point) for point in tinted} == {(y, x) for y in (10, 11) for x in range(20, 25)}
    framed = np.argwhere((pixels == FRAME).all(axis=2))
    assert (framed.min(axis=0).tolist(), framed.max(axis=0).tolist()) == ([7, 17], [14, 27])
    assert tuple(pixels[0, 0]) == GREY


def test_a_single_marked_pixel_survives_the_shrinking(tmp_path: Path) -> None:
    draw(tmp_path, (960, 480), (slice(203, 204), slice(507, 508)))
    shown = thumbnail(tmp_path, row(), with_mask=True)
    pixels = pixels_of(shown)

    assert (shown.width, shown.height) == (96, 48)
    assert np.abs(pixels[20, 50].astype(int) - TINTED).max() <= 1


def test_an_empty_mask_marks_nothing(tmp_path: Path) -> None:
    draw(tmp_path, (8, 8), (slice(0, 0), slice(0, 0)))
    assert (pixels_of(thumbnail(tmp_path, row(), with_mask=True)) == GREY).all()


def test_without_mask_the_picture_stays_as_it_is(tmp_path: Path) -> None:
    draw(tmp_path, (8, 8), (slice(0, 8), slice(0, 8)))
    assert (pixels_of(thumbnail(tmp_path, row(), with_mask=False)) == GREY).all()
    assert (pixels_of(thumbnail(tmp_path, row(mask=None), with_mask=True)) == GREY).all()


@pytest.mark.parametrize(
    ("size", "shown"), [((32, 32), (96, 96)), ((40, 30), (80, 60)), ((97, 50), (96, 49)), ((1, 300), (1, 96))]
)
def test_sizes_on_the_page(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    picture = thumbnail(tmp_path, row(), with_mask=False)
    assert (picture.width, picture.height) == shown


def test_a_broken_mask_leaves_the_picture_and_says_why(tmp_path: Path) -> None:
    draw(tmp_path, (8, 8), (slice(0, 1), slice(0, 1)))
    (tmp_path / "m.png").write_bytes(b"")
    shown = thumbnail(tmp_path, row(), with_mask=True)

    assert shown.uri is not None
    assert shown.reason == "mask: the file is empty"


def test_a_broken_picture_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"GIF8, but no")
    shown = thumbnail(tmp_path, row(), with_mask=False)

    assert shown.uri is None
    assert shown.reason is not None
    assert "not an image" in shown.reason
