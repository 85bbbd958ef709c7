"""One thing that was looked at, and how many of them are shown or refused together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from megl_core.errors import UnavailableError

State = Literal["ok", "missing", "unreachable", "unused"]
MARKS = {"ok": ("✓", "green"), "missing": ("✗", "red"), "unreachable": ("✗", "red"), "unused": ("·", "dim")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `fix` says how to get what is not there."""

    area: str
    name: str
    state: State
    detail: str
    fix: str = ""
    required: bool = False

    @property
    def is_wrong(self) -> bool:
        return self.required and self.state != "ok"


def table(findings: Iterable[Finding]) -> str:
    """The findings as plain text for a log, a line each and their fixes below them."""
    rows = list(findings)
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        mark, _ = MARKS[row.state]
        lines.append(f"{mark} {row.name:<{width}}  {row.detail}")
        if row.fix and row.state != "ok":
            lines.append(f"  {'':<{width}}  -> {row.fix}")
    return "\n".join(lines)


def require(findings: Iterable[Finding]) -> None:
    """Refuse to go on if anything required is not there.

    Raises:
        UnavailableError: it names everything that is wrong, and how to mend each.
    """
    wrong = [finding for finding in findings if finding.is_wrong]
    if wrong:
        raise UnavailableError(
            "not in order: " + "; ".join(f"{finding.name} ({finding.detail})" for finding in wrong),
            fix="; ".join(finding.fix for finding in wrong if finding.fix) or None,
        )
