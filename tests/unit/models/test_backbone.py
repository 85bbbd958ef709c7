"""What all encoders share, on the small one: normalisation, traced passes, freezing."""

import pytest
import torch

from megl_core.config import BackboneConfig, ModelConfig, load_config
from megl_core.errors import ConfigError
from megl_core.models.backbone import Backbone, SmallBackbone, build_backbone, cells_of

SMALL = BackboneConfig(widths=[4, 8], depths=[1, 1])


def small(**settings: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelConfig(image_size=16, backbone=SMALL.model_copy(update=settings)))


def test_pixels_are_normalised_by_hand() -> None:
    white = small()(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)).pixels[0, :, 0, 0]
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert torch.allclose(white, expected)


def test_the_head_reads_the_mean_of_the_cells(pictures: torch.Tensor) -> None:
    backbone = small()
    features = backbone(pictures)
    assert features.cells.shape == (4, 8, 4, 4)
    assert backbone.map_size == 4
    assert torch.equal(features.pooled, features.cells.mean(dim=(2, 3)))


def test_no_image_size_is_the_size_of_the_demonstration() -> None:
    assert build_backbone(ModelConfig()).image_size == 32


def test_cells_are_the_last_tokens_row_by_row() -> None:
    tokens = torch.arange(6.0)[None, :, None]  # a class token, a register and four patches
    assert cells_of(tokens, 2).tolist() == [[[[2.0, 3.0], [4.0, 5.0]]]]


def test_only_a_traced_pass_gives_pixels_a_gradient(pictures: torch.Tensor) -> None:
    backbone = small(trainable="none").eval()
    assert not backbone(pictures).cells.requires_grad
    features = backbone(pictures, trace=True)
    (gradient,) = torch.autograd.grad(features.pooled.square().sum(), features.pixels, create_graph=True)
    assert gradient.abs().max() > 0
    assert gradient.requires_grad


@pytest.mark.parametrize(("trainable", "moving"), [("all", "both"), (1, "last"), ("none", "neither")])
def test_frozen_stages_keep_weights_and_statistics(
    trainable: str | int, moving: str, pictures: torch.Tensor
) -> None:
    backbone = small(trainable=trainable)
    assert isinstance(backbone, SmallBackbone)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    head = torch.nn.Linear(8, 2)
    backbone.eval()
    backbone.train()  # a later change of mode does not wake what is frozen
    parameters = [p for p in [*backbone.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    head(backbone(pictures).pooled).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    last = {name for name in before if name.startswith("encoder.stages.1.")}
    first = set(before) - last
    assert bool(moved & first) == (moving == "both")
    assert bool(moved & last) == (moving != "neither")
    statistics = {name for name in moved if "running_mean" in name}
    assert any("stages.1" in name for name in statistics) == (moving != "neither")
    assert any("stages.1" not in name for name in statistics) == (moving == "both")


def test_more_stages_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 stages"):
        small(trainable=3)


def test_a_size_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        build_backbone(ModelConfig(image_size=30, backbone=SMALL))


@pytest.mark.parametrize(
    "setting",
    [
        ["model.backbone.name=hf"],
        ["model.backbone.path=somewhere"],
        ["model.backbone.pooling=checkpoint"],
        ["model.backbone.trainable=0"],
        ["model.backbone.trainable=some"],
        ["model.saliency=lime"],
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: list[str]) -> None:
    with pytest.raises(ConfigError, match="model"):
        load_config(None, setting)
