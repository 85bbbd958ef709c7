"""A small packed set of scenes, and a model on it that always says `crossed`."""

from pathlib import Path

import pytest
import torch

from megl_core.config import BackboneConfig, DataConfig, DecoderConfig, ModelConfig, PackConfig, ScenesConfig
from megl_core.data.importers import import_dataset
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.data.packed import PackedDataset
from megl_core.data.tokenizer import WordTokenizer
from megl_core.models.megl import MEGL

LABELS = ["round", "boxy", "pointed", "crossed"]


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images in each of test, ood and conflict, two of each class; 4 in val."""
    root = tmp_path_factory.mktemp("scenes")
    config = DataConfig(scenes=ScenesConfig(num_train=8, num_val=4, num_test=8))
    import_dataset("procedural", None, root / "dataset", config)
    write_manifest(scan(root / "dataset", config.split), root / "manifest.parquet")
    pack(root / "dataset", root / "manifest.parquet", root / "packed", PackConfig(), labels=LABELS)
    return root / "packed"


@pytest.fixture(scope="session")
def crossed_model(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without evidence: the head's weights are 0, its bias gives `crossed` odds of 9 to 1."""
    torch.manual_seed(0)
    model = tiny_model(packed, LABELS)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 27.0]).log().clamp(min=0))
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


def tiny_model(packed: Path, labels: list[str]) -> MEGL:
    rows = PackedDataset(packed, "train")
    texts = [text for index in range(len(rows)) for text in rows[index].explanations]
    config = ModelConfig(
        backbone=BackboneConfig(widths=[8, 8], depths=[1, 1]), decoder=DecoderConfig(width=16, max_tokens=5)
    )
    return MEGL(config, labels, WordTokenizer.learn(texts))
