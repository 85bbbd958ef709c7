"""Training on checkpoints of other encoders, from packed data to a model folder."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.files import read_json
from megl_core.models.megl import MEGL
from megl_core.training import train
from tests.unit.models.tiny import save_checkpoint


@pytest.mark.parametrize(
    ("kind", "pooling", "saliency", "first"),
    [
        ("vit", "checkpoint", "relevance", "backbone.encoder.embeddings.patch_embeddings.projection.weight"),
        ("resnet", "mean", "centered", "backbone.encoder.embedder.embedder.convolution.weight"),
    ],
)
@pytest.mark.parametrize("trainable", ["all", 1])
def test_a_run_on_a_checkpoint(
    kind: str, pooling: str, saliency: str, first: str, trainable: str | int, packed: Path, tmp_path: Path
) -> None:
    checkpoint = save_checkpoint(kind, tmp_path / "checkpoint")
    model = ModelConfig(
        saliency=saliency,
        backbone=BackboneConfig(
            name="hf",
            path=str(checkpoint),
            pooling=pooling,
            trainable=trainable,
        ),
        decoder=DecoderConfig(width=16, max_tokens=6),
    )
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=1e-3)
    train(packed, tmp_path / "model", model, ObjectiveConfig(), config)
    history = read_json(tmp_path / "model" / "training.json")["history"]
    assert {"classification", "visual", "consistency", "text", "val_accuracy"} <= set(history[-1])
    assert all(math.isfinite(row["loss"]) for row in history)
    trained = MEGL.load(tmp_path / "model")
    assert (trained.image_size, trained.map_size) == (16, 2)
    torch.manual_seed(config.seed)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    fresh = MEGL(model, trained.labels).state_dict()
    assert torch.equal(weights[first], fresh[first]) == (trainable == 1)
    assert not torch.equal(weights["head.weight"], fresh["head.weight"])
