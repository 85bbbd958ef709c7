"""The terms of an epoch, summed on the device: reading a number is to wait for the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from megl_core.objectives.reduce import reported_mean


class Means:
    """Running sums of the terms of an epoch, and what came before a resumed run.

    Args:
        sums: of the epoch's earlier steps, by term.
        counted: their number.
        skipped: the number of steps that were left out.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, counted: int = 0, skipped: int = 0) -> None:
        self._earlier = dict(sums or {})
        self._sums: dict[str, Tensor] = {}
        self.counted = counted
        self.skipped = skipped

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Count a step; its terms are this process's."""
        for name, term in terms.items():
            if name not in self._sums:
                self._sums[name] = torch.full_like(term, self._earlier.get(name, 0.0))
            self._sums[name] += term
        self.counted += 1

    def skip(self) -> None:
        """Count a step that is left out."""
        self.skipped += 1

    def share(self) -> dict[str, float]:
        """The means over steps and processes, and `skipped` where steps were; every process must call it."""
        means = {name: value / self.counted for name, value in self._sum_up().items()}
        return means | ({"skipped": float(self.skipped)} if self.skipped else {})

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint; every process must call it."""
        return {"sums": self._sum_up(), "counted": self.counted, "skipped": self.skipped}

    def shown(self) -> dict[str, float]:
        """The means so far as this process knows them."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        return {name: value / self.counted for name, value in zip(self._sums, sums, strict=True)}

    def _sum_up(self) -> dict[str, float]:
        if not self._sums:
            return self._earlier
        sums = reported_mean(torch.stack(list(self._sums.values()))).tolist()
        return dict(zip(self._sums, sums, strict=True))
