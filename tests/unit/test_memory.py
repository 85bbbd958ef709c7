"""Freed memory is kept while a training lasts, and goes back to the system afterwards."""

import ctypes
import os
import resource
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from megl_core.config import EvaluationConfig, ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.evaluation import evaluate
from megl_core.memory import keep_freed_memory
from megl_core.progress import Bar, SilentReporter
from megl_core.training import train

PAGES = 16384
BYTES = PAGES * os.sysconf("SC_PAGE_SIZE")
LIBRARY = ctypes.CDLL(None)
LIBRARY.malloc.restype = ctypes.c_void_p
LIBRARY.malloc.argtypes = [ctypes.c_size_t]
LIBRARY.free.argtypes = [ctypes.c_void_p]

pytestmark = pytest.mark.skipif(not hasattr(LIBRARY, "mallopt"), reason="the C library is not glibc")


def fill(num_bytes: int) -> None:
    block = LIBRARY.malloc(num_bytes)
    ctypes.memset(block, 1, num_bytes)
    LIBRARY.free(block)


def page_faults() -> int:
    """Of this process, while it fills three blocks in turns, after it has freed one of twice their size."""
    fill(2 * BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        fill(BYTES)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_memory_that_was_freed_costs_no_page_faults_again() -> None:
    outside = page_faults()
    with keep_freed_memory():
        inside = page_faults()
    assert inside < outside / 10


def test_what_was_kept_goes_back_at_the_end() -> None:
    with keep_freed_memory():
        page_faults()
        within = resident()
    assert within - resident() > 0.9 * BYTES


class Probe(SilentReporter):
    """Counts page faults where a bar begins."""

    def __init__(self) -> None:
        self.faults: list[int] = []

    def bar(self, description: str, total: int | None) -> AbstractContextManager[Bar]:
        self.faults.append(page_faults())
        return super().bar(description, total)


def test_training_and_evaluation_keep_what_they_free(packed: Path, tmp_path: Path) -> None:
    outside, training, evaluation = page_faults(), Probe(), Probe()
    config = TrainConfig(epochs=1, batch_size=8, device="cpu")
    train(packed, tmp_path / "model", ModelConfig(), ObjectiveConfig(), config, reporter=training)
    settings = EvaluationConfig(splits=["test"], max_texts=0, faithfulness_samples=0)
    evaluate(tmp_path / "model", packed, settings, tmp_path / "evaluation", evaluation)
    for probe in (training, evaluation):
        assert probe.faults
        assert max(probe.faults) < outside / 10
