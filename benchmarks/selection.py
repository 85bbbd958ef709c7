"""How weights and maps are chosen: by in-distribution validation images, never by shifted data."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.cells import GRID_SEED, Cell
from benchmarks.results import Find, Record


@dataclass(frozen=True)
class Choice:
    """A point of the grid that was chosen.

    Attributes:
        tried: points that were measured.
        total: points of its grid.
    """

    cell: Cell
    record: Record
    tried: int
    total: int

    @property
    def is_final(self) -> bool:
        """Every point of the grid was measured."""
        return self.tried == self.total


def validation_score(record: Record) -> float:
    """Accuracy plus energy in mask of the validation images; nothing else of the record is looked at."""
    scores = record.metrics["val"]
    return scores["accuracy"] + scores["energy_in_mask"]


def choose(grid: Iterable[Cell], find: Find) -> list[Choice]:
    """The best measured point of each method and share of masks, in the grid's order.

    Of equal points the first is taken. A method of which no point was measured has no choice.
    """
    tuned: dict[tuple[str, int], list[Cell]] = {}
    for cell in grid:
        tuned.setdefault((cell.method, cell.share), []).append(cell)
    return [choice for cells in tuned.values() if (choice := _best(cells, find)) is not None]


def _best(cells: list[Cell], find: Find) -> Choice | None:
    measured = [(cell, record) for cell in cells if (record := find(cell, GRID_SEED)) is not None]
    if not measured:
        return None
    cell, record = max(measured, key=lambda point: validation_score(point[1]))
    return Choice(cell, record, len(measured), len(cells))
