"""Insertion, deletion, comprehensiveness and sufficiency.

captum 0.9 has no such measure: its captum.metrics holds infidelity and max-sensitivity only. So the curves
are compared with a loop that exchanges one pixel after the other.
"""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from megl_core.metrics import faithfulness
from megl_core.metrics.faithfulness import perturbation_curves, relevance_ranks

ROW = torch.zeros(1, 10, 10)
ROW[:, 0] = 1.0
WHITE, BLACK = torch.ones(1, 1, 10, 10), torch.zeros(1, 1, 10, 10)
TARGET = torch.tensor([1])


def top_row(images):
    """A model that looks at a tenth of the image: p of class 1 is the brightness of the first row."""
    share = images[:, 0, 0].mean(dim=1)
    return torch.stack([1 - share, share], dim=1)


def scores(maps, images=WHITE, target=TARGET, **settings):
    black = BLACK.expand_as(images)
    curves = perturbation_curves(top_row, images, maps, target, baseline=black, **settings)
    return [
        measure(curves).tolist()
        for measure in (
            faithfulness.insertion_auc,
            faithfulness.deletion_auc,
            faithfulness.comprehensiveness,
            faithfulness.sufficiency,
        )
    ]


def test_a_perfect_map_by_hand():
    # p falls from 1 to 0 over the first tenth: area .1 / 2. At 1, 5, 10, 20, 50 % it is .9, .5, 0, 0, 0.
    insertion, deletion, comprehensiveness, sufficiency = scores(ROW)
    assert deletion == pytest.approx([0.05])
    assert insertion == pytest.approx([0.95])
    assert comprehensiveness == pytest.approx([(0.1 + 0.5 + 3) / 5])
    assert sufficiency == pytest.approx([(0.9 + 0.5) / 5])


def test_an_inverted_map_by_hand():
    # p falls over the last tenth only, after every share that ERASER looks at
    insertion, deletion, comprehensiveness, sufficiency = scores(-ROW)
    assert deletion == pytest.approx([0.95])
    assert insertion == pytest.approx([0.05])
    assert comprehensiveness == [0.0]
    assert sufficiency == [1.0]


def test_a_model_that_never_changes_its_mind_gives_every_map_the_same():
    def certain(images):
        return torch.tensor([[0.25, 0.75]]).expand(len(images), 2)

    curves = perturbation_curves(certain, WHITE, ROW, TARGET)
    assert faithfulness.insertion_auc(curves).tolist() == pytest.approx([0.75])
    assert faithfulness.deletion_auc(curves).tolist() == pytest.approx([0.75])
    assert faithfulness.comprehensiveness(curves).tolist() == [0.0]
    assert faithfulness.sufficiency(curves).tolist() == [0.0]


def test_only_the_order_of_a_map_counts():
    maps = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(0))
    assert scores(maps) == scores(maps.exp() * 100 - 7)


def test_each_sample_has_its_own_target_and_map():
    both = scores(torch.cat([ROW, -ROW]), WHITE.expand(2, 1, 10, 10), torch.tensor([1, 0]))
    # class 0 has no probability in the white image, and all of it once the first row is black
    assert both[0] == pytest.approx([0.95, 0.95])
    assert both[1] == pytest.approx([0.05, 0.05])
    assert both[2] == pytest.approx([0.72, 0.0])
    assert both[3] == pytest.approx([0.28, -1.0])


def test_a_constant_map_removes_scattered_pixels():
    """p is linear here, so that both areas add up to 1, and a random order leaves each near a half."""
    insertion, deletion, _, _ = scores(torch.zeros(1, 10, 10))
    assert insertion[0] + deletion[0] == pytest.approx(1.0)
    assert 0.35 < insertion[0] < 0.65
    assert scores(torch.full((1, 10, 10), 3.0))[0] == insertion


def test_nan_comes_last():
    holed = torch.ones(1, 10, 10)
    holed[:, 0] = torch.nan
    assert scores(holed) == scores(-ROW)
    everywhere = torch.full((1, 10, 10), torch.nan)
    assert scores(everywhere) == scores(torch.zeros(1, 10, 10))


def test_ranks_are_a_permutation_and_ties_have_no_direction():
    maps = torch.tensor([[[0.0, 5.0, 0.0], [0.0, 0.0, torch.inf], [-torch.inf, 0.0, 0.0]]])
    ranks = relevance_ranks(maps)
    assert sorted(ranks.flatten().tolist()) == list(range(9))
    assert (ranks[0, 1, 2], ranks[0, 0, 1], ranks[0, 2, 0]) == (0, 1, 8)
    flat = relevance_ranks(torch.zeros(1, 8, 8))[0]
    assert abs(np.corrcoef(flat.flatten(), np.arange(64))[0, 1]) < 0.3


def test_curves_match_exchanging_pixel_by_pixel():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(4 * 16, 3)
    ).eval()

    def predict(images):
        return network(images).softmax(dim=1)

    images, baseline = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    maps, target = torch.randn(2, 6, 6), torch.tensor([2, 0])
    curves = perturbation_curves(predict, images, maps, target, baseline=baseline, steps=4, batch_size=3)
    assert curves.shares.tolist() == pytest.approx([0, 0.01, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1])
    counts = [0, 0, 2, 4, 7, 9, 18, 27, 36]
    for sample in range(2):
        highest_first = sorted(
            ((y, x) for y in range(6) for x in range(6)), key=lambda cell: -maps[sample][cell].item()
        )
        for first, last, measured in (
            (images, baseline, curves.removed),
            (baseline, images, curves.kept),
        ):
            picture, expected = first[sample].clone(), []
            for exchanged in range(37):
                with torch.no_grad():
                    p = predict(picture[None])[0, target[sample]].item()
                expected += [p] * counts.count(exchanged)
                if exchanged < 36:
                    y, x = highest_first[exchanged]
                    picture[:, y, x] = last[sample, :, y, x]
            assert measured[sample].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_model_is_asked_in_batches_and_without_gradients():
    asked = []

    def predict(images):
        asked.append((len(images), images.dtype, torch.is_grad_enabled()))
        return top_row(images.float() / 255)

    images = torch.full((5, 1, 10, 10), 255, dtype=torch.uint8)
    perturbation_curves(predict, images, ROW.expand(5, 10, 10), TARGET.expand(5), steps=10, batch_size=4)
    sizes = [size for size, _, _ in asked]
    assert max(sizes) == 4
    assert sum(sizes) == 5 * (2 + 2 * 11)  # both ends once, 11 shares between them in both directions
    assert {(kind, grad) for _, kind, grad in asked} == {(torch.uint8, False)}


def test_batch_size_changes_nothing():
    maps = torch.rand(3, 10, 10)
    images, target = torch.rand(3, 1, 10, 10), TARGET.expand(3)
    one, all_ = (scores(maps, images, target, batch_size=size) for size in (1, 1000))
    assert np.array(one) == pytest.approx(np.array(all_), abs=1e-6)


def test_blur_matches_scipy():
    images = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    expected = gaussian_filter(images.numpy(), sigma=(0, 0, 3, 3), mode="mirror", radius=(0, 0, 9, 9))
    assert faithfulness.blurred(images).numpy() == pytest.approx(expected, abs=1e-5)


def test_blur_keeps_bytes_and_what_is_flat():
    grey = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(faithfulness.blurred(grey), grey)
    assert faithfulness.blurred(torch.rand(1, 1, 2, 2)).shape == (1, 1, 2, 2)
