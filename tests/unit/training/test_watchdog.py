"""Who stands still, told from what the processes say of themselves.

Most watchdogs here run no threads: they are told how long a step has taken, and exchange places when asked.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from megl_core.errors import UnavailableError
from megl_core.training.distributed import Process
from megl_core.training.watchdog import Watchdog, own_frame

CPU = torch.device("cpu")
LIMIT = 8.0
PATIENT = timedelta(seconds=60)
STORE = """
import time
from datetime import timedelta
from torch.distributed import TCPStore

store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
print(store.port, flush=True)
time.sleep(600)
"""


def two_watchdogs(report: Callable[[str], None], seconds: float = LIMIT) -> list[Watchdog]:
    """Of two ranks that share a store, here in one process; a loaded machine is no lost store."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=PATIENT)
    watchdogs = [Watchdog(Process(rank, 2, CPU, store), seconds, report) for rank in range(2)]
    for watchdog in watchdogs:
        watchdog._patience = 60.0
    return watchdogs


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail("it never happened")
        time.sleep(0.01)


def test_a_step_that_takes_long_is_reported_once_with_its_place() -> None:
    said: list[str] = []
    watchdog = Watchdog(Process(0, 1, CPU), LIMIT, said.append)
    watchdog.log("epoch 1: loss 2.5")
    watchdog.at("loading", 7)
    watchdog._judge(LIMIT - 0.1)
    assert said == []
    watchdog._judge(LIMIT)
    watchdog._judge(LIMIT + 1)
    assert len(said) == 1
    assert said[0].startswith("step 7 has taken 8 s so far: rank 0 is loading at step 7")
    assert said[0].endswith("after epoch 1: loss 2.5")
    watchdog._judge(0.0)
    watchdog._judge(LIMIT)
    assert len(said) == 2


def test_a_thread_watches() -> None:
    said: list[str] = []
    with Watchdog(Process(0, 1, CPU), 0.1, said.append) as watchdog:
        watchdog.at("loading", 7)
        wait_until(lambda: said)
    assert "rank 0 is loading at step 7" in said[0]


def test_a_run_that_moves_does_not_stall() -> None:
    watchdog = Watchdog(Process(0, 1, CPU), LIMIT, print)
    time.sleep(0.1)
    assert watchdog.stalled >= 0.1
    before = time.monotonic()
    watchdog.at("computing", 1)
    assert watchdog.stalled <= time.monotonic() - before


def test_the_one_that_is_behind_is_named_by_the_one_that_waits() -> None:
    said: list[str] = []
    first, second = two_watchdogs(said.append)
    second.log("epoch 3: loss 0.5")
    second.at("loading", 12)
    first.at("computing", 12)
    for _ in range(4):
        second._exchange(LIMIT / 2)
        first._exchange(LIMIT / 2)
    first._judge(LIMIT)
    assert "rank 1 is loading at step 12" in said[0]
    assert "epoch 3: loss 0.5" in said[0]
    assert "rank 0" not in said[0]
    second._judge(LIMIT)
    assert said[1].startswith("step 12 has taken 8 s so far: rank 1 is loading at step 12")


def test_one_that_died_is_named() -> None:
    said: list[str] = []
    first, second = two_watchdogs(said.append)
    second.at("validating", 30)
    first.at("computing", 30)
    second._exchange(0.0)
    for _ in range(3):
        first._exchange(LIMIT / 2)
    first._judge(LIMIT)
    assert "rank 1 does not answer any more, and was validating at step 30" in said[0]


def test_an_error_is_explained_by_the_one_that_died() -> None:
    first, second = two_watchdogs(print, seconds=0.8)
    second._exchange(0.0)
    with first:
        first.at("computing", 30)
        error = first.explain()
    assert isinstance(error, UnavailableError)
    assert "the processes lost each other at step 30" in str(error)
    assert "rank 1 does not answer any more" in str(error)


def test_nobody_is_blamed_for_an_error_of_this_process() -> None:
    first, second = two_watchdogs(print)
    second.at("computing", 5)
    first.at("computing", 5)
    for _ in range(4):
        second._exchange(0.0)
        first._exchange(LIMIT / 2)
    assert first.explain() is None
    with Watchdog(Process(0, 1, CPU), LIMIT, print) as lone:
        assert lone.explain() is None


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a store, as that of the main node does."""
    process = subprocess.Popen([sys.executable, "-c", STORE], stdout=subprocess.PIPE, text=True)
    too_long = threading.Timer(60, process.kill)  # whoever waits for the store gets an error then
    too_long.start()
    yield process
    too_long.cancel()
    process.kill()
    process.communicate()


@pytest.mark.parametrize("loss", [signal.SIGSTOP, signal.SIGKILL])
def test_the_loss_of_the_store_is_reported_and_explained(
    holder: "subprocess.Popen[str]", loss: signal.Signals
) -> None:
    """A machine that is cut off neither answers nor resets a connection, like a process that is stopped."""
    said: list[str] = []
    assert holder.stdout is not None
    store = TCPStore("localhost", int(holder.stdout.readline()), is_master=False, timeout=PATIENT)
    with Watchdog(Process(1, 2, CPU, store), 1.0, said.append) as watchdog:
        watchdog.at("computing", 12)
        holder.send_signal(loss)
        wait_until(watchdog._is_store_lost)
        watchdog._report_stall(2.0)
        assert "has taken 2 s so far: the main node does not answer any more" in said[-1]
        error = watchdog.explain()
    assert holder.poll() is None or loss == signal.SIGKILL
    assert isinstance(error, UnavailableError)
    assert "the processes lost each other at step 12" in str(error)
    assert "the main node does not answer any more" in str(error)


def test_the_line_of_ours_is_found_in_a_stack() -> None:
    assert own_frame(None) == ""
    seen: list[str] = []

    def look(text: str) -> None:
        seen.append(own_frame(sys._getframe().f_back))
        assert text

    Watchdog(Process(0, 1, CPU), LIMIT, look)._judge(LIMIT)
    (line,) = seen
    assert line.startswith("megl_core/training/watchdog.py:")
    assert line.endswith("_report_stall")
