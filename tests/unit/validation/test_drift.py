"""The population stability index, against values worked out by hand."""

import math

import pandas as pd
import pytest

from megl_core.validation.drift import drift_table, population_stability


def test_words_by_hand() -> None:
    reference = pd.Series(["cup"] * 6 + ["dog"] * 2)
    current = pd.Series(["cup"] * 2 + ["dog"] * 6)

    # Half a row added: shares 6.5 / 9 and 2.5 / 9, swapped.
    expected = 2 * (6.5 - 2.5) / 9 * math.log(6.5 / 2.5)
    assert population_stability(current, reference) == pytest.approx(expected)
    assert expected == pytest.approx(0.8493, abs=1e-4)


def test_numbers_fall_into_the_deciles_of_the_reference() -> None:
    reference = pd.Series([float(value) for value in range(10)])  # deciles 0.9, 1.8, ... 8.1: one value a bin
    current = pd.Series([9.5] * 10)

    # Nine bins 0.5 against 1.5, one 10.5 against 1.5, of 15 on both sides.
    expected = 9 * (0.5 - 1.5) / 15 * math.log(0.5 / 1.5) + (10.5 - 1.5) / 15 * math.log(10.5 / 1.5)
    assert population_stability(current, reference) == pytest.approx(expected)


def test_a_new_and_a_vanished_label_keep_it_finite() -> None:
    value = population_stability(pd.Series(["dog"] * 4), pd.Series(["cup"] * 4))
    assert value == pytest.approx(2 * 4 / 5 * math.log(4.5 / 0.5))


def test_missing_values_are_a_bin() -> None:
    some, none = pd.Series([1.0, 1.0, None, None]), pd.Series([None] * 4, dtype=float)
    # Bins: missing and 1; 2.5 and 2.5 of 5 against 4.5 and 0.5.
    expected = (0.5 - 0.9) * math.log(0.5 / 0.9) + (0.5 - 0.1) * math.log(0.5 / 0.1)
    assert population_stability(none, some) == pytest.approx(expected)
    assert population_stability(some, none) == pytest.approx(expected)


def test_the_order_of_the_rows_does_not_matter() -> None:
    values = pd.Series([0.1, 0.2, 0.7, 0.4, None])
    assert population_stability(values[::-1], values) == 0.0


def test_a_distribution_that_neither_set_has_is_left_out() -> None:
    frame = pd.DataFrame({"label": ["cup"], "mask_area": [float("nan")], "words": [3.0]})
    assert drift_table(frame, frame)["id"].tolist() == ["labels", "text length"]
