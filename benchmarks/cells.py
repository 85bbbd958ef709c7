"""What is measured: cells, each a configuration that is run with several seeds.

The protocol is `BASE`; a cell changes a few settings of it. A run's data and its initial weights have the
same seed, so that cells which share a seed are pairs.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar, get_args

from benchmarks.sources import Scenes, Source
from megl_core.config import Config, load_config
from megl_core.files import sha256_json

Overrides = Mapping[str, Any]
Group = Literal["headline", "ablation", "grid", "baseline", "converged", "tuned"]
GROUPS: tuple[Group, ...] = get_args(Group)

BASE: Overrides = {
    "data.scenes.num_train": 2400,
    "data.scenes.num_val": 300,
    "data.scenes.num_test": 600,
    "data.scenes.size": 32,
    "data.scenes.cue_correlation": 0.95,
    "data.scenes.text_share": 1.0,
    "model.saliency": "centered",
    "model.grounding.text_path": "both",
    "objective.alignment": "energy",
    "objective.visual": 1.0,
    "objective.text": 3.0,
    "objective.consistency": 1.0,
    "objective.region": 0.3,
    "objective.region_source": "learned",
    "train.epochs": 12,
    "train.batch_size": 32,
    "train.learning_rate": 3e-3,
    "train.annotated_quota": 0.25,
    "train.mix_backgrounds": 0.5,
    "train.num_threads": 1,
    "train.device": "cpu",
    "train.checkpoint_seconds": 3600.0,
    "evaluation.num_threads": 1,
    "evaluation.max_texts": 150,
    "evaluation.faithfulness_samples": 0,
    "evaluation.gallery": 0,
}
"""The protocol, MEGL as it is: every method starts from here."""

SEEDS = (10, 11, 12, 13, 14)
FEW_SEEDS = SEEDS[:3]
GRID_SEED = SEEDS[0]
CONVERGED_EPOCHS = 36

SPECIFICATION: Overrides = {
    "objective.text": 1.0,
    "objective.region": 0.0,
    "train.mix_backgrounds": 0.0,
}
ENERGY: Overrides = {**SPECIFICATION, "objective.text": 0.0, "objective.consistency": 0.0}
CROSS_ENTROPY: Overrides = {**ENERGY, "objective.visual": 0.0}
TEXT_LEXICON: Overrides = {
    "objective.visual": 0.0,
    "objective.consistency": 0.0,
    "objective.region": 1.0,
    "objective.region_source": "lexicon",
    "train.mix_backgrounds": 0.0,
}
TEXT_ONLY: Overrides = {**TEXT_LEXICON, "objective.region": 0.0}

METHODS: Mapping[str, Overrides] = {
    "cross-entropy": CROSS_ENTROPY,
    "text-only": TEXT_ONLY,
    "text-lexicon": TEXT_LEXICON,
    "energy": ENERGY,
    "specification": SPECIFICATION,
    "megl": {},
}

REMOVALS: Mapping[str, Overrides] = {
    "without-visual": {"objective.visual": 0.0},
    "without-text": {"objective.text": 0.0},
    "without-consistency": {"objective.consistency": 0.0},
    "without-region": {"objective.region": 0.0},
    "without-mix": {"train.mix_backgrounds": 0.0},
    "without-quota": {"train.annotated_quota": 0.0},
}
VARIANTS: Mapping[str, Overrides] = {
    "path-saliency": {"model.grounding.text_path": "saliency"},
    "path-features": {"model.grounding.text_path": "features"},
    "path-off": {"model.grounding.text_path": "off"},
    "map-plain": {"model.saliency": "plain"},
    "map-contrastive": {"model.saliency": "contrastive"},
    "region-lexicon": {"objective.region_source": "lexicon"},
}

PUBLISHED = ("energy", "haics", "gradia", "res_g", "res_l", "rrr")
WEIGHTS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
MAPS = ("plain", "centered")
SECTIONS = ("model", "objective", "train", "evaluation", "pack")
"""Sections of the configuration that decide a run's numbers, besides its source's."""
_LATER: Overrides = {
    "accumulate": 1,
    "precision": "float32",
    "compile": False,
    "shard": "none",
    "on_nan": "stop",
    "max_skipped": 10,
    "shuffle_shards": 8,
}
"""Settings of `train` that came after the first results, with the values that those were made with."""
_IDLE = ("checkpoint_seconds", "stall_seconds", "cache_mb", "num_workers")
"""Settings of `train` that decide no number and came later too."""
_GONE: Overrides = {"checkpoint_every": 1000, "cache_images": True}
"""What the first results had in `train` instead."""


class Named(Protocol):
    """What `--only` chooses from."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


@dataclass(frozen=True, eq=False)
class Cell:
    """One place of a table.

    Attributes:
        method: what is compared, `megl` or `without-text`; in the grid the tuned method.
        share: per cent of the training images that keep their mask.
        overrides: what it changes in `BASE`.
        note: tells cells of the grid apart.
    """

    group: Group
    method: str
    share: int
    overrides: Overrides
    seeds: tuple[int, ...]
    note: str = ""

    @property
    def name(self) -> str:
        """`headline/megl@5`, what `--only` looks at."""
        return f"{self.group}/{self.method}@{self.share}" + (f"/{self.note}" if self.note else "")


@dataclass(frozen=True)
class Run:
    """A cell with one of its seeds, the configuration that this comes to, and its images."""

    cell: Cell
    seed: int
    overrides: Overrides
    config: Config
    source: Source = field(default_factory=Scenes)

    @cached_property
    def config_digest(self) -> str:
        """SHA-256 over every setting that decides about the numbers, the seeds among them.

        A setting that is new leaves the digests of earlier results as they are, until it is used.
        """
        tree = self.config.model_dump(mode="json")
        settings = {name: tree[name] for name in SECTIONS} | {"train": _settled(tree["train"])}
        return sha256_json(settings | self.source.settings(self.config))


def _settled(train: Overrides) -> dict[str, Any]:
    """The section `train` in the form that the first results had."""
    kept = {
        name: value
        for name, value in train.items()
        if name not in _IDLE and (name not in _LATER or value != _LATER[name])
    }
    return {**kept, **_GONE}


def run_of(cell: Cell, seed: int, base: Overrides = BASE) -> Run:
    """The run of a cell with a seed."""
    overrides = {
        **cell.overrides,
        "data.scenes.mask_share": cell.share / 100,
        "data.scenes.seed": seed,
        "train.seed": seed,
    }
    return Run(cell, seed, overrides, configured({**base, **overrides}))


def configured(overrides: Overrides) -> Config:
    """The library's defaults with some settings changed."""
    return load_config(overrides=[f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def runs_of(cells: Iterable[Cell], base: Overrides = BASE) -> list[Run]:
    """The runs of cells in the order of their groups, each group seed by seed; no configuration twice."""
    groups = [list(members) for _, members in itertools.groupby(cells, key=lambda cell: cell.group)]
    runs: dict[str, Run] = {}
    for members in groups:
        for seed in sorted({seed for cell in members for seed in cell.seeds}):
            for cell in members:
                if seed in cell.seeds:
                    run = run_of(cell, seed, base)
                    runs.setdefault(run.config_digest, run)
    return list(runs.values())


def select(cells: Iterable[N], pattern: str | None) -> list[N]:
    """The cells, or searches, whose name fits a shell pattern."""
    return [cell for cell in cells if pattern is None or fnmatchcase(cell.name, pattern)]


# --- the plan --------------------------------------------------------------------------------


def fixed_cells(full: bool) -> list[Cell]:
    """Every cell that is known before anything ran, the most useful first."""
    return [*headline(full), *ablations(full), *grid(full), *(_converged_reference() if full else ())]


def headline(full: bool) -> list[Cell]:
    """Methods by share of masks."""
    shares = {
        "cross-entropy": [0],
        "text-only": [0],
        "text-lexicon": [0],
        "energy": [5, 2, 10, 100] if full else [5, 2, 10],
        "specification": [5, 2, 10, 100] if full else [5, 2],
        "megl": [5, 2, 10, 100, 50, 20, 0] if full else [5, 2, 10, 100],
    }
    seeds = SEEDS if full else FEW_SEEDS
    cells = [
        Cell("headline", method, share, METHODS[method], seeds)
        for method, chosen in shares.items()
        for share in chosen
    ]
    order = [0, 5, 2, 10, 100, 50, 20]
    return sorted(cells, key=lambda cell: (cell.method == "megl" and not cell.share, order.index(cell.share)))


def ablations(full: bool) -> list[Cell]:
    """MEGL with one thing removed or exchanged."""
    shares = (5, 2) if full else (2,)
    changes = {**REMOVALS, **VARIANTS} if full else REMOVALS
    return [
        Cell("ablation", method, share, overrides, FEW_SEEDS)
        for share in shares
        for method, overrides in changes.items()
    ]


def grid(full: bool) -> list[Cell]:
    """Weights and maps to choose from, with one seed. The loss of RRR reads no map: one kind is enough."""
    methods = (*PUBLISHED, "megl") if full else PUBLISHED
    return [
        _tuned("grid", method, share, weight, kind, (GRID_SEED,))
        for share in ((100, 10) if full else (100,))
        for method in methods
        for kind in (MAPS if full and method != "rrr" else ("centered",))
        for weight in (WEIGHTS if full else (1.0, 100.0))
    ]


def _tuned(group: Group, method: str, share: int, weight: float, kind: str, seeds: tuple[int, ...]) -> Cell:
    start = {} if method == "megl" else {**ENERGY, "objective.alignment": method}
    overrides = {**start, "objective.visual": weight, "model.saliency": kind}
    return Cell(group, method, share, overrides, seeds, note=f"{kind}-{weight:g}")


def _converged_reference() -> Iterator[Cell]:
    yield Cell("converged", "cross-entropy", 0, _longer(CROSS_ENTROPY), FEW_SEEDS)


def chosen_cells(choices: Sequence[Cell], full: bool) -> list[Cell]:
    """The chosen cells of the grid with more seeds, trained as long as all others and three times as long."""
    seeds = FEW_SEEDS if full else (GRID_SEED,)
    cells = [_regroup(cell, "baseline", cell.overrides, seeds) for cell in choices]
    if full:
        cells += [_regroup(cell, "converged", _longer(cell.overrides), FEW_SEEDS) for cell in choices]
    return cells


def _regroup(cell: Cell, group: Group, overrides: Overrides, seeds: tuple[int, ...]) -> Cell:
    return Cell(group, cell.method, cell.share, overrides, seeds, cell.note)


def _longer(overrides: Overrides) -> Overrides:
    return {**overrides, "train.epochs": CONVERGED_EPOCHS}
