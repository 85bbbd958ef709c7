"""The results file: one JSON line for each finished run, appended and never rewritten."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, Run
from benchmarks.lines import JsonLines
from megl_core.files import sha256_json

METRICS = (
    "accuracy",
    "macro_f1",
    "worst_group_accuracy",
    "aligned_accuracy",
    "conflicting_accuracy",
    "cue_flip_rate",
    "energy_in_mask",
    "energy_in_cue",
    "pointing_game",
    "slot_accuracy",
    "bleu4",
    "rouge_l",
    "cider",
)


@dataclass(frozen=True)
class Record:
    """What a run measured.

    Attributes:
        config, code, data: SHA-256 of the resolved settings, of the source of megl_core, of the data.
        overrides: what the run changes in the protocol.
        metrics: `{split: {metric: value}}`, shares in [0, 1].
        training_seconds: wall time of the training alone.
        core_seconds: processor time of the run, data and evaluation included.
        finished: date, ISO 8601.
        machine: processor, cores, versions.
    """

    cell: str
    seed: int
    config: str
    code: str
    data: str
    overrides: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    training_seconds: float
    core_seconds: float
    steps: int
    finished: str
    machine: dict[str, str]

    @property
    def key(self) -> str:
        return run_key(self.config, self.code)

    def get(self, split: str, metric: str) -> float | None:
        """A metric in [0, 1], or None where the run has none."""
        return self.metrics.get(split, {}).get(metric)


Find = Callable[[Cell, int], Record | None]
"""Looks up the result of a cell and a seed."""


def run_key(config_digest: str, code: str) -> str:
    """The name of a result: settings and seed (both in the configuration's digest) and code."""
    return sha256_json({"config": config_digest, "code": code})


class Results:
    """The finished runs of a results file.

    Args:
        path: the file; it need not exist.
        code: digest of the code whose results count.
        keep_stale: results of other code count as well where there are none of this code.

    Raises:
        DataError: a line is not a result.
    """

    def __init__(self, path: Path, code: str, *, keep_stale: bool = False) -> None:
        self.path = path
        self._lines = JsonLines(path)
        self.code = code
        self.keep_stale = keep_stale
        self._by_key: dict[str, Record] = {}
        self._latest: dict[str, Record] = {}
        for line in self._lines.read():
            self._remember(self._lines.parse(Record, line))

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, run: Run) -> Record | None:
        """The result of a run, if it is there."""
        digest = run.config_digest
        record = self._by_key.get(run_key(digest, self.code))
        return record or (self._latest.get(digest) if self.keep_stale else None)

    def add(self, record: Record) -> None:
        """Append a result; when this returns it is on the disk."""
        self._lines.append({"key": record.key} | vars(record))
        self._remember(record)

    def _remember(self, record: Record) -> None:
        self._by_key[record.key] = record
        self._latest[record.config] = record
