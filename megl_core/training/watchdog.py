"""Who stands still, and where: each process looks at its own progress and at the others'.

Every process tells its place through the store, as a count that goes on as long as the process lives. One
that makes no progress looks at the others: a count that stands still is a process that died or was
stopped; of those that live, the one that is furthest behind keeps the rest waiting. Only one thread talks to
the store, and nobody waits for it: where the machine that holds the store is lost, a call never returns.
"""

import contextlib
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Self

from megl_core.errors import UnavailableError
from megl_core.training.distributed import Process

PHASES = ("validating", "saving", "loading", "computing")
"""In the order in which a step passes them."""
_LINES = 5
_LOOKS = 4
"""Long enough to see whose count goes on."""


@dataclass
class Place:
    """Where a process is.

    Attributes:
        beat: counts up as long as the process runs.
        step: that it works on.
        phase: one of `PHASES`.
        frame: the line of ours that its main thread is in.
        lines: the last that it logged.
    """

    beat: int = 0
    step: int = 0
    phase: str = "loading"
    frame: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, int]:
        return self.step, PHASES.index(self.phase)


class Watchdog:
    """Reports a step that takes longer than `seconds`, and tells whom the processes wait for.

    Args:
        report: called with text, from a thread.
    """

    def __init__(self, process: Process, seconds: float, report: Callable[[str], None]) -> None:
        self.process = process
        self.seconds = seconds
        self.report = report
        self._interval = min(1.0, seconds / 8)
        self._patience = 3 * self._interval
        self._place = Place()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._moved = time.monotonic()
        self._others: dict[int, tuple[Place, int]] = {}  # what was seen of them, and since how many looks
        self._looks = 0
        self._heard = time.monotonic()  # of the store
        self._is_reported = False
        self._has_failed = False
        self._main = threading.get_ident()
        self._end = threading.Event()
        self._store: Any = process.store.clone() if process.store is not None else None
        targets = [self._watch] if self._store is None else [self._watch, self._talk]
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(self._patience)

    @property
    def stalled(self) -> float:
        """Seconds without progress."""
        return time.monotonic() - self._moved

    def at(self, phase: str, step: int) -> None:
        """This process makes progress."""
        self._place.phase, self._place.step = phase, step
        self._moved = time.monotonic()

    def log(self, line: str) -> None:
        """Remember a line for the report."""
        self._lines.append(line)

    def explain(self) -> UnavailableError | None:
        """Why the loop failed, if another process is to blame."""
        if self.process.world == 1:
            return None
        self._has_failed = True
        began = time.monotonic()
        while self._looks < _LOOKS and not self._is_store_lost(began):
            time.sleep(self._interval / 4)
        culprits = self._describe_culprits(self._is_store_lost(began))
        if not culprits:
            return None
        return UnavailableError(
            f"the processes lost each other at step {self._place.step}",
            where=culprits,
            fix="start the run again, it goes on from its last checkpoint; raise train.stall_seconds where "
            "steps take that long",
        )

    def _watch(self) -> None:
        while not self._end.wait(self._interval):
            self._judge(self.stalled)

    def _judge(self, stalled: float) -> None:
        if stalled < self.seconds:
            self._is_reported = False
        elif not (self._is_reported or self._has_failed):
            self._is_reported = True
            self._report_stall(stalled)

    def _talk(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: it is not heard of any more
            while not self._end.wait(self._interval):
                self._exchange(self.stalled)

    def _exchange(self, stalled: float) -> None:
        """Tell the others where this process is, and look at them where it makes no progress."""
        self._place.beat += 1
        self._note(stalled)
        self._store.set(_key(self.process.rank), json.dumps(asdict(self._place)))
        if stalled >= self.seconds / 2 or self._has_failed:
            self._look()
        else:
            self._looks, self._others = 0, {}
        self._heard = time.monotonic()

    def _note(self, stalled: float) -> None:
        """Bring this process's place up to date."""
        is_stuck = stalled > 1 and not self._has_failed
        self._place.frame = own_frame(sys._current_frames().get(self._main)) if is_stuck else ""
        self._place.lines = list(self._lines)

    def _look(self) -> None:
        """See whose count goes on."""
        others = dict(self._others)
        for rank in set(range(self.process.world)) - {self.process.rank}:
            if self._store.check([_key(rank)]):
                place = Place(**json.loads(self._store.get(_key(rank))))
                seen, silent = others.get(rank, (place, -1))
                others[rank] = (place, silent + 1 if seen.beat == place.beat else 0)
        self._others = others
        self._looks += 1

    def _is_store_lost(self, since: float = 0.0) -> bool:
        """Whether the store has not answered lately, nor `since` a time."""
        waited = time.monotonic() - max(self._heard, since)
        return self._store is not None and waited > self._patience

    def _culprits(self) -> list[int]:
        """Ranks that say nothing any more, else those that are behind this one."""
        silent = [rank for rank, (_, looks) in self._others.items() if looks >= 2]
        if silent:
            return sorted(silent)
        behind = [rank for rank, (place, _) in self._others.items() if place.order < self._place.order]
        first = min((self._others[rank][0].order for rank in behind), default=None)
        return sorted(rank for rank in behind if self._others[rank][0].order == first)

    def _report_stall(self, stalled: float) -> None:
        self._note(stalled)
        why = self._describe_culprits(self._is_store_lost()) or _text(self.process.rank, self._place, "is")
        self.report(f"step {self._place.step} has taken {stalled:.0f} s so far: {why}")

    def _describe_culprits(self, is_store_lost: bool) -> str:
        if is_store_lost:
            return "the main node does not answer any more"
        ranks = self._culprits()
        return "; ".join(
            _text(rank, place, "does not answer any more, and was" if silent >= 2 else "is")
            for rank, (place, silent) in sorted(self._others.items())
            if rank in ranks
        )


def own_frame(frame: FrameType | None) -> str:
    """`megl_core/data/loading.py:121 between`: the innermost line of ours in a stack; "" where none is."""
    while frame is not None:
        _, separator, path = frame.f_code.co_filename.rpartition("megl_core/")
        if separator:
            return f"{separator}{path}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def _text(rank: int, place: Place, state: str) -> str:
    text = f"rank {rank} {state} {place.phase} at step {place.step}"
    if place.frame:
        text += f" in {place.frame}"
    if place.lines:
        text += ", after " + " | ".join(place.lines)
    return text


def _key(rank: int) -> str:
    return f"place/{rank}"
