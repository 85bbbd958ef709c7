"""The weighted objective: the right samples, the right weights, at the right time."""

import math

import pytest
import torch

from megl_core.config import Config, ObjectiveConfig, parse
from megl_core.data.tokenizer import IGNORE
from megl_core.errors import ConfigError
from megl_core.models.decoder import Words
from megl_core.models.megl import Output
from megl_core.objectives.masks import pool_masks
from megl_core.objectives.objective import Objective, Targets, ramp
from megl_core.objectives.text import token_losses


def example() -> tuple[Output, Targets]:
    """Two samples: the first with mask and text, the second with neither."""
    saliency = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    masks = torch.zeros(2, 2, 2, dtype=torch.uint8)
    masks[0, 0, 0] = 255
    targets = Targets(
        labels=torch.tensor([0, 1]),
        masks=masks,
        has_mask=torch.tensor([True, False]),
        tokens=torch.tensor([[1, 4, 4, 2], [IGNORE] * 4]),
    )
    return Output(torch.zeros(2, 4), saliency, Words(torch.zeros(2, 3, 5), None)), targets


REFERENCE = torch.tensor([1.0, 0.5, 0.0, 0.0])


def test_token_losses_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    losses = token_losses(logits, torch.tensor([[0, 1]]))
    assert torch.allclose(losses, torch.tensor([[math.log(2.0), math.log(4.0)]]))


def test_masks_are_pooled_to_the_share_of_each_cell() -> None:
    masks = torch.zeros(1, 4, 4)
    masks[0, :2, :2] = 1
    masks[0, 0, 2] = 1
    assert torch.allclose(pool_masks(masks, 2)[0], torch.tensor([[1.0, 0.25], [0.0, 0.0]]))


def test_the_objective_is_the_weighted_sum_over_the_right_samples() -> None:
    config = ObjectiveConfig(visual=2.0, consistency=3.0, text=0.5)
    terms = Objective(config, REFERENCE)(*example())
    assert terms["classification"].item() == pytest.approx(math.log(4))
    assert terms["visual"].item() == pytest.approx(0.25, abs=1e-5)  # the first sample alone
    assert terms["consistency"].item() == pytest.approx(0.125, abs=1e-5)  # the second alone: (1,0,0,0)
    assert terms["text"].item() == pytest.approx(math.log(5))  # padding does not count
    expected = math.log(4) + 2 * 0.25 + 3 * 0.125 + 0.5 * math.log(5)
    assert terms["loss"].item() == pytest.approx(expected, abs=1e-4)


def test_the_kinds_are_those_of_the_configuration() -> None:
    config = ObjectiveConfig(alignment="gradia", consistency_kind="spatial")
    terms = Objective(config, torch.tensor([1.01 - 0.0075, 0.0025, 0.0025, 0.0025]) / 1.01)(*example())
    assert terms["visual"].item() == pytest.approx((1 / 3) / 4, abs=1e-5)
    assert terms["consistency"].item() == pytest.approx(0, abs=1e-5)  # all evidence in the first cell


def test_weights_rise_over_their_warmup() -> None:
    assert [ramp(progress, 0.4) for progress in (0.0, 0.1, 0.4, 1.0)] == pytest.approx([0, 0.25, 1, 1])
    assert [ramp(progress, 0.0) for progress in (0.0, 1.0)] == [1, 1]
    config = ObjectiveConfig(
        visual=2.0, consistency=3.0, text=0.5, visual_warmup=0.5, consistency_warmup=0.2, text_warmup=1.0
    )
    objective = Objective(config, REFERENCE)
    start = objective(*example(), progress=0.0)
    assert start["loss"].item() == pytest.approx(math.log(4))
    assert start["visual"].item() == pytest.approx(0.25, abs=1e-5)  # what is reported is never weighted
    terms = objective(*example(), progress=0.25)
    expected = math.log(4) + 2 * 0.5 * 0.25 + 3 * 0.125 + 0.5 * 0.25 * math.log(5)
    assert terms["loss"].item() == pytest.approx(expected, abs=1e-4)


def test_a_term_of_weight_zero_is_not_computed() -> None:
    output, targets = example()
    config = ObjectiveConfig(visual=0, consistency=0, text=0, alignment="res_l")
    objective = Objective(config, REFERENCE)
    assert set(objective(output, targets)) == {"loss", "classification"}
    assert list(objective.parameters()) == []  # what no loss reaches must not be trained


def test_only_input_gradients_ask_for_pixels() -> None:
    assert Objective(ObjectiveConfig(alignment="rrr"), None).needs_pixels
    assert not Objective(ObjectiveConfig(alignment="rrr", visual=0), None).needs_pixels
    assert not Objective(ObjectiveConfig(), None).needs_pixels


@pytest.mark.parametrize("setting", [{"alignment": "hint"}, {"consistency_kind": "joint"}])
def test_unknown_names_are_refused_with_the_known_ones(setting: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"objective\.\w+: .*'(energy|marginal)'"):
        parse(Config, {"objective": setting})
