"""Freed memory is kept while a training lasts, and goes back to the system afterwards."""

import ctypes
import os
import resource
from pathlib import Path

import pytest

from megl_core.memory import keep_freed_memory

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
