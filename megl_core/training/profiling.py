"""A trace of a few steps, for chrome://tracing or https://ui.perfetto.dev."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from megl_core.files import atomic_file

WAIT, WARM_UP, ACTIVE = 2, 1, 5


@contextlib.contextmanager
def trace(path: Path | None) -> Iterator[Callable[[], None]]:
    """Write what happens in the steps after the first three; the block calls the result after each step.

    Nothing is written where there are not that many steps, or no path.
    """
    if path is None:
        yield lambda: None
        return
    from torch.profiler import profile, schedule

    def write(profiler: profile) -> None:
        with atomic_file(path) as temporary:
            profiler.export_chrome_trace(str(temporary))

    steps = schedule(wait=WAIT, warmup=WARM_UP, active=ACTIVE, repeat=1)
    with profile(schedule=steps, on_trace_ready=write) as profiler:
        yield profiler.step
