"""The memory that a step frees is what the next one allocates: the C library keeps it meanwhile."""

import contextlib
import ctypes
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_LARGEST_KEPT = 1 << 30
_USUAL = 32 << 20
"""How large a freed block glibc keeps at most when it is left alone."""


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Within the block, what this process frees stays its own; then all of it goes back to the system.

    glibc returns large blocks as soon as they are freed, and whoever allocates them again pays for each of
    their pages: some 5 % of a training step on a CPU, a tenth of an evaluation. What is kept is little more
    than the process needed at once. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    library.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        library.malloc_trim(0)
