"""Times that are compared with each other: taken in turns, told by median and quartiles."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of `n` values."""

    median: float
    low: float
    high: float
    n: int


def spread_of(values: Sequence[float]) -> Spread:
    """Median and quartiles of one value at least; the quartiles are interpolated between values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, method="inclusive")
    return Spread(median, low, high, len(values))


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Value over reference of each repetition."""
    return [value / other for value, other in zip(values, reference, strict=True)]


def interleaved(works: Mapping[str, Work], repetitions: int, calls: int = 1) -> dict[str, list[float]]:
    """Processor seconds of one call of each work, over all threads, by name.

    Each repetition runs every work `calls` times; who goes first changes from one to the next, so that what
    else the machine does meets all of them alike. Each work has been called once before the clock starts.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            for _ in range(calls):
                works[name]()
            seconds[name].append((time.process_time() - started) / calls)
    return seconds
