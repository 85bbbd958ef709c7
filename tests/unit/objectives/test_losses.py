"""Every loss against values worked out by hand, and gradients against finite differences."""

import math

import pytest
import torch

from megl_core.config import ObjectiveConfig
from megl_core.models.decoder import Words
from megl_core.models.megl import Output
from megl_core.objectives.alignment import energy_loss
from megl_core.objectives.consistency import distribution_loss, sorted_curve
from megl_core.objectives.objective import Objective, Targets, pool_masks, reference_curve
from megl_core.objectives.text import token_losses


def test_energy_by_hand() -> None:
    saliency = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    masks = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert torch.allclose(energy_loss(saliency, masks), torch.tensor([0.25, 1.0]), atol=1e-5)


def test_energy_counts_a_partly_marked_cell_in_part() -> None:
    saliency = torch.tensor([[[2.0, 2.0]]])
    assert energy_loss(saliency, torch.tensor([[[0.5, 0.0]]])).item() == pytest.approx(0.75, abs=1e-5)


def test_distribution_by_hand() -> None:
    saliency = torch.tensor([[[4.0, 2.0], [0.0, -1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    curves = sorted_curve(saliency)
    assert torch.allclose(curves[0], torch.tensor([1.0, 0.5, 0.0, 0.0]), atol=1e-5)
    reference = torch.tensor([1.0, 1.0, 0.5, 0.0])
    # Both in U: the mean curve is (1, .75, .5, .5), off by (0, .25, 0, .5).
    both = distribution_loss(saliency, torch.tensor([True, True]), reference)
    assert both.item() == pytest.approx(0.75 / 4, abs=1e-5)
    first = distribution_loss(saliency, torch.tensor([True, False]), reference)
    assert first.item() == pytest.approx((0.5 + 0.5) / 4, abs=1e-5)


def test_distribution_without_members_is_zero_with_zero_gradient() -> None:
    saliency = torch.randn(2, 2, 2, requires_grad=True)
    loss = distribution_loss(saliency, torch.tensor([False, False]), torch.ones(4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert saliency.grad is not None
    assert saliency.grad.abs().max() == 0


def test_distribution_ignores_where_a_map_looks() -> None:
    saliency = torch.rand(1, 3, 3)
    reference = torch.rand(9)
    member = torch.tensor([True])
    flipped = distribution_loss(saliency.flip(2), member, reference)
    assert torch.isclose(distribution_loss(saliency, member, reference), flipped)


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    reference = torch.rand(9, generator=generator, dtype=torch.float64)
    member = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda map_: energy_loss(map_, masks), (saliency,))
    assert torch.autograd.gradcheck(lambda map_: distribution_loss(map_, member, reference), (saliency,))


def test_token_losses_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    losses = token_losses(logits, torch.tensor([[0, 1]]))
    assert torch.allclose(losses, torch.tensor([[math.log(2.0), math.log(4.0)]]))


def test_masks_are_pooled_to_the_share_of_each_cell() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :2, :2] = 255
    masks[0, 0, 2] = 255
    assert torch.allclose(pool_masks(masks, 2)[0], torch.tensor([[1.0, 0.25], [0.0, 0.0]]))
    assert torch.allclose(reference_curve(masks, 2), torch.tensor([1.0, 0.25, 0.0, 0.0]), atol=1e-5)


def test_the_objective_is_the_weighted_sum_over_the_right_samples() -> None:
    saliency = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    logits = torch.zeros(2, 4)
    words = Words(torch.zeros(2, 3, 5), torch.zeros(2, 3, 4))
    masks = torch.zeros(2, 2, 2, dtype=torch.uint8)
    masks[0, 0, 0] = 255
    targets = Targets(
        labels=torch.tensor([0, 1]),
        masks=masks,
        has_mask=torch.tensor([True, False]),
        tokens=torch.tensor([[1, 4, 4, 2], [0, 0, 0, 0]]),
    )
    config = ObjectiveConfig(visual=2.0, consistency=3.0, text=0.5)
    terms = Objective(config, torch.tensor([1.0, 0.5, 0.0, 0.0]))(Output(logits, saliency, words), targets)
    assert terms["classification"].item() == pytest.approx(math.log(4))
    assert terms["visual"].item() == pytest.approx(0.25, abs=1e-5)  # the first sample alone
    assert terms["consistency"].item() == pytest.approx(0.125, abs=1e-5)  # the second alone: (1,0,0,0)
    assert terms["text"].item() == pytest.approx(math.log(5))  # padding does not count
    expected = math.log(4) + 2 * 0.25 + 3 * 0.125 + 0.5 * math.log(5)
    assert terms["loss"].item() == pytest.approx(expected, abs=1e-4)


def test_a_term_of_weight_zero_is_not_computed() -> None:
    output = Output(torch.zeros(1, 2), torch.zeros(1, 2, 2), None)
    targets = Targets(
        torch.tensor([0]), torch.zeros(1, 2, 2, dtype=torch.uint8), torch.tensor([False]), torch.zeros(1, 2)
    )
    terms = Objective(ObjectiveConfig(visual=0, consistency=0, text=0), None)(output, targets)
    assert set(terms) == {"loss", "classification"}
