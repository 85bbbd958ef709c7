"""Stopping between two steps: a signal waits until the run's state is saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """The signal that asked for an end; 0 until then."""

    number = 0


def leave(number: int) -> NoReturn:
    """End as a signal ends a process: as Ctrl-C does, or with exit code 128 + its number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGTERM, SIGINT or SIGHUP instead of obeying it; a second one acts at once.

    Signals that are ignored stay so. Outside the main thread nothing is noted.
    """
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface's arguments)
        request.number = number
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
