"""Runs what is missing, one single-threaded process for each run, as many at a time as there are cores.

A killed benchmark loses at most the runs that were under way: every finished one is a line of the results
file. Runs that outlive their parent leave their outcome in the cache, where the next start finds it.
"""

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks import worker
from benchmarks.cells import Run
from benchmarks.results import Record, Results
from megl_core.errors import DataError, MeglError
from megl_core.files import read_json
from megl_core.locks import locked


@dataclass
class Runner:
    """
    Attributes:
        cache: a folder of its own for packed data and working files.
        num_processes: runs at a time.
        deadline: of `time.monotonic()`; no run starts after it.
        say: where progress goes, line by line.
        failures: what went wrong, by the name of the run; such runs are tried again the next time.
    """

    results: Results
    cache: Path
    num_processes: int
    deadline: float = float("inf")
    say: Callable[[str], None] = print
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What belongs to this code: data are packed anew when the code changes."""
        return self.cache / self.results.code[:16]

    @contextmanager
    def open(self) -> Iterator["Runner"]:
        """Take the cache for this process, and tidy up what earlier ones left.

        Raises:
            MeglError: another benchmark uses it.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.cache / "lock", wait=False):
                self._tidy()
                yield self
        except BlockingIOError:
            raise MeglError("another benchmark is running", where=str(self.cache)) from None

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """Those runs that have no result yet."""
        return [run for run in runs if self.results.find(run) is None]

    def announce(self, runs: Sequence[Run]) -> None:
        """Say how many runs are missing, and how long they will take, about."""
        missing = self.missing(runs)
        minutes = sum(run.source.seconds(run.config) for run in missing) / self.num_processes / 60
        self.say(
            f"{len(missing)} of {len(runs)} runs are missing: "
            f"about {minutes:.0f} min, {self.num_processes} at a time"
        )

    def run(self, runs: Sequence[Run]) -> None:
        """Run what is missing, in this order.

        Raises:
            MeglError: the code changed meanwhile.
        """
        waiting = self._collect(self.missing(runs))
        progress = Progress(waiting, self.num_processes)
        active: dict[int, tuple[BaseProcess, Run, float]] = {}
        try:
            while waiting or active:
                while waiting and len(active) < self.num_processes and time.monotonic() < self.deadline:
                    process, run = self._start(waiting[0]), waiting.pop(0)
                    active[process.sentinel] = (process, run, time.monotonic())
                if not active:
                    self.say(f"the time is up: {len(waiting)} runs wait for the next time")
                    return
                ready = wait(list(active))
                for sentinel in [sentinel for sentinel in active if sentinel in ready]:
                    process, run, started = active.pop(sentinel)
                    told = self._finish(process, run)
                    seconds = time.monotonic() - started
                    self.say(progress.line(run, told, seconds))
        finally:
            for process, _, _ in active.values():
                process.terminate()
                process.join()

    def _start(self, run: Run) -> BaseProcess:
        self._outcome(run).parent.mkdir(parents=True, exist_ok=True)
        job = worker.Job(run.config, self._outcome(run), self.folder, run.source)
        process: BaseProcess = _context().Process(target=worker.work, args=(job,), daemon=True)
        process.start()
        return process

    def _finish(self, process: BaseProcess, run: Run) -> str:
        process.join()
        outcome = self._take(run) or {"error": f"the process ended with exit code {process.exitcode}"}
        if "error" in outcome:
            error = str(outcome["error"]).strip()
            self.failures[_title(run)] = error
            return f"FAILED, {error.splitlines()[-1]}"
        if outcome["code"] != self.results.code:
            raise MeglError(
                "megl_core changed while the benchmark ran; what is finished is kept for the code it was",
                where=_title(run),
                fix="start it again when nobody edits the code",
            )
        record = self._add(run, outcome)
        return _told(record)

    def _collect(self, runs: list[Run]) -> list[Run]:
        """Take over what runs of a killed benchmark finished; return those that remain."""
        rest = []
        for run in runs:
            outcome = self._take(run)
            if outcome is not None and outcome.get("code") == self.results.code:
                self._add(run, outcome)
            else:
                rest.append(run)
        return rest

    def _add(self, run: Run, outcome: dict[str, Any]) -> Record:
        record = Record(
            cell=run.cell.name,
            seed=run.seed,
            config=run.config_digest,
            overrides=dict(run.overrides),
            **outcome,
        )
        self.results.add(record)
        return record

    def _outcome(self, run: Run) -> Path:
        return self.folder / "outcomes" / f"{run.config_digest}.json"

    def _take(self, run: Run) -> dict[str, Any] | None:
        path = self._outcome(run)
        try:
            outcome: dict[str, Any] = read_json(path)
        except DataError:
            return None
        path.unlink()
        return outcome

    def _tidy(self) -> None:
        for path in self.cache.iterdir():
            if path.is_dir() and path != self.folder and len(path.name) == 16:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("run-*"):
            shutil.rmtree(path, ignore_errors=True)


class Progress:
    """Lines that say what was done and how long the rest will take, by the pace so far."""

    def __init__(self, runs: Sequence[Run], num_processes: int) -> None:
        self.total = len(runs)
        self.num_processes = num_processes
        self.left = sum(run.source.seconds(run.config) for run in runs)
        self.expected = self.taken = 0.0
        self.done = 0

    def line(self, run: Run, told: str, seconds: float) -> str:
        """Count a finished run."""
        expected = run.source.seconds(run.config)
        self.left -= expected
        self.expected += expected
        self.taken += seconds
        self.done += 1
        minutes = self.left * self.taken / self.expected / self.num_processes / 60
        width = len(str(self.total))
        return (
            f"[{self.done:{width}}/{self.total}] {_title(run)}: {told}, {seconds:.0f} s; "
            f"about {minutes:.0f} min left"
        )


def _told(record: Record) -> str:
    """The accuracy that a run is about."""
    split = "ood" if "ood" in record.metrics else "test" if "test" in record.metrics else "val"
    return f"{split.upper() if split == 'ood' else split} {100 * record.metrics[split]['accuracy']:.1f} %"


def _title(run: Run) -> str:
    return f"{run.cell.name} seed {run.seed}"


def _context() -> Any:
    """Processes that are forked from one which has the libraries loaded: a start costs no time."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.worker"])
    return context
