"""The page that shows what a validation found: a table of checks, the offenders' pictures, distributions."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from megl_core import html
from megl_core.validation.expectations import EXPECTATIONS
from megl_core.validation.results import Check, Offender, Status, ValidationResult
from megl_core.validation.thumbnails import Thumbnail, thumbnail

_ORDER: tuple[Status, ...] = ("fail", "warn", "pass", "skip")
_MAX_LABELS = 40
_AREA_EDGES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_WORD_EDGES = (0, 3, 6, 9, 12, 16, 20, 30, 50, 80)


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a distribution."""

    name: str
    count: int
    share: float
    """Of the rows counted."""
    width: float
    """Of the longest bar, in percent."""


def render_report(result: ValidationResult, tables: Mapping[str, pd.DataFrame], dataset: Path) -> str:
    """The self-contained HTML page; reads the pictures of the offenders it shows from `dataset`."""
    rows_by_line = tables["samples"].set_index("line", drop=False)
    checks = sorted(result.checks, key=lambda check: _ORDER.index(check.status))
    return html.render(
        "validation.html",
        result=result,
        dataset=dataset.resolve().name,
        rows=[(check, _observed_text(check), _bound_text(check)) for check in checks],
        problems=[
            (check, list(_pictures(check, rows_by_line, dataset)))
            for check in checks
            if check.status in ("fail", "warn")
        ],
        counts={status: len(result.with_status(status)) for status in _ORDER},
        splits=_labels_by_split(tables["samples"]),
        num_hidden_labels=max(tables["samples"]["label"].nunique() - _MAX_LABELS, 0),
        histograms=_histograms(tables),
    )


def _pictures(
    check: Check, rows_by_line: pd.DataFrame, dataset: Path
) -> Iterator[tuple[Offender, list[Thumbnail]]]:
    """Each offender with its picture and, where it collides with another row, with that row's picture."""
    with_mask = EXPECTATIONS[check.name].about_mask
    for offender in check.offenders:
        lines = [line for line in (offender.line, offender.related_line) if line is not None]
        rows = rows_by_line.loc[lines].to_dict("records")
        yield offender, [thumbnail(dataset, row, with_mask) for row in rows]


def _observed_text(check: Check) -> str:
    unit = EXPECTATIONS[check.name].unit
    if check.skipped is not None:
        return "–"
    if isinstance(check.observed, dict):
        values = [value for value in check.observed.values() if value is not None]
        return _between(unit, min(values), max(values))
    if check.observed is None:
        return "nothing to measure"
    if check.bound is not None:
        return unit.format(check.observed)
    return f"{check.observed} offending" if check.observed else "none offending"


def _bound_text(check: Check) -> str:
    if check.bound is None:
        return "–"
    unit, low, high = EXPECTATIONS[check.name].unit, check.bound["min"], check.bound["max"]
    if low is not None and high is not None:
        return _between(unit, low, high)
    return f"at least {unit.format(low)}" if high is None else f"at most {unit.format(high)}"


def _between(unit: str, low: float, high: float) -> str:
    number = unit.partition(" ")[0]
    return unit.format(low) if low == high else f"{number.format(low)} to {unit.format(high)}"


def _labels_by_split(samples: pd.DataFrame) -> dict[str, list[Bar]]:
    """Bars of the most frequent labels for each split, the largest split first."""
    labels = samples["label"].value_counts().index[:_MAX_LABELS].sort_values()
    splits = samples["split"].value_counts().index
    return {
        split: _bars(samples.loc[samples["split"] == split, "label"].value_counts(), labels)
        for split in splits
    }


def _histograms(tables: Mapping[str, pd.DataFrame]) -> dict[str, list[Bar]]:
    return {
        "Marked share of the masks": _histogram(tables["samples"]["mask_area"], _AREA_EDGES, "{:g}%", 100),
        "Words in a rationale": _histogram(tables["texts"]["words"], _WORD_EDGES, "{:g}", 1),
    }


def _histogram(values: "pd.Series[float]", edges: Sequence[float], unit: str, scale: float) -> list[Bar]:
    """Bars of the values between edges, lower edge included; the last bar holds all from the last edge on."""
    known = values.dropna()
    if known.empty:
        return []
    marks = [unit.format(edge * scale) for edge in edges]
    names = [f"{low} – {high}" for low, high in itertools.pairwise(marks)] + [f"{marks[-1]} and more"]
    bins = pd.cut(known, [*edges, float("inf")], right=False, labels=names)
    return _bars(bins.value_counts(), names)


def _bars(counts: "pd.Series[int]", names: Any) -> list[Bar]:
    total, longest = max(int(counts.sum()), 1), max(int(counts.max()), 1)
    found = {str(name): int(counts.get(name, 0)) for name in names}
    return [Bar(name, count, count / total, 100 * count / longest) for name, count in found.items()]
