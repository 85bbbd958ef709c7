"""What the results say: cells in the page's order, their numbers in per cent, comparisons and bars."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.cells import Cell, Group, chosen_cells, fixed_cells
from benchmarks.results import Find, Record
from benchmarks.selection import choose
from benchmarks.stats import Interval, Summary, confidence, paired_difference, summarise

CHANCE = 25.0


@dataclass(frozen=True)
class Bar:
    """Something that is demanded of the numbers; `holds` is None where they are missing."""

    text: str
    measured: Summary | Interval | None
    holds: bool | None


class Findings:
    """Answers from the results that `find` knows; `tuned` are the best settings of searches."""

    def __init__(self, find: Find, tuned: Sequence[Cell] = ()) -> None:
        self.find = find
        fixed = fixed_cells(full=True)
        choices = choose([cell for cell in fixed if cell.group == "grid"], find)
        self.choices = [choice for choice in choices if choice.tried > 1]
        self._cells = [*fixed, *chosen_cells([choice.cell for choice in self.choices], full=True), *tuned]

    def cells(self, *groups: Group) -> list[Cell]:
        """The cells of some groups: many masks first, then few, then none."""
        chosen = [cell for cell in self._cells if cell.group in groups]
        return sorted(chosen, key=lambda cell: -cell.share)

    def cell(self, group: Group, method: str, share: int) -> Cell | None:
        """One cell, where the plan has it."""
        cells = (cell for cell in self.cells(group) if (cell.method, cell.share) == (method, share))
        return next(cells, None)

    def measured(self, *groups: Group) -> list[Cell]:
        """Those with one result at least."""
        return [cell for cell in self.cells(*groups) if self.records(cell)]

    def records(self, cell: Cell) -> dict[int, Record]:
        """The finished runs of a cell, by seed."""
        found = {seed: self.find(cell, seed) for seed in cell.seeds}
        return {seed: record for seed, record in found.items() if record is not None}

    def all_records(self) -> list[Record]:
        """Every result once, although cells share some."""
        found = [record for cell in self._cells for record in self.records(cell).values()]
        return list({record.key: record for record in found}.values())

    def values(self, cell: Cell, split: str = "ood", metric: str = "accuracy") -> dict[int, float]:
        """A metric by seed."""
        got = {seed: record.get(split, metric) for seed, record in self.records(cell).items()}
        return {seed: 100 * value for seed, value in got.items() if value is not None}

    def summary(self, cell: Cell | None, split: str = "ood", metric: str = "accuracy") -> Summary | None:
        """Mean and spread of a metric; None where nothing was measured."""
        values = self.values(cell, split, metric) if cell else {}
        return summarise(list(values.values())) if values else None

    def reference(self, cell: Cell) -> Cell | None:
        """What a cell is compared with: MEGL with as many masks; without any mask, cross-entropy.

        Beside tuned methods it is the tuned MEGL, where that was run.
        """
        method = "megl" if cell.share else "cross-entropy"
        if cell.group in ("converged", "tuned"):
            chosen = self.cell(cell.group, method, cell.share)
        else:
            tuned = self.cell("baseline", method, cell.share) if cell.group == "baseline" else None
            chosen = tuned or self.cell("headline", method, cell.share)
        return None if chosen is cell else chosen

    def difference(self, cell: Cell, reference: Cell | None) -> Interval | None:
        """OOD accuracy less that of the reference with the same seeds, in points."""
        return paired_difference(self.values(cell), self.values(reference)) if reference else None

    def against_reference(self, cells: Iterable[Cell]) -> dict[Cell, Interval]:
        """Differences from the reference, of those cells that have one."""
        found = ((cell, self.difference(cell, self.reference(cell))) for cell in cells)
        return {cell: difference for cell, difference in found if difference is not None}

    def bars(self) -> list[Bar]:
        """What is demanded of the method, checked."""
        return [
            self._bar("MEGL, 10 % masks: OOD at least 97 %, spread at most 2", "megl", 10, _steady(97)),
            self._bar("MEGL, 5 % masks: OOD at least 95 %, spread at most 2", "megl", 5, _steady(95)),
            self._bar("MEGL, 2 % masks: OOD at least 85 %", "megl", 2, lambda found: found.mean >= 85),
            self._bar("cross-entropy: OOD below 40 %", "cross-entropy", 0, lambda found: found.mean < 40),
            self._above_chance("text only, no mask: OOD above chance (25 %)", "text-only"),
            self._above_chance("text + lexicon, no mask: OOD above chance (25 %)", "text-lexicon"),
        ]

    def _bar(self, text: str, method: str, share: int, holds: Callable[[Summary], bool]) -> Bar:
        found = self.summary(self.cell("headline", method, share))
        return Bar(text, found, None if found is None else holds(found))

    def _above_chance(self, text: str, method: str) -> Bar:
        """The whole 95 % interval has to lie above chance."""
        cell = self.cell("headline", method, 0)
        values = list(self.values(cell).values()) if cell else []
        if not values:
            return Bar(text, None, None)
        found = confidence(values)
        return Bar(text, found, None if found.low is None else found.low > CHANCE)


def _steady(mean: float) -> Callable[[Summary], bool]:
    """Whether several runs reach a mean with a spread of at most two points."""
    return lambda found: found.mean >= mean and found.std is not None and found.std <= 2


def clearly(differences: dict[Cell, Interval]) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """Cells whose whole interval lies below zero, those above, and those where it includes zero."""
    below = [cell for cell, difference in differences.items() if difference.is_below]
    above = [cell for cell, difference in differences.items() if difference.is_above]
    return below, above, [cell for cell in differences if cell not in below and cell not in above]


def correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's, or None where a side does not vary."""
    from statistics import StatisticsError
    from statistics import correlation as pearson

    try:
        return pearson(*zip(*pairs, strict=True))
    except (StatisticsError, TypeError):
        return None
