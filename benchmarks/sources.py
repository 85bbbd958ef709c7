"""Where the images of a run come from: the procedural set, or a folder of photographs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from megl_core.config import Config
from megl_core.data.contract import TRAIN
from megl_core.data.importers import import_dataset
from megl_core.data.manifest import row_digest, scan, write_manifest
from megl_core.progress import SilentReporter

_SIMPLE, _TEXT, _PIXELS = 27.0, 24.0, 37.0
"""Seconds of twelve epochs of scenes on one core: more with a decoder, more with second-order gradients."""
_PHOTO, _PHOTO_TEXT, _FINE = 0.0037, 0.0012, 2.2
"""Seconds of an epoch for one photograph of 128 pixels, what a decoder adds, and how many times as long a
stem takes that keeps more than a fourth of the side."""


class Source(Protocol):
    """Images, masks and texts of a run."""

    def settings(self, config: Config) -> dict[str, Any]:
        """What decides the data; part of the run's identity."""

    def write(self, config: Config, folder: Path) -> tuple[Path, Path]:
        """The dataset and its manifest; what is new is written below `folder`."""

    def seconds(self, config: Config) -> float:
        """How long a run takes on one core, about."""


@dataclass(frozen=True)
class Scenes:
    """The procedural set of `data.scenes`."""

    def settings(self, config: Config) -> dict[str, Any]:
        return {"scenes": config.data.scenes.model_dump(mode="json")}

    def write(self, config: Config, folder: Path) -> tuple[Path, Path]:
        dataset, manifest = folder / "dataset", folder / "manifest.parquet"
        import_dataset(config.data.importer, None, dataset, config.data, SilentReporter())
        write_manifest(scan(dataset, config.data.split, SilentReporter()), manifest)
        return dataset, manifest

    def seconds(self, config: Config) -> float:
        rounds = config.train.epochs / 12 * config.data.scenes.num_train / 2400
        text = _TEXT if config.objective.text > 0 else 0.0
        pixels = _PIXELS if config.objective.alignment == "rrr" and config.objective.visual > 0 else 0.0
        return (_SIMPLE + text + pixels) * rounds


@dataclass(frozen=True)
class Photos:
    """A dataset folder, of whose training images some keep their mask.

    Attributes:
        share: per cent of the masks of training images that stay; sets of growing share are nested.
        seed: which ones.
        images: about as many are trained on.
    """

    dataset: Path
    share: int
    seed: int
    images: int

    def settings(self, config: Config) -> dict[str, Any]:
        split = config.data.split.model_dump(mode="json")
        return {"photos": {"set": self.dataset.name, "share": self.share, "seed": self.seed, "split": split}}

    def write(self, config: Config, folder: Path) -> tuple[Path, Path]:
        manifest = folder / "manifest.parquet"
        table = scan(self.dataset, config.data.split, SilentReporter())
        write_manifest(withhold_masks(table, self.share, self.seed), manifest)
        return self.dataset, manifest

    def seconds(self, config: Config) -> float:
        each = _PHOTO + (_PHOTO_TEXT if config.objective.text > 0 else 0.0)
        fine = _FINE if config.model.backbone.stem_stride < 4 else 1.0
        return each * fine * self.images * config.train.epochs


def withhold_masks(table: pa.Table, share: int, seed: int) -> pa.Table:
    """A manifest whose training rows keep `share` per cent of their masks, rounded; others lose none."""
    rows = table.to_pylist()
    masked = [index for index, row in enumerate(rows) if row["split"] == TRAIN and row["mask"] is not None]
    order = np.random.default_rng(seed).permutation(len(masked))
    for place in order[round(share / 100 * len(masked)) :].tolist():
        row = rows[masked[place]]
        row |= {name: None for name in row if name.startswith("mask")}
        row["row_sha256"] = row_digest(row)
    return pa.Table.from_pylist(rows, schema=table.schema)
