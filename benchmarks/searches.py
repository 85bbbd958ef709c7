"""Every method tuned alike: the same number of trials of `megl tune`, then the best setting with fresh seeds.

A search sees training and validation images of one seed, and its trials are compared by validation accuracy
plus energy in mask, each in [0, 1] with weight one. Shifted data enter neither.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.cells import BASE, ENERGY, TEXT_ONLY, Cell, Overrides, Run, run_of
from benchmarks.lines import JsonLines
from benchmarks.sources import Scenes
from benchmarks.worker import machine, packed_data
from megl_core.data.packed import read_info
from megl_core.files import sha256_json
from megl_core.progress import get_reporter
from megl_core.tuning import Space, tune
from megl_core.tuning.space import Range

TRIALS = 8
EPOCHS = 6
"""Of a trial; the best setting is trained as long as all others on the page."""
SHARE = 5
"""Per cent of masks: where methods separate."""
SEED = 15
FRESH_SEEDS = (16, 17, 18)

WEIGHT = Range(low=0.1, high=1000.0, log=True)
RATE = Range(low=0.001, high=0.01, log=True)
_REGION = Range(low=0.1, high=3.0, log=True)
_VISUAL = {"objective.visual": WEIGHT, "train.learning_rate": RATE}
_RIVALS = ("energy", "gradia", "res_l", "res_g", "haics")


@dataclass(frozen=True)
class Search:
    """What is searched for a method: ranges of settings, on top of what it changes in the protocol."""

    method: str
    overrides: Overrides
    ranges: Mapping[str, Range]
    base: Overrides = field(default_factory=lambda: BASE)
    trials: int = TRIALS

    @property
    def name(self) -> str:
        """`tuned/megl@5`, as its cell's."""
        return self.cell({}).name

    @property
    def space(self) -> Space:
        return Space(parameters=dict(self.ranges))

    @cached_property
    def run(self) -> Run:
        """Its first trial: the method as it is."""
        return run_of(self.cell({"train.epochs": EPOCHS}), SEED, self.base)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides about its trials but the code."""
        space = self.space.model_dump(mode="json")
        return sha256_json({"config": self.run.config_digest, "space": space, "trials": self.trials})

    def cell(self, values: Overrides) -> Cell:
        """The method with some settings, for fresh seeds."""
        return Cell("tuned", self.method, SHARE, {**self.overrides, **values}, FRESH_SEEDS)


def searches() -> list[Search]:
    """One for each method that has something to weigh, the quick ones before RRR."""
    return [
        Search("megl", {}, {**_VISUAL, "objective.region": _REGION}),
        *(Search(name, {**ENERGY, "objective.alignment": name}, _VISUAL) for name in _RIVALS),
        Search(
            "text-only",
            {**TEXT_ONLY, "train.annotated_quota": 0.0},
            {"objective.text": WEIGHT, "train.learning_rate": RATE},
        ),
        Search("rrr", {**ENERGY, "objective.alignment": "rrr"}, _VISUAL),
    ]


@dataclass(frozen=True)
class Searched:
    """What a search came to.

    Attributes:
        search, code, data: SHA-256 of its settings, of the source of megl_core, of the data.
        best: the settings of the best trial, by dotted name.
        score: of the best trial, validation accuracy plus energy in mask, in [0, 2].
        trials: every trial as `megl tune` lists them in `trials.json`.
    """

    method: str
    search: str
    code: str
    data: str
    best: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]
    finished: str
    machine: dict[str, str]


class SearchResults:
    """The finished searches of a file; those of other code count where `keep_stale` is on."""

    def __init__(self, path: Path, code: str, *, keep_stale: bool = False) -> None:
        self._lines = JsonLines(path)
        self.code = code
        self.keep_stale = keep_stale
        self._all = [self._lines.parse(Searched, line) for line in self._lines.read()]

    def find(self, search: Search) -> Searched | None:
        """The newest result of a search, of this code before any other."""
        same = [one for one in self._all if one.search == search.digest]
        current = [one for one in same if one.code == self.code]
        counted = current or (same if self.keep_stale else [])
        return counted[-1] if counted else None

    def add(self, searched: Searched) -> None:
        self._lines.append(vars(searched))
        self._all.append(searched)

    def cells(self, plan: Iterable[Search]) -> list[Cell]:
        """The best setting of every search that has ended."""
        return [search.cell(found.best) for search in plan if (found := self.find(search)) is not None]


def carry_out(search: Search, folder: Path, code: str) -> Searched:
    """Search with one process, so that the same search gives the same trials; what was stopped goes on.

    Args:
        folder: for packed data and the search's own files.

    Raises:
        MeglError: no trial succeeded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = search.run.config
    data = packed_data(config, folder, Scenes())
    own = folder / f"search-{search.digest[:16]}"
    found = tune(
        data, search.space, config, own, folder, trials=search.trials, track=False, reporter=get_reporter()
    )
    return Searched(
        method=search.method,
        search=search.digest,
        code=code,
        data=read_info(data).digest,
        best=dict(found.best.values),
        score=round(found.best.score or 0.0, 5),
        trials=[vars(attempt) for attempt in found.attempts],
        finished=datetime.now(UTC).date().isoformat(),
        machine=machine(),
    )
