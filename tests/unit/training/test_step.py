"""A step in parts, in bfloat16, compiled; and steps that are left out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from megl_core.config import (
    BackboneConfig,
    ConsistencyKind,
    DecoderConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
)
from megl_core.errors import ConfigError, MeglError
from megl_core.files import read_json
from megl_core.models.megl import Output
from megl_core.training import train
from megl_core.training.distributed import Process
from megl_core.training.setup import Parts, Settings, build
from megl_core.training.step import Gradients, TrainingStep, to_device

MODEL = ModelConfig(
    image_size=24,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16, dropout=0.3),
)
CONFIG = TrainConfig(epochs=4, batch_size=16)


def parts_of(packed: Path, objective: ObjectiveConfig = ObjectiveConfig(), **changes: Any) -> Parts:  # noqa: B008
    config = TrainConfig.model_validate(CONFIG.model_dump() | changes)
    return build(packed, Settings(MODEL, objective, config), Process(0, 1, torch.device("cpu")), "")


def gradients_of(parts: Parts, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The terms and gradients of the first step, with batch norm and dropout switched off."""
    config = TrainConfig.model_validate(CONFIG.model_dump() | changes)
    parts.step.eval()
    parts.step.zero_grad()
    images, targets = to_device(parts.batches.batch(0), torch.device("cpu"))
    terms = Gradients(parts.step, parts.step, config).compute(images, targets, 0.5, torch.manual_seed)
    found = {name: p.grad.clone() for name, p in parts.step.named_parameters() if p.grad is not None}
    return terms, found


@pytest.mark.parametrize("kind", ["marginal", "class", "spatial"])
@pytest.mark.parametrize("accumulate", [2, 3, 16])
def test_micro_batches_have_the_losses_and_gradients_of_the_whole(
    packed: Path, kind: ConsistencyKind, accumulate: int
) -> None:
    parts = parts_of(packed, ObjectiveConfig(consistency_kind=kind))
    terms, gradients = gradients_of(parts)
    found, found_gradients = gradients_of(parts, accumulate=accumulate)
    assert terms["consistency"] > 0
    assert terms.keys() == found.keys()
    for name, term in terms.items():
        assert torch.allclose(found[name], term, rtol=1e-4), name
    for name, gradient in gradients.items():
        assert torch.allclose(found_gradients[name], gradient, rtol=1e-3, atol=1e-5), name


def test_the_look_before_micro_batches_leaves_no_trace_in_batch_norm(packed: Path) -> None:
    tracked = []
    for weight in (1.0, 0.0):  # without the consistency term there is no such look
        parts = parts_of(packed, ObjectiveConfig(consistency=weight), accumulate=2)
        images, targets = to_device(parts.batches.batch(0), torch.device("cpu"))
        parts.step.train()
        config = CONFIG.model_copy(update={"accumulate": 2})
        Gradients(parts.step, parts.step, config).compute(images, targets, 0.5, torch.manual_seed)
        tracked.append({name: value for name, value in parts.step.named_buffers() if "tracked" in name})
        assert {int(value) for value in tracked[-1].values()} == {2}
    assert tracked[0] == tracked[1]


def test_a_run_in_micro_batches_goes_on_where_it_stopped(packed: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"accumulate": 3, "checkpoint_seconds": 0})
    train(packed, tmp_path / "whole", MODEL, ObjectiveConfig(), config)
    with pytest.raises(KeyboardInterrupt):
        train(packed, tmp_path / "model", MODEL, ObjectiveConfig(), config, tracker=Stopper(2))
    train(packed, tmp_path / "model", MODEL, ObjectiveConfig(), config)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "model")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_more_micro_batches_than_images_are_refused(packed: Path) -> None:
    with pytest.raises(ConfigError, match="1 processes x 17 micro-batches"):
        parts_of(packed, accumulate=17)


class Stopper:
    """A tracker that ends the run with the epoch after `epochs`."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def log_params(self, params: object) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


# --- precision -------------------------------------------------------------------------------


def test_bfloat16_computes_features_and_nothing_else(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(packed, precision="bfloat16")
    seen: list[Output] = []
    inner: list[torch.dtype] = []
    objective = parts.step.objective.forward
    monkeypatch.setattr(
        parts.step.objective,
        "forward",
        lambda output, *rest: (seen.append(output), objective(output, *rest))[1],
    )
    parts.step.model.backbone.register_forward_hook(lambda *call: inner.append(call[2].cells.dtype))
    terms, gradients = gradients_of(parts)
    (output,) = seen
    assert inner == [torch.bfloat16]
    assert output.words is not None
    for tensor in (output.logits, output.saliency, output.words.logits, *terms.values(), *gradients.values()):
        assert tensor.dtype == torch.float32
    exact, exact_gradients = gradients_of(parts_of(packed))
    assert terms["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.01)
    name = "model.head.weight"
    assert torch.cosine_similarity(gradients[name].flatten(), exact_gradients[name].flatten(), 0) > 0.99


@pytest.mark.parametrize("saliency", ["centered", "gradcam"])
def test_a_run_in_bfloat16_learns(packed: Path, tmp_path: Path, saliency: str) -> None:
    model = ModelConfig.model_validate(MODEL.model_dump() | {"saliency": saliency})
    config = CONFIG.model_copy(update={"precision": "bfloat16"})
    train(packed, tmp_path / "model", model, ObjectiveConfig(), config)
    history = read_json(tmp_path / "model" / "training.json")["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} <= {torch.float32, torch.int64}


# --- compilation -----------------------------------------------------------------------------


def test_what_needs_gradients_of_gradients_is_not_compiled(packed: Path) -> None:
    with pytest.raises(ConfigError, match="gradients of gradients"):
        parts_of(packed, ObjectiveConfig(alignment="rrr"), compile=True)


@pytest.mark.slow
def test_a_compiled_step_has_the_same_losses_and_gradients(packed: Path) -> None:
    terms, gradients = gradients_of(parts_of(packed))
    compiled, compiled_gradients = gradients_of(parts_of(packed, compile=True))
    for name, term in terms.items():
        assert torch.allclose(compiled[name], term, rtol=1e-4), name
    for name, gradient in gradients.items():
        assert torch.allclose(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-4), name


# --- numbers that are not finite -------------------------------------------------------------


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress of the steps whose loss is to be not finite, to be filled by the test."""
    broken: list[float] = []
    whole = TrainingStep.forward

    def forward(self: TrainingStep, images: Tensor, targets: Any, progress: float, *rest: Any) -> Any:
        terms = whole(self, images, targets, progress, *rest)
        if any(abs(progress - wrong) < 1e-9 for wrong in broken):
            terms["loss"] = terms["loss"] * float("nan")
        return terms

    monkeypatch.setattr(TrainingStep, "forward", forward)
    return broken


def test_a_loss_that_is_not_finite_names_the_images(
    packed: Path, tmp_path: Path, breaking: list[float]
) -> None:
    breaking.append(5 / 12)
    ids = parts_of(packed).batches.batch(5).ids
    with pytest.raises(MeglError) as caught:
        train(packed, tmp_path / "model", MODEL, ObjectiveConfig(), CONFIG)
    assert "the loss is not finite at step 5" in str(caught.value)
    assert all(name in str(caught.value) for name in ids)


def test_a_step_that_is_skipped_leaves_everything_as_it_was(
    packed: Path, tmp_path: Path, breaking: list[float]
) -> None:
    breaking.append(11 / 12)
    config = CONFIG.model_copy(update={"on_nan": "skip", "checkpoint_seconds": 0, "keep_checkpoints": 20})
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        train(
            packed, tmp_path / "model", MODEL, ObjectiveConfig(), config, tracker=Stopper(3), checkpoints=kept
        )
    (before,) = kept.glob("*/step-00000011")
    weights = load_file(before / "model.safetensors")  # batch norms and all, as they were before step 11
    train(packed, tmp_path / "model", MODEL, ObjectiveConfig(), config, checkpoints=kept)
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(after[name], weights[f"model.{name}"]) for name in after)
    assert all(weight.isfinite().all() for weight in after.values())
    history = read_json(tmp_path / "model" / "training.json")["history"]
    assert [row.get("skipped", 0) for row in history] == [0, 0, 0, 1]


def test_too_many_steps_in_a_row_are_not_skipped(packed: Path, tmp_path: Path, breaking: list[float]) -> None:
    breaking.extend(step / 12 for step in (1, 4, 5, 6))
    config = CONFIG.model_copy(update={"on_nan": "skip", "max_skipped": 2})
    with pytest.raises(MeglError, match="not finite at step 6, nor in the 2 steps before"):
        train(packed, tmp_path / "model", MODEL, ObjectiveConfig(), config)
