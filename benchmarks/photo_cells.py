"""What is measured on photographs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    CROSS_ENTROPY,
    ENERGY,
    SPECIFICATION,
    TEXT_LEXICON,
    TEXT_ONLY,
    Cell,
    Group,
    Overrides,
    Run,
    configured,
)
from benchmarks.sources import Photos

_PLACES = [
    f"in the {place}"
    for place in ("upper left", "upper centre", "upper right", "middle left", "centre", "middle right")
] + [f"in the lower {place}" for place in ("left", "centre", "right")]

PHOTOS: Overrides = {
    "model.image_size": 128,
    "model.backbone.stem_stride": 4,
    "model.backbone.widths": [32, 64, 128],
    "model.backbone.depths": [1, 1, 1],
    "train.epochs": 20,
    "train.batch_size": 32,
    "train.num_threads": 1,
    "train.device": "cpu",
    "train.checkpoint_seconds": 3600.0,
    "evaluation.num_threads": 1,
    "evaluation.faithfulness_samples": 0,
    "evaluation.gallery": 0,
    "evaluation.max_texts": 300,
}
"""Of all sets: a compact ResNet from scratch on 128 pixels, with maps of 8 x 8."""

EXPLAINED: Overrides = {
    "objective.visual": 2.0,
    "objective.text": 3.0,
    "objective.consistency": 1.0,
    "objective.region": 1.0,
    "train.mix_backgrounds": 1.0,
    "train.annotated_quota": 0.5,
}
"""MEGL as it was set for objects on scenes, by trials with `TRIAL_SEED`."""

TRIAL_SEED = 0
"""Trials with this seed looked at test images; numbers of other seeds are the cleaner ones."""

METHODS: Mapping[str, Overrides] = {
    "cross-entropy": CROSS_ENTROPY,
    "text-only": TEXT_ONLY,
    "text-lexicon": TEXT_LEXICON,
    "energy": {**EXPLAINED, **ENERGY},
    "specification": {**EXPLAINED, **SPECIFICATION, "objective.visual": 1.0},
    "megl": EXPLAINED,
    "megl-defaults": {},
    "without-mix": {**EXPLAINED, "train.mix_backgrounds": 0.0},
    "without-region": {**EXPLAINED, "objective.region": 0.0},
    "without-text": {**EXPLAINED, "objective.text": 0.0},
    "without-visual": {**EXPLAINED, "objective.visual": 0.0},
    "without-consistency": {**EXPLAINED, "objective.consistency": 0.0},
    "defaults-without-mix": {"train.mix_backgrounds": 0.0},
}


@dataclass(frozen=True)
class Dataset:
    """A set and its protocol.

    Attributes:
        images: training images, about.
        overrides: what it changes in `PHOTOS`.
        cells: (method, per cent of the training masks that stay), the most useful first.
        seeds: of weights and batches, and of which masks stay.
        ablations: further cells, run when those are done.
    """

    name: str
    images: int
    overrides: Overrides
    cells: tuple[tuple[str, int], ...]
    seeds: tuple[int, ...]
    ablations: tuple[tuple[str, int], ...] = ()


DATASETS = (
    Dataset(
        "eth80_scenes",
        1856,
        {"evaluation.group_columns": ["scene"], "evaluation.slot_phrases": {"place": _PLACES}},
        (
            ("cross-entropy", 0),
            ("megl", 10),
            ("megl", 100),
            ("energy", 100),
            ("energy", 10),
            ("text-only", 0),
            ("text-lexicon", 0),
            ("specification", 100),
            ("specification", 10),
        ),
        (0, 1, 2),
        (
            ("without-mix", 100),
            ("without-region", 10),
            ("without-mix", 10),
            ("without-text", 100),
            ("megl-defaults", 100),
            ("without-text", 10),
            ("without-region", 100),
            ("without-visual", 10),
            ("without-consistency", 10),
        ),
    ),
    Dataset(
        "magnetic_tile",
        940,
        {"model.backbone.stem_stride": 2},
        (
            ("cross-entropy", 0),
            ("energy", 100),
            ("megl-defaults", 100),
            ("defaults-without-mix", 100),
        ),
        (0, 1),
    ),
    Dataset("ucm_captions", 1680, {}, (("cross-entropy", 0), ("text-only", 0)), (0, 1)),
)


@dataclass(frozen=True, eq=False)
class PhotoCell(Cell):
    """A cell of one of the sets."""

    dataset: str = ""
    protocol: Overrides = field(default_factory=dict)
    images: int = 0

    @property
    def name(self) -> str:
        """`eth80_scenes/megl@10`, what `--only` looks at."""
        return f"{self.dataset}/{self.method}@{self.share}"

    def fits(self, pattern: str | None) -> bool:
        return pattern is None or fnmatchcase(self.name, pattern)

    def run(self, seed: int, dataset: Path) -> Run:
        """The run with a seed; of the folder only its name is part of the run's identity."""
        settings: dict[str, Any] = {**PHOTOS, **self.protocol, **self.overrides, "train.seed": seed}
        source = Photos(dataset, self.share, seed, self.images)
        return Run(self, seed, {**self.overrides, "train.seed": seed}, configured(settings), source)


def photo_cells() -> list[PhotoCell]:
    """Every cell, set by set."""
    cells = []
    for dataset in DATASETS:
        cells += [_cell(dataset, *cell, "headline") for cell in dataset.cells]
        cells += [_cell(dataset, *cell, "ablation") for cell in dataset.ablations]
    return cells


def _cell(dataset: Dataset, method: str, share: int, group: Group) -> PhotoCell:
    return PhotoCell(
        group,
        method,
        share,
        METHODS[method],
        dataset.seeds,
        dataset=dataset.name,
        protocol=dataset.overrides,
        images=dataset.images,
    )


def photo_runs(cells: Iterable[PhotoCell], sets: Mapping[str, Path]) -> list[Run]:
    """The runs of the cells: first what is not an ablation, each part seed by seed."""
    planned = [(cell, seed) for cell in cells for seed in cell.seeds]
    planned.sort(key=lambda run: (run[0].group == "ablation", run[1]))
    return [cell.run(seed, sets[cell.dataset]) for cell, seed in planned]
