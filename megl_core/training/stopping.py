"""Stopping between two steps: a signal waits until the run's state is saved."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_REPEAT_SECONDS = 5.0


class StopRequest:
    """The signal that asked for an end; 0 until then."""

    number = 0
    _time = 0.0

    def take(self, number: int) -> bool:
        """Note a signal; False where it asks for more than the one before.

        Whoever signals all processes at once, as systemd and Slurm do, signals a launcher too, which passes
        it on: the same signal soon after is the same request. A person who presses Ctrl-C again means it.
        """
        is_repeated = number == self.number and number != signal.SIGINT
        is_same = is_repeated and time.monotonic() - self._time < _REPEAT_SECONDS
        if self.number and not is_same:
            return False
        self.number, self._time = number, time.monotonic()
        return True


def leave(number: int) -> NoReturn:
    """End as a signal ends a process: as Ctrl-C does, or with exit code 128 + its number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGTERM, SIGINT or SIGHUP instead of obeying it; a second request acts at once.

    Signals that are ignored stay so. Outside the main thread nothing is noted.
    """
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface's arguments)
        if not request.take(number):
            restore()
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
