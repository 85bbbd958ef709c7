"""What a validation found: plain values that go to JSON, to the HTML page and into the gate's message."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from megl_core.config import Severity

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Offender:
    """One thing that breaks an expectation: a row of annotations.jsonl, or a label or a distribution."""

    id: str
    """The row's id, else the label or the name of the distribution."""
    line: int | None
    """In annotations.jsonl, from 1; None: not a row."""
    detail: str
    """What is wrong with it."""
    related_line: int | None = None
    """The row it collides with."""

    def __str__(self) -> str:
        return self.id if self.line is None else f"{self.id} (line {self.line})"


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what came of it."""

    name: str
    severity: Severity
    passed: bool
    """True also where the check was skipped."""
    observed: Any
    """JSON: a share or a count, `{"min", "max"}` of the measured values, or a value for each name."""
    bound: dict[str, float | None] | None
    """`{"min", "max"}`, inclusive; None: the expectation has no limits to set."""
    num_offenders: int
    offenders: tuple[Offender, ...]
    """The first of them in file order, at most `max_offenders`."""
    explanation: str
    skipped: str | None = None
    """Why it did not run; None: it ran."""

    @property
    def status(self) -> Status:
        if self.skipped is not None:
            return "skip"
        if self.passed:
            return "pass"
        return "fail" if self.severity == "fail" else "warn"


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What `validation.json` holds."""

    passed: bool
    """No check of severity `fail` failed."""
    num_rows: int
    digest: str
    """The root digest of the manifest."""
    labels: tuple[str, ...]
    """The labels that may occur."""
    checks: tuple[Check, ...]

    def with_status(self, status: Status) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == status)

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) | {"status": check.status} for check in self.checks]
        return asdict(self) | {"labels": list(self.labels), "checks": checks}
