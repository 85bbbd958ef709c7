"""Numbers and tables as the pages write them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.results import Record
from benchmarks.stats import Interval, Summary


def spread(found: Summary | None) -> str:
    """`97.5 ± 0.4`."""
    if found is None:
        return "-"
    return f"{found.mean:.1f}" + ("" if found.std is None else f" ± {found.std:.1f}")


def interval(found: Interval | None, *, signed: bool = True) -> str:
    """`+1.2 (-0.3 to +2.7)`."""
    if found is None:
        return "-"
    sign = "+" if signed else ""
    ends = "one seed" if found.low is None else f"{found.low:{sign}z.1f} to {found.high:{sign}z.1f}"
    return f"{found.mean:{sign}z.1f} ({ends})"


def provenance(records: Sequence[Record], command: str, results: str) -> str:
    """Which runs, when, where, by what code and which command."""
    days = sorted({record.finished for record in records})
    machines = sorted({_machine(record.machine) for record in records})
    codes = sorted({record.code[:12] for record in records})
    hours = sum(record.core_seconds for record in records) / 3600
    return lines(
        f"- {len(records)} runs, {hours:.1f} core hours, one thread each, finished "
        + (days[0] if len(days) == 1 else f"from {days[0]} to {days[-1]}"),
        f"- on {'; '.join(machines)}",
        f"- code (SHA-256 over `megl_core` and its libraries' versions): {', '.join(codes)}",
        f"- command: `{command}`; every run is a line of [{results}](../../benchmarks/results/{results})",
    )


def image(path: Path, text: str) -> str:
    return f"![{text}]({path.name})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return lines(
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    )


def lines(*lines: str) -> str:
    return "\n".join(lines)


def paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _machine(machine: dict[str, str]) -> str:
    versions = ", ".join(
        f"{name} {value}" for name, value in sorted(machine.items()) if name not in ("processor", "cores")
    )
    return f"{machine['processor']}, {machine['cores']} cores, {versions}"
