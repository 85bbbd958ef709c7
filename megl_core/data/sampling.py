"""Which images stand in a step's batch: a pure function of the step, so that a resumed run needs no state.

A batch is drawn from two endless streams, each a seeded permutation after another: `quota` places from
the annotated images (small sets repeat) and the rest from all images. Without the quota, a set with few
masks has batches without any, and the visual loss becomes erratic.
"""

import math

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class _Stream:
    """An endless concatenation of seeded permutations of `pool`."""

    def __init__(self, pool: Indices, seed: list[int]) -> None:
        self.pool = pool
        self.seed = seed
        self._lap = -1
        self._order = pool

    def take(self, start: int, count: int) -> Indices:
        """The entries at positions start .. start + count - 1."""
        taken: list[Indices] = []
        while count > 0:
            lap, offset = divmod(start, len(self.pool))
            part = self._permutation(lap)[offset : offset + count]
            taken.append(part)
            start += len(part)
            count -= len(part)
        return np.concatenate(taken) if taken else self.pool[:0]

    def _permutation(self, lap: int) -> Indices:
        if lap != self._lap:
            self._lap = lap
            self._order = np.random.default_rng([*self.seed, lap]).permutation(self.pool)
        return self._order


class QuotaSampler:
    """Batches of `batch_size` indices into a training set, at least `quota` of each batch annotated.

    Args:
        annotated: (N,) bool, which rows have a mask.
        batch_size: rows of the global batch.
        quota: share of the batch in [0, 1]; no effect where nothing is annotated.
        seed: of both streams.
    """

    def __init__(self, annotated: NDArray[np.bool_], batch_size: int, quota: float, seed: int) -> None:
        self.batch_size = batch_size
        self.num_rows = len(annotated)
        marked = np.flatnonzero(annotated)
        self.num_annotated = math.ceil(quota * batch_size) if len(marked) else 0
        self._all = _Stream(np.arange(self.num_rows), [seed, 0])
        self._marked = _Stream(marked, [seed, 1])

    @property
    def steps_per_epoch(self) -> int:
        """Steps that draw as many rows as the set has."""
        return math.ceil(self.num_rows / self.batch_size)

    def batch(self, step: int) -> Indices:
        """(batch_size,) row indices of the global batch of `step`, annotated rows spread evenly."""
        rest = self.batch_size - self.num_annotated
        return np.concatenate(
            [
                self._marked.take(step * self.num_annotated, self.num_annotated),
                self._all.take(step * rest, rest),
            ]
        )
