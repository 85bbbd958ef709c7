from collections.abc import Mapping
from dataclasses import replace

from benchmarks.cells import Cell, run_of
from benchmarks.results import Find, Record
from benchmarks.selection import choose
from tests.unit.benchmarks.tiny import record


def point(weight: str, method: str = "haics", share: int = 100) -> Cell:
    return Cell("grid", method, share, {"objective.visual": float(weight)}, (10,), note=f"plain-{weight}")


ONE, TEN, HUNDRED = point("1"), point("10"), point("100")


def finder(records: Mapping[Cell, Record]) -> Find:
    return lambda cell, seed: records.get(cell) if seed == 10 else None


def validated(cell: Cell, accuracy: float, energy: float, ood: float = 0.5) -> Record:
    return record(run_of(cell, 10), ood, val=(accuracy, energy))


def test_the_sum_of_validation_accuracy_and_energy_decides() -> None:
    records = {
        ONE: validated(ONE, 0.9, 0.3),
        TEN: validated(TEN, 0.8, 0.5),
        HUNDRED: validated(HUNDRED, 0.3, 0.9),
    }
    (choice,) = choose(records, finder(records))
    assert choice.cell is TEN  # 1.3 against 1.2 and 1.2
    assert (choice.tried, choice.total, choice.is_final) == (3, 3, True)


def test_numbers_of_other_splits_change_nothing() -> None:
    records = {ONE: validated(ONE, 0.9, 0.3), TEN: validated(TEN, 0.8, 0.5)}
    for tempting in (0.0, 1.0):
        shifted = dict.fromkeys(("accuracy", "energy_in_mask"), tempting)
        metrics = records[ONE].metrics | {"test": shifted, "ood": shifted, "conflict": shifted}
        changed = records | {ONE: replace(records[ONE], metrics=metrics)}
        assert choose(changed, finder(changed))[0].cell is TEN
    without = {cell: replace(found, metrics={"val": found.metrics["val"]}) for cell, found in records.items()}
    assert choose(without, finder(without))[0].cell is TEN


def test_each_method_and_share_has_a_choice_of_its_own_and_an_incomplete_one_is_not_final() -> None:
    other, tenth = point("1", method="gradia"), point("1", share=10)
    records = {
        ONE: validated(ONE, 0.9, 0.3),
        other: validated(other, 0.1, 0.1),
        tenth: validated(tenth, 0.5, 0.5),
    }
    choices = choose([ONE, TEN, other, tenth, point("1", method="rrr")], finder(records))
    assert [choice.cell for choice in choices] == [ONE, other, tenth]
    assert [choice.is_final for choice in choices] == [False, True, True]


def test_of_equal_points_the_first_is_taken() -> None:
    records = {TEN: validated(TEN, 0.5, 0.5), HUNDRED: validated(HUNDRED, 0.5, 0.5)}
    assert choose(records, finder(records))[0].cell is TEN
