"""Phrases to regions: learnt from annotated images, or known."""

import pytest
import torch

from megl_core.data.regions import learned_regions, lexicon_regions

SIDE = 6


def _mask(row: int, column: int) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 1
    return mask


def test_words_learn_their_place_from_annotated_images() -> None:
    places = [(row, column) for row in range(2) for column in range(2)] * 3
    sentences = [
        (f"a red ball {('aloft', 'below')[row]} {('port', 'starboard')[column]}",) for row, column in places
    ]
    unseen = [("a blue ball below port",), ("a red ball aloft starboard",)]
    masks = torch.stack([_mask(*place) for place in places])

    regions = learned_regions([*sentences, *unseen], range(len(places)), masks, mass=0.9)

    for index, place in ((12, (1, 0)), (13, (0, 1))):
        inside = _mask(*place).bool()
        assert regions[index][inside].float().mean() > 0.9
        assert regions[index][~inside].float().mean() < 0.5


def test_an_image_without_telling_words_gets_the_cells_where_masks_lie() -> None:
    masks = torch.stack([_mask(0, 0), _mask(0, 1)] * 4)
    texts = [("left thing",), ("right thing",)] * 4

    region = learned_regions([*texts, ("unheard of",), ()], range(8), masks, mass=0.9)

    for silent in region[-2:]:
        assert silent[:3].float().mean() > 0.8
        assert silent[4:].float().mean() < 0.2  # the blur reaches one row down


def test_a_larger_mass_contains_a_smaller_one() -> None:
    masks = torch.stack([_mask(0, 0), _mask(1, 1)] * 3)
    texts = [("here",), ("there",)] * 3
    small = learned_regions(texts, range(6), masks, mass=0.5)
    large = learned_regions(texts, range(6), masks, mass=0.95)
    assert (small <= large).all()
    assert small.sum() < large.sum()
    assert learned_regions(texts, range(6), masks, mass=1.0).all()


def test_regions_do_not_depend_on_the_order_of_words_or_images() -> None:
    masks = torch.stack([_mask(0, 0), _mask(1, 1), _mask(0, 1)] * 2)
    texts = [("one two",), ("three four",), ("one four",)] * 2
    forward = learned_regions(texts, range(6), masks, mass=0.8)
    backward = learned_regions(texts[::-1], range(6), masks.flip(0), mass=0.8)
    assert torch.equal(forward, backward.flip(0))


@pytest.mark.parametrize(
    ("sentence", "rows", "columns"),
    [
        ("a ball in the upper left", (0, 1), (0, 1)),
        ("a ball, lower-right, large", (2, 3), (2, 3)),
        ("in the middle left there is a ball", (1, 2), (0, 1)),
        ("two bars cross in the middle; lower left", (2, 3), (0, 1)),
        ("a ball on the left", (0, 3), (0, 1)),
        ("top: a ball", (0, 1), (0, 3)),
        ("it lies in the centre", (1, 2), (1, 2)),
        ("a ball of centre parties", (0, 3), (0, 3)),
        ("a ball", (0, 3), (0, 3)),
    ],
)
def test_the_lexicon_knows_spatial_words(
    sentence: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = True
    assert torch.equal(lexicon_regions([(sentence,)], 4)[0], expected)
