"""Progress that suits whoever is watching: a terminal, a log file, or a parent process.

A step reports through `get_reporter()` and does not know who listens. In a terminal the reporter
draws bars, elsewhere it prints a line now and then, and under `MEGL_EVENTS=<file>` it appends JSON
lines which the pipeline's screen follows.
"""

import contextlib
import errno
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from megl_core.errors import MeglError

EVENTS_VARIABLE = "MEGL_EVENTS"


class Bar(Protocol):
    """One running count of work done."""

    def advance(self, amount: int = 1, **fields: Any) -> None:
        """Count `amount` more units; `fields` are shown beside the bar (loss, images/s...)."""


class Reporter(Protocol):
    """Where a step tells of its progress."""

    def message(self, text: str) -> None:
        """Tell one thing that happened."""

    def bar(self, description: str, total: int | None) -> contextlib.AbstractContextManager[Bar]:
        """Count work up to `total` units (None: not known)."""


def get_reporter() -> Reporter:
    """The reporter for this process: events, terminal, or plain lines on standard error."""
    if path := os.environ.get(EVENTS_VARIABLE):
        return EventReporter(Path(path))
    if sys.stderr.isatty():
        return TerminalReporter()
    return LineReporter()


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Mark the begin, the end and the failure of a pipeline step for the parent process."""
    path = os.environ.get(EVENTS_VARIABLE)
    if path is None:
        yield
        return
    events = EventReporter(Path(path), step=name)
    os.environ["MEGL_STEP"] = name
    events.emit("start")
    try:
        yield
    except MeglError as error:
        events.emit(
            "failed",
            what=error.what,
            where=error.where,
            fix=error.fix,
            exit_code=error.exit_code,
        )
        raise
    except BaseException as error:
        events.emit("failed", what=f"{type(error).__name__}: {error}", exit_code=1)
        raise
    events.emit("end")
    gc.freeze()  # the process ends now: its last collection would walk every object of torch and MLflow


def skip(*names: str) -> None:
    """Tell the parent process of steps that this run does without."""
    if path := os.environ.get(EVENTS_VARIABLE):
        for name in names:
            EventReporter(Path(path), step=name).emit("skipped")


class EventReporter:
    """Appends one JSON object a line to a file that another process follows.

    On a full disk events are lost, also in the middle of a line: they are no reason to end the work.
    """

    def __init__(self, path: Path, step: str | None = None) -> None:
        self.path = path
        self.step = step or os.environ.get("MEGL_STEP", "")

    def emit(self, kind: str, **fields: Any) -> None:
        event = {"time": time.time(), "step": self.step, "kind": kind, **fields}
        with contextlib.suppress(OSError), self.path.open("a") as stream:
            stream.write(json.dumps(event, default=str) + "\n")

    def message(self, text: str) -> None:
        self.emit("message", text=text)

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Bar]:
        bar = _ThrottledBar(
            total,
            interval=0.2,
            show=lambda done, fields: self.emit(
                "progress", description=description, done=done, total=total, fields=fields
            ),
        )
        yield bar
        bar.finish()


class SilentReporter:
    """Says nothing: for processes beside the one that speaks."""

    def message(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Bar]:  # noqa: ARG002 (the interface's)
        yield _ThrottledBar(total, interval=float("inf"), show=lambda done, fields: None)  # noqa: ARG005


class LineReporter:
    """Plain lines on standard error, for logs."""

    def message(self, text: str) -> None:
        with _shown():
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Bar]:
        def show(done: int, fields: dict[str, Any]) -> None:
            of = f"/{total}" if total is not None else ""
            self.message(f"{description} {done}{of} {format_fields(fields)}".rstrip())

        bar = _ThrottledBar(total, interval=10.0, show=show)
        yield bar
        bar.finish()


class TerminalReporter:
    """Rich progress bars on standard error."""

    def message(self, text: str) -> None:
        from rich.console import Console

        with _shown():
            Console(stderr=True).print(text, markup=False)

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Bar]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", markup=False),
        )
        progress = Progress(*columns, console=Console(stderr=True))
        task = progress.add_task(description, total=total, shown="")

        class RichBar:
            def advance(self, amount: int = 1, **fields: Any) -> None:
                if fields:
                    progress.update(task, advance=amount, shown=format_fields(fields))
                else:
                    progress.update(task, advance=amount)

        with _shown():
            progress.start()
        try:
            yield RichBar()
        finally:
            with _shown():
                progress.stop()


@contextlib.contextmanager
def _shown() -> Iterator[None]:
    """What cannot be shown is left out; once a terminal is closed, or a pipe's reader gone, so is all."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EIO, errno.EPIPE):
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (no path of ours)
                os.dup2(nowhere.fileno(), sys.stderr.fileno())


class _ThrottledBar:
    """Counts, and shows the count at most once per `interval` seconds and once at the end."""

    def __init__(self, total: int | None, interval: float, show: Any) -> None:
        self.total = total
        self.interval = interval
        self.show = show
        self.done = 0
        self.fields: dict[str, Any] = {}
        self.shown_done = -1
        self.shown_at = time.monotonic()

    def advance(self, amount: int = 1, **fields: Any) -> None:
        self.done += amount
        self.fields.update(fields)
        if time.monotonic() - self.shown_at >= self.interval:
            self._show()

    def finish(self) -> None:
        if self.done != self.shown_done:
            self._show()

    def _show(self) -> None:
        self.shown_at = time.monotonic()
        self.shown_done = self.done
        self.show(self.done, self.fields)


def format_fields(fields: dict[str, Any]) -> str:
    """`loss 0.123  images/s 350` from `{"loss": 0.1234, "images/s": 350.2}`."""
    shown = []
    for name, value in fields.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        shown.append(f"{name} {text}")
    return "  ".join(shown)
