"""How fast a run is, how long it will take, and how much memory it has."""

import resource
import time
from pathlib import Path

import torch

_INTERVAL = 1.0


class Speed:
    """Counts the steps of an epoch against the clock; `batch_size` images each."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.start()

    def start(self) -> None:
        """The clock starts here."""
        self._started = self._shown = time.monotonic()
        self._steps = 0

    def count(self) -> None:
        """A step is done."""
        self._steps += 1

    def is_due(self) -> bool:
        """Whether a second has passed since something was last shown."""
        return time.monotonic() - self._shown >= _INTERVAL

    def shown(self, steps_left: int) -> dict[str, float | str]:
        """Images a second, the time left, and the memory in use."""
        self._shown = time.monotonic()
        seconds = (self._shown - self._started) / max(1, self._steps)
        return {
            "images/s": round(self.batch_size / max(seconds, 1e-9)),
            "left": duration(steps_left * seconds),
            "memory": f"{memory() / 1e9:.1f} GB",
        }

    def of_epoch(self) -> float:
        """Images a second since the clock was started."""
        return self._steps * self.batch_size / max(time.monotonic() - self._started, 1e-9)


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory() -> int:
    """Bytes: the most that tensors took of the GPU, else what the process holds now (0: not known)."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
