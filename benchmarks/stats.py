"""Means, spreads and paired differences of a handful of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# 97.5 % quantile of Student's t by degrees of freedom.
_T = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060, 9: 2.2622}


@dataclass(frozen=True)
class Summary:
    """`std` is the sample standard deviation; None of a single value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval by Student's t; both ends are None of a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_above(self) -> bool:
        """The whole interval lies above zero."""
        return self.low is not None and self.low > 0

    @property
    def is_below(self) -> bool:
        return self.high is not None and self.high < 0


def summarise(values: Sequence[float]) -> Summary:
    """Mean and spread of one value at least."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Summary(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Summary(mean, math.sqrt(variance), len(values))


def confidence(values: Sequence[float]) -> Interval:
    """The mean of 1 to 10 values and how well it is known."""
    summary = summarise(values)
    if summary.std is None:
        return Interval(summary.mean, None, None, 1)
    half = _T[summary.n - 1] * summary.std / math.sqrt(summary.n)
    return Interval(summary.mean, summary.mean - half, summary.mean + half, summary.n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """`values - reference` over the seeds that both have; None where they share none."""
    seeds = sorted(values.keys() & reference.keys())
    return confidence([values[seed] - reference[seed] for seed in seeds]) if seeds else None
