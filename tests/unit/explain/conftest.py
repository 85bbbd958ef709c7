"""A small untrained model, and pictures to explain."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig
from megl_core.data.tokenizer import WordTokenizer
from megl_core.models.megl import MEGL

LABELS = ["cat", "dog", "fish", "bird"]


@pytest.fixture(scope="module")
def model() -> MEGL:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=BackboneConfig(widths=[8, 8], depths=[1, 1]), decoder=DecoderConfig(width=16, max_tokens=6)
    )
    return MEGL(config, LABELS, WordTokenizer.learn(["a cat with ears", "a dog with a tail"])).eval()


@pytest.fixture(scope="module")
def model_folder(model: MEGL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Random pictures of any size, by seed."""

    def make(seed: int, width: int = 40, height: int = 24) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
        return Image.fromarray(pixels)

    return make
