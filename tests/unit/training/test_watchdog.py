"""Who stands still, told from what the processes say of themselves."""

import time
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore

from megl_core.errors import UnavailableError
from megl_core.training.distributed import Process
from megl_core.training.watchdog import Watchdog, own_frame

CPU = torch.device("cpu")


def two_processes() -> list[Process]:
    """Two ranks that share a store, here in one process."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    return [Process(rank, 2, CPU, store) for rank in range(2)]


def wait_for(said: list[str]) -> str:
    for _ in range(400):
        if said:
            return said[0]
        time.sleep(0.01)
    pytest.fail("nothing was reported")


def test_a_step_that_takes_long_is_reported_once_with_its_place() -> None:
    said: list[str] = []
    with Watchdog(Process(0, 1, CPU), 0.2, said.append) as watchdog:
        watchdog.log("epoch 1: loss 2.5")
        watchdog.at("loading", 7)
        text = wait_for(said)
        time.sleep(0.5)
    assert text.startswith("step 7 has taken 0 s so far: rank 0 is loading at step 7")
    assert text.endswith("after epoch 1: loss 2.5")
    assert len(said) == 1


def test_a_run_that_moves_is_not_reported() -> None:
    said: list[str] = []
    with Watchdog(Process(0, 1, CPU), 0.4, said.append) as watchdog:
        for step in range(40):
            watchdog.at("computing", step)
            time.sleep(0.02)
    assert said == []


def test_the_one_that_is_behind_is_named_by_the_one_that_waits() -> None:
    said: list[str] = []
    waiting, slow = two_processes()
    with Watchdog(waiting, 1.0, said.append) as first, Watchdog(slow, 1.0, lambda text: None) as second:
        second.log("epoch 3: loss 0.5")
        second.at("loading", 12)
        first.at("computing", 12)
        text = wait_for(said)
    assert "rank 1 is loading at step 12" in text
    assert "epoch 3: loss 0.5" in text
    assert "rank 0" not in text


def test_one_that_died_is_named() -> None:
    said: list[str] = []
    waiting, dying = two_processes()
    with Watchdog(waiting, 1.0, said.append) as first:
        with Watchdog(dying, 1.0, said.append) as second:
            second.at("validating", 30)
            first.at("computing", 30)
            time.sleep(0.3)
        assert "rank 1 does not answer any more, and was validating at step 30" in wait_for(said)
        error = first.explain()
    assert isinstance(error, UnavailableError)
    assert "the processes lost each other at step 30" in str(error)
    assert "rank 1" in str(error)


def test_nobody_is_blamed_for_an_error_of_this_process() -> None:
    here, there = two_processes()
    with Watchdog(here, 0.8, print) as first, Watchdog(there, 0.8, print) as second:
        second.at("computing", 5)
        first.at("computing", 5)
        assert first.explain() is None
    with Watchdog(Process(0, 1, CPU), 0.8, print) as lone:
        assert lone.explain() is None


def test_the_line_of_ours_is_found_in_a_stack() -> None:
    assert own_frame(None) == ""
    seen: list[str] = []

    def look(text: str) -> None:
        import sys

        seen.append(own_frame(sys._getframe().f_back))
        assert text

    with Watchdog(Process(0, 1, CPU), 0.1, look):
        time.sleep(0.3)
    assert seen
    assert seen[0].startswith("megl_core/training/watchdog.py:")
    assert seen[0].endswith("_report_stall")
