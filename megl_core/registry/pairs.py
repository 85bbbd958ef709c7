"""What two models made of the same samples, and how sure a difference of their metrics is."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from megl_core.errors import GateError, IntegrityError
from megl_core.evaluation import EVALUATION_FILE, PREDICTIONS_FILE
from megl_core.files import read_json, sha256_file

Values = NDArray[np.float64]

_COLUMNS = {"accuracy": "correct"}
"""Metrics that are means of a column of another name."""
_WORST_GROUP = "worst_group_accuracy"
_RIGHT = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
"""Whether the new and the old model are right, by outcome."""
_SEED = 0
_CHUNK = 4_000_000  # drawn indices at a time: 32 MB


@dataclass(frozen=True)
class Pairs:
    """Predictions of two models for the same samples, row by row.

    Attributes:
        new, old: tables of predictions.parquet, in the order of (split, id).
        groups: `{split: the groups that the evaluation counted}`.
    """

    new: pa.Table
    old: pa.Table
    groups: Mapping[str, list[dict[str, Any]]]

    def interval(self, metric: str, confidence: float, resamples: int) -> tuple[float, float] | None:
        """Percentile interval of new less old for the metric `<split>.<name>`.

        None where the metric is no mean over samples (such as macro F1), or no sample has it.
        """
        split, name = self._split_of(metric)
        if split is None:
            return None
        mask = pc.equal(self.new["split"], split)
        new, old = self.new.filter(mask), self.old.filter(mask)
        if name == _WORST_GROUP:
            return self._worst_group(new, old, split, confidence, resamples)
        column = _COLUMNS.get(name, name)
        if column not in new.column_names or not _is_number(new.schema.field(column).type):
            return None
        difference = _values(new[column]) - _values(old[column])
        difference = difference[~np.isnan(difference)]
        if not len(difference):
            return None
        return bootstrap(lambda rows: difference[rows].mean(axis=1), len(difference), confidence, resamples)

    def _split_of(self, metric: str) -> tuple[str | None, str]:
        """Splits may hold dots."""
        for split in pc.unique(self.new["split"]).to_pylist():
            if metric.startswith(f"{split}."):
                return split, metric.removeprefix(f"{split}.")
        return None, metric

    def _worst_group(
        self, new: pa.Table, old: pa.Table, split: str, confidence: float, resamples: int
    ) -> tuple[float, float] | None:
        groups = self.groups.get(split, [])
        if not groups:
            return None
        # A sample is one of four outcomes in its group: counting them is all that a resample takes.
        outcome = 2 * _values(new["correct"]).astype(np.int64) + _values(old["correct"]).astype(np.int64)
        codes = 4 * _group_of(new, groups) + outcome
        num_codes = 4 * (len(groups) + 1)

        def difference(rows: NDArray[np.int64]) -> Values:
            shifted = codes[rows] + num_codes * np.arange(len(rows))[:, None]
            counts = np.bincount(shifted.ravel(), minlength=num_codes * len(rows))
            counts = counts.reshape(len(rows), -1, 4)[:, : len(groups)]
            with np.errstate(invalid="ignore"):  # a group that was not drawn is NaN
                accuracy = counts @ _RIGHT / counts.sum(axis=2, keepdims=True)
            worst = np.nanmin(accuracy, axis=1)
            return worst[:, 0] - worst[:, 1]

        return bootstrap(difference, len(new), confidence, resamples)


def read_pairs(new: Path, old: Path) -> Pairs | None:
    """The predictions of two evaluation folders; None where one has none.

    Raises:
        GateError: they hold different samples.
        IntegrityError: predictions are not those that their evaluation was made with.
    """
    ours, theirs = _read(new), _read(old)
    if ours is None or theirs is None:
        return None
    if not ours.select(["split", "id"]).equals(theirs.select(["split", "id"])):
        raise GateError(
            "challenger and champion predicted different samples",
            where=f"{new} and {old}",
            fix="evaluate both on the same data with the same evaluation.splits",
        )
    groups = read_json(new / EVALUATION_FILE).get("groups", {})
    return Pairs(ours, theirs, groups)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Values], n: int, confidence: float, resamples: int
) -> tuple[float, float]:
    """Percentile interval of a statistic over `n` samples that are drawn anew, with replacement.

    The draws have a fixed seed: the same predictions give the same interval. Efron, "Bootstrap methods:
    another look at the jackknife", 1979.

    Args:
        statistic: of (R, n) drawn row numbers, R at a time; returns (R,).
    """
    generator = np.random.default_rng(_SEED)
    size = max(1, _CHUNK // n)
    found = [
        statistic(generator.integers(0, n, (min(size, resamples - start), n)))
        for start in range(0, resamples, size)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


def _read(folder: Path) -> pa.Table | None:
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        return None
    recorded = read_json(folder / EVALUATION_FILE).get("predictions_digest")
    if recorded is not None and sha256_file(path) != recorded:
        raise IntegrityError(
            "the predictions are not those that the evaluation was made with",
            where=str(path),
            fix="evaluate again: megl evaluate MODEL DATA",
        )
    return pq.read_table(path).sort_by([("split", "ascending"), ("id", "ascending")])


def _group_of(table: pa.Table, groups: list[dict[str, Any]]) -> NDArray[np.int64]:
    """(n,) each row's place in `groups`; `len(groups)` where it belongs to none of them."""
    columns = [name for name in groups[0] if name not in ("accuracy", "n")]
    places = {tuple(group[name] for name in columns): place for place, group in enumerate(groups)}
    extras = (json.loads(text) for text in table["extra"].to_pylist())
    rows = (extra | {"label": label} for extra, label in zip(extras, table["label"].to_pylist(), strict=True))
    keys = (tuple(str(row.get(name)) for name in columns) for row in rows)
    return np.array([places.get(key, len(groups)) for key in keys], dtype=np.int64)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _values(column: pa.ChunkedArray) -> Values:
    """(n,); NaN where there is no value."""
    return np.array(column.cast(pa.float64()).to_pylist(), dtype=np.float64)
