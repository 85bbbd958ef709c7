"""L_reg: evidence outside the rationale's region costs, for images that nobody annotated."""

import pytest
import torch

from megl_core.config import ObjectiveConfig
from megl_core.models.megl import Output
from megl_core.objectives.objective import Objective, Targets
from megl_core.objectives.region import region_loss


def _sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Three maps over two by two cells and their regions; the last region says nothing."""
    saliency = torch.tensor([[[3.0, 1.0], [0.0, -2.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 5.0], [0.0, 0.0]]])
    regions = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]]).bool()
    return saliency, regions


def test_the_loss_is_the_share_outside_by_hand() -> None:
    nobody = torch.zeros(3, dtype=torch.bool)
    # 1 of 4 lies outside the first region, 3 of 4 outside the second; the third does not count.
    assert region_loss(*_sample(), nobody).item() == pytest.approx((0.25 + 0.75) / 2, abs=1e-5)


def test_images_with_a_mask_do_not_count() -> None:
    assert region_loss(*_sample(), torch.tensor([False, True, False])).item() == pytest.approx(0.25, abs=1e-5)


def test_nothing_to_say_costs_nothing_and_moves_nothing() -> None:
    saliency, regions = _sample()
    saliency.requires_grad_()
    loss = region_loss(saliency, regions, torch.tensor([True, True, False]))
    loss.backward()
    assert loss.item() == 0
    assert saliency.grad is not None
    assert (saliency.grad == 0).all()


def test_gradient_is_that_of_finite_differences() -> None:
    saliency, regions = _sample()
    saliency = (saliency.double() + 0.1).requires_grad_()
    nobody = torch.zeros(3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda maps: region_loss(maps, regions, nobody), (saliency,))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_objective_weighs_it(weight: float) -> None:
    saliency, regions = _sample()
    nobody = torch.zeros(3, dtype=torch.bool)
    targets = Targets(
        labels=torch.tensor([0, 1, 0]),
        masks=torch.zeros(3, 2, 2, dtype=torch.uint8),
        has_mask=nobody,
        tokens=torch.zeros(3, 2, dtype=torch.long),
        regions=regions,
    )
    config = ObjectiveConfig(visual=0, text=0, consistency=0, region=weight)
    terms = Objective(config, None)(Output(torch.zeros(3, 2), saliency, None), targets)
    assert ("region" in terms) == (weight > 0)
    assert (terms["loss"] - terms["classification"]).item() == pytest.approx(weight * 0.5, abs=1e-5)
