"""Which images stand in a step's batch: a pure function of the step, so that a resumed run needs no state.

A batch is drawn from two endless streams, each a seeded permutation after another: `quota` places from
the annotated images (small sets repeat) and the rest from all images. Without the quota, a set with few
masks has batches without any, and the visual loss becomes erratic.

A permutation of everything would want every shard in every step. Sets of many shards are therefore
shuffled in two stages, shards and then rows, so that a step reads from a few shards for a while.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _Lap:
    """One pass over a pool: its windows, each in ascending order, and the order of the whole."""

    number: int
    windows: list[Indices]
    order: Indices


class _Stream:
    """An endless concatenation of seeded permutations of `pool`.

    Args:
        pool: row indices, ascending.
        shards: the shard of each of them.
        window: shards whose rows are mixed; a pool in more of them is permuted shard by shard, in a random
            order, and then within each run of `window` shards.
    """

    def __init__(self, pool: Indices, shards: NDArray[np.int32], window: int, seed: list[int]) -> None:
        self.pool = pool
        self.seed = seed
        self.window = window
        self._shards = np.split(pool, np.flatnonzero(np.diff(shards)) + 1)
        self._lap = _Lap(-1, [], pool)

    def take(self, start: int, count: int) -> Indices:
        """The entries at positions start .. start + count - 1."""
        taken: list[Indices] = []
        while count > 0:
            lap, offset = divmod(start, len(self.pool))
            part = self._of(lap).order[offset : offset + count]
            taken.append(part)
            start += len(part)
            count -= len(part)
        return np.concatenate(taken) if taken else self.pool[:0]

    def near(self, position: int) -> Indices:
        """The window that the entry at a position stands in, in ascending order."""
        lap, offset = divmod(position, len(self.pool))
        windows = self._of(lap).windows
        ends = np.cumsum([len(window) for window in windows])
        return windows[int(np.searchsorted(ends, offset, side="right"))]

    def _of(self, number: int) -> _Lap:
        if number != self._lap.number:
            random = np.random.default_rng([*self.seed, number])
            windows = self._windows(random)
            order = np.concatenate([random.permutation(window) for window in windows])
            self._lap = _Lap(number, windows, order)
        return self._lap

    def _windows(self, random: np.random.Generator) -> list[Indices]:
        count = len(self._shards)
        if count <= self.window:
            return [self.pool]
        order = random.permutation(count)
        runs = (order[first : first + self.window] for first in range(0, count, self.window))
        return [np.sort(np.concatenate([self._shards[number] for number in run])) for run in runs]


class QuotaSampler:
    """Batches of `batch_size` indices into a training set, at least `quota` of each batch annotated.

    Args:
        annotated: (N,) bool, which rows have a mask.
        batch_size: rows of the global batch.
        quota: share of the batch in [0, 1]; no effect where nothing is annotated.
        seed: of both streams.
        shards: (N,) ascending, the shard that each row lies in; None: all lie in one.
        window: shards whose rows are mixed with each other.
    """

    def __init__(
        self,
        annotated: NDArray[np.bool_],
        batch_size: int,
        quota: float,
        seed: int,
        shards: NDArray[np.int32] | None = None,
        window: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.num_rows = len(annotated)
        marked = np.flatnonzero(annotated)
        self.num_annotated = math.ceil(quota * batch_size) if len(marked) else 0
        shards = np.zeros(self.num_rows, np.int32) if shards is None else shards
        self._all = _Stream(np.arange(self.num_rows), shards, window, [seed, 0])
        self._marked = _Stream(marked, shards[marked], window, [seed, 1])

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

    def annotated_near(self, step: int) -> Indices:
        """The annotated rows that are mixed with those of `step`, ascending."""
        if not len(self._marked.pool):
            return self._marked.pool
        return self._marked.near(step * max(1, self.num_annotated))
