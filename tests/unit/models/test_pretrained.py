"""Encoders from checkpoints: they compute what transformers computes, and refuse what they cannot use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from megl_core.config import BackboneConfig, ModelConfig
from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.models.backbone import Backbone, build_backbone
from tests.unit.models.tiny import DEVIATION, MAKERS, MEAN

KINDS = sorted(MAKERS)
LAST = {
    "resnet": ("encoder.encoder.stages.1.",),
    "convnext": ("encoder.encoder.stages.1.", "encoder.layernorm."),
    "vit": ("encoder.layers.1.", "encoder.layernorm."),
    "dinov2": ("encoder.encoder.layer.1.", "encoder.layernorm."),
    "dinov2_with_registers": ("encoder.encoder.layer.1.", "encoder.layernorm."),
    "clip": ("encoder.encoder.layers.1.", "encoder.post_layernorm."),
}
Checkpoint = Callable[[str], str]


def encoder(path: str, image_size: int | None = None, **settings: object) -> Backbone:
    backbone = BackboneConfig(name="hf", path=path, **settings)
    saliency = "centered" if backbone.pooling == "mean" else "gradcam"
    return build_backbone(ModelConfig(image_size=image_size, saliency=saliency, backbone=backbone)).eval()


def reference(path: str, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden state and summary, from the checkpoint's own image processor and model."""
    processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    arrays = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    pixels = processor(arrays, do_resize=False, return_tensors="pt")["pixel_values"]
    model = transformers.AutoModel.from_pretrained(path)
    model = getattr(model, "vision_model", model).eval()
    with torch.no_grad():
        output = model(pixels)
    own = output.last_hidden_state[:, 0] if "ViT" in type(model).__name__ else output.pooler_output
    return output.last_hidden_state, own.flatten(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_summary_is_what_the_checkpoint_itself_computes(
    kind: str, checkpoint: Checkpoint, pictures: Tensor
) -> None:
    backbone = encoder(checkpoint(kind), pooling="checkpoint")
    hidden, summary = reference(checkpoint(kind), pictures)
    features = backbone(pictures)
    assert torch.allclose(features.pooled, summary, atol=1e-5)
    assert summary.std(dim=0).max() > 0.01
    assert features.cells.shape == (4, backbone.num_channels, 2, 2)
    if kind in ("vit", "dinov2"):
        assert torch.allclose(features.cells[:, :, 1, 0], hidden[:, 3], atol=1e-5)
    if kind == "dinov2_with_registers":
        assert torch.allclose(features.cells[:, :, 1, 0], hidden[:, 6], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_colours_are_the_checkpoints(kind: str, checkpoint: Checkpoint) -> None:
    backbone = encoder(checkpoint(kind))
    assert backbone.image_size == 16
    assert backbone.mean.flatten().tolist() == pytest.approx(MEAN)
    assert backbone.deviation.flatten().tolist() == pytest.approx(DEVIATION)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_the_cells_is_another_head(kind: str, checkpoint: Checkpoint, pictures: Tensor) -> None:
    features = encoder(checkpoint(kind), pooling="mean")(pictures)
    assert torch.allclose(features.pooled, features.cells.flatten(2).mean(dim=2))


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size_gives_another_map(kind: str, checkpoint: Checkpoint) -> None:
    backbone = encoder(checkpoint(kind), image_size=32)
    features = backbone(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert backbone.map_size == 4
    assert features.cells.shape[2:] == (4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_built_again_without_its_checkpoint(
    kind: str, checkpoint: Checkpoint, pictures: Tensor, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint(kind), moved)
    config = ModelConfig(backbone=BackboneConfig(name="hf", path=str(moved)))
    backbone = build_backbone(config).eval()
    shutil.rmtree(moved)
    description = json.loads(json.dumps(backbone.description))
    assert str(tmp_path) not in json.dumps(description)
    again = build_backbone(config, description).eval()
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again(pictures).pooled, backbone(pictures).pooled)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_stage_alone_is_trained(kind: str, checkpoint: Checkpoint, pictures: Tensor) -> None:
    backbone = encoder(checkpoint(kind), trainable=1).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    backbone(pictures).pooled.square().sum().backward()
    optimizer.step()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(LAST[kind]) for name in moved)
    last = {name for name in before if name.startswith(LAST[kind])}
    assert {name for name in last if name.endswith("weight")} <= moved
    assert all(parameter.grad is not None for parameter in parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "checkpoint"])
def test_every_trained_weight_gets_a_gradient(
    kind: str, pooling: str, checkpoint: Checkpoint, pictures: Tensor
) -> None:
    """Weights without one would stop training in several processes."""
    backbone = encoder(checkpoint(kind), pooling=pooling).train()
    backbone(pictures).pooled.square().sum().backward()
    missing = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such checkpoint folder.*model\.backbone\.path"):
        encoder(str(tmp_path / "absent"))


def test_a_name_of_the_hub_needs_the_hub() -> None:
    with pytest.raises(UnavailableError, match="no such folder, and no checkpoint that can be fetched"):
        encoder("nobody/nothing")


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        encoder(str(tmp_path))


@pytest.fixture
def broken(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be broken."""
    shutil.copytree(checkpoint("vit"), tmp_path / "vit")
    return tmp_path / "vit"


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    torch.save({}, broken / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled"):
        encoder(str(broken))


def test_broken_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").write_bytes(b"\x80\x04 not a tensor file")
    with pytest.raises(DataError, match="do not fit"):
        encoder(str(broken))


def test_weights_of_another_shape_are_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 24}))
    with pytest.raises(DataError, match="do not fit"):
        encoder(str(broken))


def test_missing_weights_are_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(DataError, match=r"lacks 1\d weights of ViTModel"):
        encoder(str(broken))


def test_an_unknown_architecture_is_refused(broken: Path) -> None:
    transformers.GPT2Config().save_pretrained(broken)
    with pytest.raises(ConfigError, match=r"'gpt2' cannot be used(.|\n)*clip_vision_model"):
        encoder(str(broken))


def test_a_kind_that_transformers_does_not_know_is_refused(broken: Path) -> None:
    (broken / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(ConfigError, match="nonesuch"):
        encoder(str(broken))


def test_code_of_a_checkpoint_is_never_run(broken: Path) -> None:
    (broken / "own.py").write_text("raise SystemExit('ran')\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        encoder(str(broken))


def test_without_an_image_processor_the_colours_are_unknown(broken: Path) -> None:
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="image processor"):
        encoder(str(broken))


def test_images_that_are_no_squares_are_refused(broken: Path) -> None:
    processor = json.loads((broken / "preprocessor_config.json").read_text())
    processor["size"] = {"height": 16, "width": 24}
    (broken / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match="squares"):
        encoder(str(broken))


def test_half_precision_checkpoints_are_trained_in_float32(broken: Path, pictures: Tensor) -> None:
    transformers.ViTModel.from_pretrained(broken).half().save_pretrained(broken)
    assert encoder(str(broken))(pictures).pooled.dtype == torch.float32
