"""Every consistency loss against values worked out by hand, and against finite differences."""

import math

import pytest
import torch
from torch import Tensor

from megl_core.objectives.consistency import (
    CONSISTENCIES,
    class_loss,
    marginal_loss,
    reference_statistics,
    sorted_curve,
    spatial_loss,
)

NOBODY = torch.tensor([0, 0])


def test_marginal_by_hand() -> None:
    saliency = torch.tensor([[[4.0, 2.0], [0.0, -1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert torch.allclose(sorted_curve(saliency)[0], torch.tensor([1.0, 0.5, 0.0, 0.0]), atol=1e-5)
    reference = torch.tensor([1.0, 1.0, 0.5, 0.0])
    # Both in U: the mean curve is (1, .75, .5, .5), off by (0, .25, 0, .5).
    both = marginal_loss(saliency, torch.tensor([True, True]), NOBODY, reference)
    assert both.item() == pytest.approx(0.75 / 4, abs=1e-5)
    first = marginal_loss(saliency, torch.tensor([True, False]), NOBODY, reference)
    assert first.item() == pytest.approx((0.5 + 0.5) / 4, abs=1e-5)


def test_marginal_ignores_where_a_map_looks() -> None:
    saliency = torch.rand(1, 3, 3)
    reference = torch.rand(9)
    member = torch.tensor([True])
    flipped = marginal_loss(saliency.flip(2), member, NOBODY, reference)
    assert torch.isclose(marginal_loss(saliency, member, NOBODY, reference), flipped)


def test_class_by_hand() -> None:
    saliency = torch.tensor(
        [[[4.0, 2.0], [0.0, -1.0]], [[1.0, 1.0], [1.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]], [[9.0, 0.0]] * 2]
    )
    labels = torch.tensor([0, 1, 1, 2])
    reference = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.5], [0.0] * 4])
    # Class 0: (1, .5, 0, 0), off by 1 / 4 on average. Class 1: the mean is (1, 1, .5, .5), off by .5 / 4.
    # Class 2 has a mask.
    loss = class_loss(saliency, torch.tensor([True, True, True, False]), labels, reference)
    assert loss.item() == pytest.approx((1 * 0.25 + 2 * 0.125) / 3, abs=1e-5)


def test_spatial_by_hand() -> None:
    saliency = torch.tensor([[[3.0, 1.0], [0.0, -1.0]], [[0.0, 5.0], [0.0, 0.0]], [[7.0, 0.0], [0.0, 0.0]]])
    # The mean of (3/4, 1/4, 0, 0) and (0, 1, 0, 0), plus 0.01 / 4 everywhere.
    share = [value / 1.01 for value in (0.375 + 0.0025, 0.625 + 0.0025, 0.0025, 0.0025)]
    member = torch.tensor([True, True, False])
    loss = spatial_loss(saliency, member, NOBODY, torch.full((4,), 0.25))
    assert loss.item() == pytest.approx(sum(p * math.log(4 * p) for p in share), abs=1e-5)
    assert spatial_loss(saliency, member, NOBODY, torch.tensor(share)).item() == pytest.approx(0, abs=1e-5)


def test_reference_statistics_by_hand() -> None:
    cells = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
    labels = torch.tensor([0, 2, 2])
    marginal = reference_statistics("marginal", cells, labels, 3)
    assert torch.allclose(marginal, torch.tensor([1.0, 1 / 3, 0.0, 0.0]), atol=1e-5)
    by_class = reference_statistics("class", cells, labels, 3)
    # Second values: (1 * 1 + 8 / 3) / 9, the marginal for a class without masks, (2 * 0 + 8 / 3) / 10.
    assert by_class[:, 1].tolist() == pytest.approx([11 / 27, 1 / 3, 8 / 30], abs=1e-5)
    assert torch.allclose(by_class[:, 0], torch.ones(3), atol=1e-5)
    spatial = reference_statistics("spatial", cells, labels, 3)
    mean = torch.tensor([1 / 6, 1 / 3, 1 / 3, 1 / 6])
    assert torch.allclose(spatial, (mean + 0.0025) / 1.01, atol=1e-5)


def case(kind: str) -> tuple[Tensor, Tensor]:
    """Raw maps (4, 3, 3) of the classes 0, 1, 1, 2 and a reference, both float64."""
    generator = torch.Generator().manual_seed(0)
    saliency = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    shape = (3, 9) if kind == "class" else (9,)
    reference = torch.rand(shape, generator=generator, dtype=torch.float64)
    return saliency, reference / reference.sum() if kind == "spatial" else reference


@pytest.mark.parametrize("kind", CONSISTENCIES)
def test_gradients_agree_with_finite_differences(kind: str) -> None:
    saliency, reference = case(kind)
    member, labels = torch.tensor([True, True, False, True]), torch.tensor([0, 1, 1, 2])
    loss = CONSISTENCIES[kind]  # type: ignore[index]
    assert torch.autograd.gradcheck(lambda maps: loss(maps, member, labels, reference), (saliency,))


@pytest.mark.parametrize("kind", CONSISTENCIES)
def test_without_members_the_loss_is_zero_with_zero_gradients(kind: str) -> None:
    saliency, reference = case(kind)
    nobody, labels = torch.zeros(4, dtype=torch.bool), torch.tensor([0, 1, 1, 2])
    loss = CONSISTENCIES[kind](saliency, nobody, labels, reference)  # type: ignore[index]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert saliency.grad is not None
    assert saliency.grad.abs().max() == 0


@pytest.mark.parametrize("kind", CONSISTENCIES)
def test_maps_without_any_positive_evidence_have_finite_gradients(kind: str) -> None:
    _, reference = case(kind)
    saliency = torch.full((4, 3, 3), -1.0, dtype=torch.float64, requires_grad=True)
    everyone, labels = torch.ones(4, dtype=torch.bool), torch.tensor([0, 1, 1, 2])
    CONSISTENCIES[kind](saliency, everyone, labels, reference).backward()  # type: ignore[index,no-untyped-call]
    assert saliency.grad is not None
    assert torch.isfinite(saliency.grad).all()
