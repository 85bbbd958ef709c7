"""A signal that waits until the launcher is between two requests."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stop(threading.Event):
    """Set by the signal that asks for an end; `number` is the signal's."""

    number: int = signal.SIGTERM

    def pause(self, seconds: float) -> None:
        """Sleep, or end the process as the signal would: SystemExit with 128 + its number."""
        if self.wait(seconds):
            raise SystemExit(128 + self.number)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT instead of obeying them; outside the main thread nothing is noted."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface's arguments)
        stop.number = number
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
