import numpy as np
import pytest
from PIL import Image

from megl_core.explain.drawing import colourise, fit, outline, overlay, resize_map


def test_maps_grow_bilinearly():
    grown = resize_map(np.array([[0.0, 1.0]]), width=4, height=2)
    assert grown == pytest.approx(np.array([[0.0, 0.25, 0.75, 1.0]] * 2))
    grown += 1  # the result is the caller's own


def test_maps_shrink_by_averaging():
    checkers = np.indices((8, 8)).sum(axis=0) % 2
    assert resize_map(checkers, width=2, height=2) == pytest.approx(0.5, abs=0.02)


def test_more_heat_is_always_lighter():
    colours = colourise(np.linspace(0, 1, 101)[None])[0].astype(float)
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    assert colourise(np.array([[-1.0, 2.0]])).tolist() == colourise(np.array([[0.0, 1.0]])).tolist()


def test_tiny_pictures_keep_their_pixels():
    tiny = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    pixels = np.asarray(fit(tiny, 320))
    assert pixels.shape == (160, 320, 3)
    assert (pixels[:, :160] == [255, 0, 0]).all()
    assert (pixels[:, 160:] == [0, 0, 255]).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 320), (320, 160)), ((10, 1000), (3, 320)), ((1, 9999), (1, 320))]
)
def test_fit_keeps_the_aspect_ratio(size, expected):
    assert fit(Image.new("RGB", size), 320).size == expected


def test_no_heat_leaves_a_grey_picture():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8))
    cold = np.asarray(overlay(picture, np.zeros((2, 2))))
    assert (cold[..., 0] == cold[..., 1]).all()
    hot = np.zeros((8, 8))
    hot[3, 5] = 1.0
    changed = (np.asarray(overlay(picture, hot)) != cold).any(axis=2)
    assert np.argwhere(changed).tolist() == [[3, 5]]


def test_the_outline_lies_on_both_sides_of_the_border():
    mask = np.zeros((12, 12), dtype=bool)
    mask[3:9, 3:9] = True
    picture = Image.new("RGB", (12, 12), (100, 100, 100))
    pixels = np.asarray(outline(picture, mask))[..., 0]
    assert pixels[6].tolist() == [100, 100, 0, 255, 255, 100, 100, 255, 255, 0, 100, 100]


def test_a_mask_that_touches_the_edge_is_closed_there():
    pixels = np.asarray(outline(Image.new("RGB", (6, 6), (100, 100, 100)), np.ones((6, 6), dtype=bool)))[
        ..., 0
    ]
    assert pixels[2].tolist() == [255, 255, 100, 100, 255, 255]
