"""What a pipeline run looks like on screen: one line for each step, its bar, and its latest words."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megl_core.errors import MeglError
from megl_core.progress import format_fields

State = Literal["waiting", "running", "done", "reused", "failed", "skipped", "not run"]
_SIGNS: dict[State, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "reused": ("=", "blue"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "dim"),
    "not run": ("·", "dim"),
}


@dataclass
class StepState:
    """Where one step stands. Times in seconds since the epoch."""

    name: str
    state: State = "waiting"
    started: float = 0.0
    ended: float = 0.0
    text: str = ""
    done: int = 0
    total: int | None = None
    failure: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        if not self.started:
            return 0.0
        return (self.ended or time.time()) - self.started


class StepStates:
    """The steps of a run, kept up to date by the events of their processes.

    KFP runs a reused step without starting a process, so a step that stays silent while a later one
    speaks was reused.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.steps = {name: StepState(name) for name in names}
        self.began = time.time()
        self.ended = 0.0

    @property
    def seconds(self) -> float:
        return (self.ended or time.time()) - self.began

    def take(self, event: dict[str, Any]) -> None:
        """Note one event."""
        step = self.steps.get(event["step"])
        if step is None:
            return
        kind = event["kind"]
        if kind == "start":
            self._silent_before(step.name)
            step.state, step.started = "running", event["time"]
        elif kind == "end":
            step.state, step.ended = "done", event["time"]
        elif kind == "failed":
            step.state, step.ended, step.failure = "failed", event["time"], event
        elif kind == "skipped":
            step.state = "skipped"
        elif kind == "message":
            step.text = event["text"]
        elif kind == "progress":
            step.text = f"{event['description']}  {format_fields(event['fields'])}".rstrip()
            step.done, step.total = event["done"], event["total"]

    def finish(self, *, succeeded: bool) -> None:
        """Settle the steps that never spoke."""
        self.ended = time.time()
        for step in self.steps.values():
            if step.state == "waiting":
                step.state = "reused" if succeeded else "not run"
            elif step.state == "running":  # its process died without a word
                step.state, step.ended = "failed", self.ended

    def names(self, state: State) -> list[str]:
        return [step.name for step in self.steps.values() if step.state == state]

    def error(self, log: Path) -> MeglError:
        """The failed step's own error, or where to read on if its process died without one."""
        for step in self.steps.values():
            if step.failure:
                error = MeglError(
                    f"step {step.name!r}: {step.failure['what']}",
                    where=step.failure.get("where") or f"log {log}",
                    fix=step.failure.get("fix"),
                )
                error.exit_code = step.failure["exit_code"]
                return error
        died = ", ".join(self.names("failed")) or "between two steps"
        lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return MeglError(f"the pipeline's process died ({died}): {last}", where=f"log {log}")

    def _silent_before(self, name: str) -> None:
        """Settle the steps that a later one leaves behind; after a failure only the notification runs."""
        broken = False
        for step in self.steps.values():
            if step.name == name:
                return
            if step.state == "waiting":
                step.state = "not run" if broken else "reused"
            broken = broken or step.state in ("failed", "running")


class Screen:
    """Draws `StepStates`: a live table in a terminal, a line for each change elsewhere."""

    def __init__(self, states: StepStates) -> None:
        self.states = states
        self.console = Console(stderr=True)
        self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=8)
        self._printed: dict[str, State] = {}

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()
        else:
            self.refresh()

    def refresh(self) -> None:
        """Print what changed, where nothing is drawn live."""
        if self.console.is_terminal:
            return
        for step in self.states.steps.values():
            if step.state not in ("waiting", self._printed.get(step.name)):
                self._printed[step.name] = step.state
                time_taken = f" in {step.seconds:.1f} s" if step.state in ("done", "failed") else ""
                self.console.print(f"{step.name}: {step.state}{time_taken}", markup=False, highlight=False)

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(min_width=9)
        table.add_column(justify="right", min_width=7)
        table.add_column(width=22)
        table.add_column(overflow="ellipsis", no_wrap=True)
        for step in self.states.steps.values():
            sign, style = _SIGNS[step.state]
            seconds = f"{step.seconds:.1f} s" if step.started else ""
            table.add_row(Text(sign, style), Text(step.name, style), seconds, _bar(step), _words(step))
        return table


def _bar(step: StepState) -> RenderableType:
    if step.state == "running" and step.total:
        return ProgressBar(total=step.total, completed=step.done, width=22)
    return Text("")


def _words(step: StepState) -> Text:
    if step.state == "reused":
        return Text("same code, settings and bytes as before: result reused", "dim")
    if step.state == "skipped":
        return Text("not needed", "dim")
    return Text(step.text, "" if step.state == "running" else "dim")
