"""Every alignment loss against values worked out by hand, finite differences, and a real model."""

import math

import pytest
import torch
from torch import Tensor

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig
from megl_core.models.megl import MEGL, Output
from megl_core.models.saliency import display_form
from megl_core.objectives.alignment import (
    ALIGNMENTS,
    LearntRes,
    best_threshold,
    energy_loss,
    gradia_loss,
    haics_loss,
    res_g_loss,
    rrr_loss,
    sign_loss,
    signs,
)
from megl_core.objectives.objective import Objective, Targets


def seen(*saliency: list[list[float]]) -> Output:
    maps = torch.tensor(saliency)
    return Output(torch.zeros(len(maps), 2), maps, None)


def test_energy_by_hand() -> None:
    output = seen([[3.0, 1.0], [-5.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]])
    masks = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert torch.allclose(energy_loss(output, masks), torch.tensor([0.25, 1.0]), atol=1e-5)


def test_energy_counts_a_partly_marked_cell_in_part() -> None:
    masks = torch.zeros(1, 4, 4)
    masks[0, 0, :2] = 1  # half of the first of four cells
    assert energy_loss(seen([[2.0, 2.0], [0.0, 0.0]]), masks).item() == pytest.approx(0.75, abs=1e-5)


def test_haics_by_hand() -> None:
    # M = (1, 1/4; 0, 1/2).
    output = seen([[4.0, 1.0], [-1.0, 2.0]])
    right = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert haics_loss(output, right).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 4, abs=1e-5)
    dark = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    cut = -math.log(1e-6) / 4
    assert haics_loss(output, dark).item() == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 4 + cut, abs=1e-4
    )


def test_gradia_by_hand() -> None:
    output = seen([[4.0, 1.0], [-1.0, 2.0]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert gradia_loss(output, masks).item() == pytest.approx((0 + 0.25 + 0 + 0.5) / 4, abs=1e-5)


def test_rrr_by_hand() -> None:
    # z = (ln 3 x_0 + 2 x_1, 0) with x_0 = 1: p = (3/4, 1/4), and sum_k log p_k has the derivatives
    # a - 2 p_0 a = -a / 2 for a weight a.
    pixels = torch.zeros(3, 3, 2, 2)
    pixels[:, 0, 0, 0] = 1
    pixels.requires_grad_()
    score = math.log(3) * pixels[:, 0, 0, 0] + 2 * pixels[:, 1, 1, 1]
    output = Output(torch.stack([score, torch.zeros(3)], dim=1), torch.zeros(3, 1, 1), None, pixels)
    masks = torch.zeros(3, 2, 2)
    masks[:, 0, 0] = torch.tensor([1.0, 0.0, 0.5])
    first = (math.log(3) / 2) ** 2
    assert rrr_loss(output, masks).tolist() == pytest.approx([1.0, 1.0 + first, 1.0 + first / 4])


def test_rrr_without_pixels_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="input_gradients"):
        rrr_loss(seen([[1.0]]), torch.zeros(1, 1, 1))


def test_signs_leave_open_what_the_border_of_a_mask_cuts() -> None:
    cells = torch.tensor([1.0, 0.5, 0.25, 0.0])
    assert signs(cells).tolist() == [1, 1, 0, -1]


@pytest.mark.parametrize(
    ("maps", "wanted", "level"),
    [
        ([0.9, 0.5, 0.2, 0.7], [1, -1, -1, 1], 0.5001),  # everything agrees
        ([0.5, 0.9, 0.2, 0.1], [1, -1, -1, -1], 0.2001),  # 1 + 2/3 rather than 0 + 1: each sign as a share
        ([0.9, 0.5, 0.2, 0.7], [1, 1, -1, -1], 0.2001),  # ties: the first negative cell
        ([0.3, 0.3, 0.3, 0.3], [1, -1, 0, 0], 0.3001),  # a tie of one value
        ([0.4, 0.6, 0.9, 0.1], [1, 1, 0, 0], 0.4),  # only positive cells
        ([0.50005, 0.5, 0.0, 0.0], [1, -1, 0, 0], 0.50005),  # a cell is not below its own value
        ([0.4, 0.6, 0.9, 0.1], [-1, -1, 0, 0], 0.6001),  # only negative ones
    ],
)
def test_the_threshold_by_hand(maps: list[float], wanted: list[int], level: float) -> None:
    batch = torch.tensor([maps, [0.0] * 4]).reshape(2, 2, 2)  # a second sample that must not matter
    marks = torch.tensor([wanted, [0] * 4]).reshape(2, 2, 2).float()
    assert best_threshold(batch, marks)[0].item() == pytest.approx(level)


def test_sign_loss_by_hand() -> None:
    maps = torch.tensor([[[0.5, 0.5], [0.5, 0.9]], [[1.0, 0.0], [0.0, 0.3]], [[0.1, 0.2], [0.3, 0.4]]])
    wanted = torch.tensor([[[1.0, -1.0], [0.0, 0.0]], [[1.0, -1.0], [-1.0, 0.0]], [[0.0] * 2] * 2])
    # On the level itself each cell is off by 1; half a unit from it by less than the slack.
    assert sign_loss(maps, wanted, torch.full((3, 1, 1), 0.5)).tolist() == pytest.approx([0.9, 0.0, 0.0])


def test_res_g_by_hand() -> None:
    # Mirrored at the borders, the blur of a 2x2 mask is the same everywhere: 1 relative to its maximum.
    output = seen([[4.0, 2.0], [0.0, 0.0]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    level = 0.5 + 1e-4
    off = [1 - math.tanh(5 * (1 - level)), 1 + math.tanh(5 * (0.5 - level))] + 2 * [1 - math.tanh(5 * level)]
    expected = sum(off) / 4 - 0.1 + (0 + 0.5 + 1 + 1) / 4
    assert res_g_loss(output, masks).item() == pytest.approx(expected, abs=1e-4)


def test_res_g_compares_with_a_gaussian() -> None:
    masks = torch.zeros(1, 5, 5)
    masks[0, 2, 2] = 1
    row = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0])
    blurred = torch.outer(row, row)[None]
    output = Output(torch.zeros(1, 2), blurred, None)
    level = torch.tensor([[[0.5 + 1e-4]]])
    assert torch.allclose(res_g_loss(output, masks), sign_loss(blurred, signs(masks), level), atol=1e-4)


def test_res_l_by_hand() -> None:
    loss = LearntRes(cell_size=1)
    with torch.no_grad():
        loss.impute.weight.copy_(torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]]))  # twice the mask, scaled to it
    output = seen([[4.0, 2.0], [0.0, 0.0]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    apart = (1 - 0.5) / 4 - 0.625  # from RES-G, whose target is 1 everywhere, only the distance differs
    expected = res_g_loss(output, masks).item() + apart
    assert loss(output, masks).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("cell_size", [1, 3, 4])
def test_res_l_reads_the_mask_at_full_resolution(cell_size: int) -> None:
    output = seen([[4.0, 2.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert LearntRes(cell_size)(output, torch.rand(1, 3 * cell_size, 3 * cell_size)).shape == (1,)


def doubles(*shape: int) -> Tensor:
    """Seeded numbers that keep clear of kinks: none within 0.01 of zero."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (values + 0.01 * values.sign()).requires_grad_()


@pytest.mark.parametrize("loss", [energy_loss, haics_loss, gradia_loss])
def test_gradients_of_maps_agree_with_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    masks = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda maps: loss(Output(torch.zeros(3, 2), maps, None), masks), (doubles(3, 3, 3),)
    )


def test_gradients_of_res_g_agree_with_finite_differences_at_its_threshold() -> None:
    saliency = doubles(3, 3, 3)
    masks = (torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.6).double()
    masks[:, :2, :2] = 0
    output = Output(torch.zeros(3, 2), saliency, None)
    wanted = signs(torch.nn.functional.avg_pool2d(masks, 2))
    level = best_threshold(display_form(saliency), wanted)
    row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    mirrored = torch.nn.functional.pad(
        torch.nn.functional.avg_pool2d(masks, 2)[:, None], (1, 1, 1, 1), "reflect"
    )
    blurred = torch.nn.functional.conv2d(mirrored, torch.outer(row, row)[None, None])[:, 0]
    blurred = blurred / (blurred.amax(dim=(1, 2), keepdim=True) + 1e-6)

    def at_this_level(maps: Tensor) -> Tensor:
        shown = display_form(maps)
        return sign_loss(shown, wanted, level) + (shown - blurred).abs().mean(dim=(1, 2))

    assert torch.autograd.gradcheck(at_this_level, (saliency,))
    (expected,) = torch.autograd.grad(at_this_level(saliency).sum(), saliency)
    (found,) = torch.autograd.grad(res_g_loss(output, masks).sum(), saliency)
    assert torch.allclose(found, expected)
    assert torch.allclose(res_g_loss(output, masks), at_this_level(saliency))
    assert found.abs().max() > 0


def test_gradients_of_the_learnt_convolution_agree_with_finite_differences() -> None:
    loss = LearntRes(cell_size=2).double()
    masks = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output = Output(torch.zeros(2, 2), doubles(2, 3, 3).detach(), None)

    def at(weight: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(loss, {"impute.weight": weight}, (output, masks))
        return found

    assert torch.autograd.gradcheck(at, (doubles(1, 1, 4, 4),))


def test_second_gradients_of_rrr_agree_with_finite_differences() -> None:
    images = doubles(2, 3, 2, 2).detach()
    masks = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def of_a_small_network(first: Tensor, second: Tensor) -> Tensor:
        pixels = images.clone().requires_grad_()
        logits = (pixels.flatten(1) @ first).tanh() @ second
        return rrr_loss(Output(logits, torch.zeros(2, 1, 1), None, pixels), masks)

    assert torch.autograd.gradcheck(of_a_small_network, (doubles(12, 4), doubles(4, 3)))


@pytest.fixture
def model() -> MEGL:
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=16,
        backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
        decoder=DecoderConfig(name="none"),
    )
    return MEGL(config, ["cat", "dog", "owl"]).eval()


def run(model: MEGL, objective: Objective, *, has_mask: bool) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(4, 16, 16, dtype=torch.uint8)
    masks[:, 5:13, :7] = 255
    labels = torch.tensor([0, 1, 2, 0])
    output = model(images, labels, None, 0.1, input_gradients=objective.needs_pixels)
    targets = Targets(labels, masks, torch.full((4,), has_mask), torch.zeros(4, 2))
    term: Tensor = objective(output, targets)["visual"]
    return term


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_each_loss_reaches_backbone_and_head(model: MEGL, name: str) -> None:
    objective = Objective(ObjectiveConfig.model_validate({"alignment": name}), None, cell_size=4)
    run(model, objective, has_mask=True).backward()  # type: ignore[no-untyped-call]
    learnt = [model.head.weight, *model.backbone.parameters(), *objective.parameters()]
    assert all(parameter.grad is not None for parameter in learnt)
    moved = [parameter.grad.abs().max() > 0 for parameter in learnt if parameter.grad is not None]
    assert moved[0]
    assert moved[1]
    assert name != "res_l" or objective.alignment.impute.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_each_loss_is_zero_with_zero_gradients_where_nobody_drew_a_mask(model: MEGL, name: str) -> None:
    objective = Objective(ObjectiveConfig.model_validate({"alignment": name}), None, cell_size=4)
    loss = run(model, objective, has_mask=False)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in objective.parameters())


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_a_map_without_any_positive_evidence_has_finite_gradients(name: str) -> None:
    pixels = torch.zeros(1, 3, 4, 4, requires_grad=True)
    saliency = torch.full((1, 2, 2), -1.0, requires_grad=True)
    logits = torch.stack([pixels.sum(dim=(1, 2, 3)), saliency.sum(dim=(1, 2))], dim=1)
    masks = torch.zeros(1, 4, 4)
    masks[0, :2] = 1
    loss = ALIGNMENTS[name](2)(Output(logits, saliency, None, pixels), masks)  # type: ignore[index]
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss).all()
    assert saliency.grad is not None
    assert torch.isfinite(saliency.grad).all()
