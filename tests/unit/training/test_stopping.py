"""Which signal is a new request, and which is the one before again."""

import os
import signal
import time

import pytest

from megl_core.training import stopping
from megl_core.training.stopping import stop_requests


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python runs handlers between two instructions


@pytest.fixture(autouse=True)
def obeyed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that reached the handlers from before."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in stopping._SIGNALS}
    monkeypatch.setattr(stopping, "_REPEAT_SECONDS", 60.0)
    yield seen  # type: ignore[misc]
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stopping._SIGNALS)
def test_the_first_signal_is_noted_and_not_obeyed(number: int, obeyed: list[int]) -> None:
    with stop_requests() as request:
        assert request.number == 0
        send(number)
        assert request.number == number
    assert obeyed == []
    send(number)
    assert obeyed == [number]


def test_the_same_signal_soon_after_is_the_same_request(obeyed: list[int]) -> None:
    with stop_requests() as request:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert (request.number, obeyed) == (signal.SIGTERM, [])
        send(signal.SIGHUP)
        assert obeyed == [signal.SIGHUP]


def test_ctrl_c_pressed_again_acts_at_once(obeyed: list[int]) -> None:
    with stop_requests():
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert obeyed == [signal.SIGINT]


def test_a_signal_much_later_acts_at_once(obeyed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_REPEAT_SECONDS", 0.0)
    with stop_requests():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert obeyed == [signal.SIGTERM]
