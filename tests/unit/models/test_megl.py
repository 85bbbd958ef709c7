"""The whole model: losses reach backbone and head, explaining leaves no trace, saving keeps everything."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig
from megl_core.data.tokenizer import IGNORE, WordTokenizer
from megl_core.errors import ConfigError, DataError, MeglError
from megl_core.models.megl import CONFIG_FILE, MEGL, WEIGHTS_FILE
from megl_core.objectives.objective import Objective, Targets
from tests.unit.models.tiny import save_checkpoint

LABELS = ["cat", "dog", "owl"]
CONFIG = ModelConfig(
    image_size=32,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16, max_tokens=8, dropout=0.0),
)


@pytest.fixture
def model() -> MEGL:
    torch.manual_seed(0)
    return MEGL(CONFIG, LABELS, WordTokenizer.learn(["A cat sits.", "The dog runs."]))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def targets(model: MEGL, *, mask: bool) -> Targets:
    assert model.tokenizer is not None
    tokens = torch.tensor([model.tokenizer.encode("a cat runs.", 8)] * 4)
    masks = torch.zeros(4, 32, 32, dtype=torch.uint8)
    masks[:, :16, :16] = 255
    return Targets(torch.tensor([0, 1, 2, 0]), masks, torch.full((4,), mask), tokens)


@pytest.mark.parametrize("term", ["visual", "consistency", "text"])
def test_each_explanation_loss_reaches_backbone_and_head(
    model: MEGL, images: torch.Tensor, term: str
) -> None:
    """A saliency loss without a gradient to the head trains nothing: a known trap of this field."""
    model.eval()
    goal = targets(model, mask=term != "consistency")
    output = model(images, goal.labels, goal.tokens[:, :-1], leak=0.1)
    objective = Objective(ObjectiveConfig(), torch.linspace(1, 0, model.map_size**2))
    objective(output, goal)[term].backward()
    for part in (model.head.weight, next(model.backbone.parameters())):
        assert part.grad is not None
        assert part.grad.abs().max() > 0


def test_without_masks_or_texts_the_loss_is_the_classification_loss(
    model: MEGL, images: torch.Tensor
) -> None:
    goal = targets(model, mask=False)
    goal = Targets(goal.labels, goal.masks, goal.has_mask, torch.full_like(goal.tokens, IGNORE))
    output = model(images, goal.labels, goal.tokens[:, :-1], leak=0.1)
    terms = Objective(ObjectiveConfig(consistency=0), None)(output, goal)
    assert terms["visual"].item() == 0
    assert terms["text"].item() == 0
    assert terms["loss"].item() == pytest.approx(terms["classification"].item())
    terms["loss"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_explaining_leaves_mode_and_gradients_as_they_were(model: MEGL, images: torch.Tensor) -> None:
    model.train()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    seen = model.explain(images)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert seen.heat_map.shape == (4, 1, 32, 32)
    assert seen.heat_map.min() >= 0
    assert seen.heat_map.max() <= 1
    assert len(seen.rationale) == 4
    assert seen.word_attention is not None
    assert seen.word_attention.shape[2:] == (model.map_size, model.map_size)


def test_the_explained_class_is_the_one_asked_for(model: MEGL, images: torch.Tensor) -> None:
    own = model.explain(images, write=False)
    following = (own.predicted_index + 1) % 3
    other = model.explain(images, following, write=False)
    assert own.target == own.predicted
    assert torch.equal(other.target_index, following)
    assert not torch.allclose(own.saliency, other.saliency)


def test_a_loaded_model_is_the_saved_one(model: MEGL, images: torch.Tensor, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = MEGL.load(tmp_path)
    before, after = model.explain(images), loaded.explain(images)
    assert torch.equal(before.probabilities, after.probabilities)
    assert before.rationale == after.rationale
    assert loaded.labels == LABELS
    assert not loaded.training


def test_a_model_that_does_not_fit_on_the_disk_is_told(model: MEGL, tiny_disk: Path) -> None:
    (tiny_disk / "other").write_bytes(b"x" * 1_020_000)
    with pytest.raises(MeglError, match=r"No space left(.|\n)*free some space"):
        model.save_pretrained(tiny_disk / "model")
    assert [path.name for path in tiny_disk.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("kind", "pooling", "saliency"),
    [
        ("resnet", "mean", "centered"),
        ("convnext", "checkpoint", "gradcam"),
        ("clip", "checkpoint", "relevance"),
    ],
)
def test_a_model_on_a_checkpoint_is_loaded_without_it(
    kind: str, pooling: str, saliency: str, pictures: torch.Tensor, tmp_path: Path
) -> None:
    checkpoint = save_checkpoint(kind, tmp_path / "checkpoint")
    backbone = BackboneConfig(name="hf", path=str(checkpoint), pooling=pooling, trainable=1)
    config = ModelConfig(saliency=saliency, backbone=backbone, decoder=DecoderConfig(width=16, max_tokens=8))
    model = MEGL(config, LABELS, WordTokenizer.learn(["A cat sits."]))
    assert model.preprocess(Image.new("RGB", (50, 20))).shape == (3, 16, 16)
    model(pictures, torch.tensor([0, 1, 2, 0]), None, 0.1)  # moves the statistics of batch norms
    folder = tmp_path / "model"
    folder.mkdir()
    model.save(folder)
    shutil.rmtree(checkpoint)
    loaded = MEGL.load(folder)
    before, after = model.explain(pictures), loaded.explain(pictures)
    assert torch.equal(before.probabilities, after.probabilities)
    assert torch.equal(before.heat_map, after.heat_map)
    assert before.rationale == after.rationale
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}


def test_a_broken_model_folder_is_refused(model: MEGL, tmp_path: Path) -> None:
    model.save(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"\x80\x04 not a tensor file")
    with pytest.raises(DataError, match="cannot load"):
        MEGL.load(tmp_path)
    saved = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(saved | {"format_version": 99}))
    with pytest.raises(DataError, match=r"99(.|\n)*train it again"):
        MEGL.load(tmp_path)


def test_an_image_size_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        MEGL(CONFIG.model_copy(update={"image_size": 30}), LABELS)


def test_a_cell_sees_no_global_statistics_of_its_image(model: MEGL, images: torch.Tensor) -> None:
    """A change far away must not reach a cell: otherwise a cue acts wherever the map says 'look here'."""
    model.eval()
    changed = images.clone()
    changed[:, :, :2, :2] = 255 - changed[:, :, :2, :2]
    with torch.no_grad():
        difference = model.backbone(changed).cells - model.backbone(images).cells
    assert difference[:, :, 0, 0].abs().max() > 0
    assert difference[:, :, -1, -1].abs().max() == 0
