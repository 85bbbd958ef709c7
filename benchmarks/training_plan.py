"""What the benchmark of the training compares, and how much of it each of its two forms does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sources import Scenes
from benchmarks.worker import packed_data
from megl_core.config import Config, load_config

Overrides = Mapping[str, Any]

MODELS: Mapping[str, Overrides] = {
    "32 px": {},
    "64 px": {
        "data.scenes.size": 64,
        "model.image_size": 64,
        "model.backbone.widths": [32, 64, 128],
        "model.backbone.depths": [2, 2, 2],
    },
}
"""The model of the defaults, and one whose classifier's step takes several times as long."""

CLASSIFIER: Overrides = {f"objective.{term}": 0.0 for term in ("visual", "consistency", "text", "region")}
VARIANTS: Mapping[str, Overrides] = {
    "classifier": CLASSIFIER,
    "visual": {**CLASSIFIER, "objective.visual": 1.0},
    "consistency": {**CLASSIFIER, "objective.consistency": 1.0},
    "visual + consistency": {**CLASSIFIER, "objective.visual": 1.0, "objective.consistency": 1.0},
    "visual + consistency + decoder": {"objective.region": 0.0},
    "all terms": {},
}
"""The losses of a step: what the defaults are with some of their terms left out."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: of a training set, and of the set that is evaluated.
        repetitions: of what is timed in turns.
        steps: of each variant in a repetition.
        runs: processes for each number that needs one of its own.
        channels: of the features that maps are made of.
        models: of `MODELS`.
        rows: of the sets that the loader iterates over.
        epochs: of the model that is evaluated.
        scaling_epochs: of the runs in one and two processes.
        demo: changes of the configuration of the pipeline's run.
    """

    images: int = 512
    repetitions: int = 15
    steps: int = 5
    runs: int = 3
    channels: int = 2048
    models: tuple[str, ...] = ("32 px", "64 px")
    rows: tuple[int, ...] = (1_000, 10_000, 100_000)
    epochs: int = 6
    scaling_epochs: int = 8
    demo: tuple[str, ...] = ()


QUICK = Size(
    images=64,
    repetitions=2,
    steps=1,
    runs=1,
    channels=64,
    models=("32 px",),
    rows=(64, 640),
    epochs=1,
    scaling_epochs=4,
    demo=(
        "data.scenes.num_train=96",
        "data.scenes.num_val=16",
        "data.scenes.num_test=16",
        "train.epochs=1",
        "gate.rules=[]",
    ),
)


def configuration(model: str, variant: str, size: Size) -> Config:
    """The defaults with a model, a variant and a number of images."""
    return configured(size.images, {**MODELS[model], **VARIANTS[variant]})


def configured(num_images: int, overrides: Overrides) -> Config:
    """The defaults with a number of images and some settings."""
    data = {
        "data.scenes.num_train": num_images,
        "data.scenes.num_val": max(16, num_images // 8),
        "data.scenes.num_test": max(16, num_images // 2),
        "train.device": "cpu",
        "train.checkpoint_seconds": 3600.0,
    }
    changes = [f"{name}={json.dumps(value)}" for name, value in {**data, **overrides}.items()]
    return load_config(None, changes)


def packed_scenes(config: Config, folder: Path) -> Path:
    """The packed images of a configuration; made once in a folder."""
    return packed_data(config, folder, Scenes())
