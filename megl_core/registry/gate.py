"""The champion gate: is the challenger good enough, and no worse than what is in production?

A difference from the champion is judged by the worse end of its interval, from a paired bootstrap over the
samples that both predicted: noise neither promotes nor passes for a small loss.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megl_core.config import GateConfig, GateRule
from megl_core.errors import DataError, GateError
from megl_core.files import read_json, sha256_file
from megl_core.registry.pairs import Pairs, read_pairs

LOWER_IS_BETTER = frozenset({"ece", "cue_flip_rate", "energy_in_cue", "deletion_auc", "sufficiency"})
_ROUNDING = 1e-9  # 0.94 passes "no more than 0.01 below 0.95"


@dataclass(frozen=True)
class GateRow:
    """One bound of one rule.

    Attributes:
        metric: `<split>.<name>`.
        value: the challenger's; None where it was not measured.
        champion: the champion's; None without a champion or where it was not measured.
        bound: what was asked, in words.
        low, high: ends of the interval of challenger less champion; None where it is not compared, or
            where the predictions of one are missing.
        passed: whether the bound holds; a bound that does not apply passes, and `note` says why.
        note: why a row failed without a comparison, or passed without one; else empty.
    """

    metric: str
    value: float | None
    champion: float | None
    bound: str
    passed: bool
    note: str = ""
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in reports; a value that is not finite is written as null."""
        row = asdict(self)
        return row | {name: _finite_or_none(row[name]) for name in ("value", "champion", "low", "high")}


@dataclass(frozen=True)
class GateResult:
    """All rows of a gate, and the digests of what was compared."""

    passed: bool
    rows: list[GateRow]
    data_digest: str
    model_digest: str
    evaluation_digest: str
    champion_model_digest: str | None
    champion_evaluation_digest: str | None

    def to_json(self) -> dict[str, Any]:
        """The object that stands in gate.json."""
        return asdict(self) | {"rows": [row.to_json() for row in self.rows]}

    @property
    def compared(self) -> dict[str, str | None]:
        """The digests alone, by name."""
        return {name: value for name, value in asdict(self).items() if name.endswith("_digest")}


@dataclass(frozen=True)
class _Bound:
    """One bound of a rule.

    Attributes:
        words: as the report shows it.
        threshold: the value that must be reached; None: the champion's is needed and missing.
        sign: 1 where the value must not be lower, -1 where it must not be higher.
        margin: of a bound against the champion: what challenger less champion must be at least (times
            `sign`); None of an absolute bound.
    """

    words: str
    threshold: float | None
    sign: int
    margin: float | None = None


@dataclass(frozen=True)
class _Evaluation:
    path: Path
    digest: str
    model_digest: str
    data_digest: str
    metrics: Mapping[str, Mapping[str, Any]]
    roles: Mapping[str, str | None]

    @classmethod
    def read(cls, path: Path) -> "_Evaluation":
        report = read_json(path)
        try:
            return cls(
                path,
                sha256_file(path),
                str(report["model_digest"]),
                str(report["data_digest"]),
                {str(split): dict(metrics) for split, metrics in report["metrics"].items()},
                {role: report.get(f"{role}_split") for role in ("primary", "shifted")},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(
                "this is no evaluation: it needs model_digest, data_digest and metrics by split",
                where=str(path),
                fix="write it with megl evaluate",
            ) from None

    def resolve(self, metric: str) -> str:
        """The metric's name with its split's in place of `primary` or `shifted`."""
        role, _, name = metric.partition(".")
        return f"{split}.{name}" if (split := self.roles.get(role)) else metric

    def value(self, metric: str) -> float | None:
        """The metric `<split>.<name>`, or None where it was not measured. Splits may hold dots."""
        for split, metrics in self.metrics.items():
            value = metrics.get(metric.removeprefix(f"{split}."))
            if metric.startswith(f"{split}.") and isinstance(value, int | float):
                return float(value)
        return None


def compare(challenger: Path, champion: Path | None, config: GateConfig) -> GateResult:
    """Judge the challenger's evaluation.json by the rules, against the champion's where there is one.

    Without a champion only absolute bounds count. Predictions are looked for beside each evaluation.

    Raises:
        GateError: the two were evaluated on different data.
        DataError: a file is missing or is no evaluation.
        IntegrityError: predictions are not those of their evaluation.
    """
    new = _Evaluation.read(challenger)
    old = _Evaluation.read(champion) if champion else None
    if old and old.data_digest != new.data_digest:
        raise GateError(
            "challenger and champion were evaluated on different data: "
            f"{new.data_digest[:12]} and {old.data_digest[:12]}",
            where=f"{challenger} and {champion}",
            fix="evaluate the champion on the challenger's data, then compare again",
        )
    pairs = read_pairs(new.path.parent, old.path.parent) if old else None
    rows = [row for rule in config.rules for row in _judge(rule, new, old, pairs, config)]
    return GateResult(
        passed=all(row.passed for row in rows),
        rows=rows,
        data_digest=new.data_digest,
        model_digest=new.model_digest,
        evaluation_digest=new.digest,
        champion_model_digest=old.model_digest if old else None,
        champion_evaluation_digest=old.digest if old else None,
    )


def _judge(
    rule: GateRule, new: _Evaluation, old: _Evaluation | None, pairs: Pairs | None, config: GateConfig
) -> Iterator[GateRow]:
    """One row for each bound of a rule."""
    metric = new.resolve(rule.metric)
    value = new.value(metric)
    best = old.value(metric) if old else None
    for bound in _bounds(rule, best):
        interval = None
        if bound.margin is not None and pairs is not None:
            interval = pairs.interval(metric, config.confidence, config.resamples)
        verdict = _verdict(rule, value, best, bound, interval, has_champion=old is not None)
        yield GateRow(metric, value, best, bound.words, *verdict, *(interval or ()))


def _bounds(rule: GateRule, best: float | None) -> Iterator[_Bound]:
    if rule.min is not None:
        yield _Bound(f"at least {rule.min:g}", rule.min, 1)
    if rule.max is not None:
        yield _Bound(f"at most {rule.max:g}", rule.max, -1)
    lower = rule.metric.rpartition(".")[2] in LOWER_IS_BETTER
    sign = -1 if lower else 1
    if rule.max_drop is not None:
        words = f"at most {rule.max_drop:g} {'above' if lower else 'below'} the champion"
        yield _Bound(words, None if best is None else best - sign * rule.max_drop, sign, -rule.max_drop)
    if rule.min_gain is not None:
        words = f"more than {rule.min_gain:g} {'below' if lower else 'above'} the champion"
        least = rule.min_gain + 2 * _ROUNDING  # equal is no gain
        yield _Bound(words, None if best is None else best + sign * least, sign, least)


def _verdict(
    rule: GateRule,
    value: float | None,
    best: float | None,
    bound: _Bound,
    interval: tuple[float, float] | None,
    *,
    has_champion: bool,
) -> tuple[bool, str]:
    """Whether a bound holds, and a note where that was not decided by comparing two numbers."""
    if value is None or bound.threshold is None:
        return _without_numbers(rule, value, best, has_champion=has_champion)
    if not (math.isfinite(value) and math.isfinite(bound.threshold)):
        return False, "not a finite number"
    if bound.margin is not None and interval is not None:
        worse_end = interval[0] if bound.sign > 0 else -interval[1]
        return worse_end >= bound.margin - _ROUNDING, ""
    holds = bound.sign * (value - bound.threshold) >= -_ROUNDING
    return holds, "" if bound.margin is None else "compared without an interval: no paired values"


def _without_numbers(
    rule: GateRule, value: float | None, best: float | None, *, has_champion: bool
) -> tuple[bool, str]:
    if value is None and best is not None:
        return False, "not measured, though the champion was"
    if value is None:
        return (False, "not measured") if rule.required else (True, "skipped: not measured")
    if not has_champion:
        return math.isfinite(value), "no champion yet"
    return not rule.required, "the champion was not measured"


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
