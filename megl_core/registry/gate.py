"""The champion gate: is the challenger good enough, and no worse than what is in production?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megl_core.config import GateConfig, GateRule
from megl_core.errors import DataError, GateError
from megl_core.files import read_json, sha256_file

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
        passed: whether the bound holds; a bound that does not apply passes, and `note` says why.
        note: why a row failed without a comparison, or passed without one; else empty.
    """

    metric: str
    value: float | None
    champion: float | None
    bound: str
    passed: bool
    note: str = ""


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
        """The object that stands in gate.json. A value that is not finite is written as null."""
        rows = [
            row | {name: _finite_or_none(row[name]) for name in ("value", "champion")}
            for row in map(asdict, self.rows)
        ]
        return asdict(self) | {"rows": rows}


@dataclass(frozen=True)
class _Evaluation:
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

    Without a champion only absolute bounds count.

    Raises:
        GateError: the two were evaluated on different data.
        DataError: a file is missing or is no evaluation.
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
    rows = [row for rule in config.rules for row in _judge(rule, new, old)]
    return GateResult(
        passed=all(row.passed for row in rows),
        rows=rows,
        data_digest=new.data_digest,
        model_digest=new.model_digest,
        evaluation_digest=new.digest,
        champion_model_digest=old.model_digest if old else None,
        champion_evaluation_digest=old.digest if old else None,
    )


def _judge(rule: GateRule, new: _Evaluation, old: _Evaluation | None) -> Iterator[GateRow]:
    """One row for each bound of a rule."""
    metric = new.resolve(rule.metric)
    value = new.value(metric)
    best = old.value(metric) if old else None
    for bound, threshold, sign in _bounds(rule, best):
        verdict = _verdict(rule, value, best, threshold, sign, has_champion=old is not None)
        yield GateRow(metric, value, best, bound, *verdict)


def _bounds(rule: GateRule, best: float | None) -> Iterator[tuple[str, float | None, int]]:
    """In words, as a number (None: the champion's value is needed and missing), and its direction.

    The direction is 1 where the value must not be lower than the number, -1 where it must not be higher.
    """
    if rule.min is not None:
        yield f"at least {rule.min:g}", rule.min, 1
    if rule.max is not None:
        yield f"at most {rule.max:g}", rule.max, -1
    if rule.max_drop is None:
        return
    lower = rule.metric.rpartition(".")[2] in LOWER_IS_BETTER
    sign = -1 if lower else 1
    words = f"at most {rule.max_drop:g} {'above' if lower else 'below'} the champion"
    yield words, None if best is None else best - sign * rule.max_drop, sign


def _verdict(
    rule: GateRule,
    value: float | None,
    best: float | None,
    threshold: float | None,
    sign: int,
    *,
    has_champion: bool,
) -> tuple[bool, str]:
    """Whether a bound holds, and a note where that was not decided by comparing two numbers."""
    if value is None and best is not None:
        return False, "not measured, though the champion was"
    if value is None:
        return (False, "not measured") if rule.required else (True, "skipped: not measured")
    if threshold is None and not has_champion:
        return math.isfinite(value), "no champion yet"
    if threshold is None:
        return not rule.required, "the champion was not measured"
    if not (math.isfinite(value) and math.isfinite(threshold)):
        return False, "not a finite number"
    return sign * (value - threshold) >= -_ROUNDING, ""


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
