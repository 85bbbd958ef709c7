import pytest
from scipy.stats import t

from benchmarks import stats
from benchmarks.stats import confidence, paired_difference, summarise


def test_mean_and_sample_deviation() -> None:
    summary = summarise([1.0, 2.0, 4.0, 5.0])
    assert summary.mean == 3.0
    assert summary.std == pytest.approx((10 / 3) ** 0.5)  # squares 4 + 1 + 1 + 4 over n - 1
    assert summarise([7.0]) == stats.Summary(7.0, None, 1)


def test_the_interval_of_three_values() -> None:
    """Mean 2, deviation 1: half of the interval is 4.3027 / sqrt(3) = 2.484."""
    interval = confidence([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.low == pytest.approx(-0.484, abs=1e-3)
    assert interval.high == pytest.approx(4.484, abs=1e-3)
    assert not interval.is_above
    assert not interval.is_below


def test_a_side_is_taken_only_by_a_whole_interval() -> None:
    assert not confidence([1.0, 1.2]).is_above  # 1.1 -+ 12.7 * 0.1
    assert confidence([1.0, 1.01]).is_above
    assert confidence([-1.0, -1.01]).is_below
    assert not confidence([5.0]).is_above  # one value says nothing of its spread


def test_only_common_seeds_are_paired() -> None:
    difference = paired_difference({10: 5.0, 11: 7.0, 12: 100.0}, {10: 4.0, 11: 4.0, 13: 0.0})
    assert difference is not None
    assert (difference.mean, difference.n) == (2.0, 2)  # of 1 and 3
    assert paired_difference({10: 1.0}, {11: 1.0}) is None


@pytest.mark.parametrize("degrees", range(1, 10))
def test_the_table_of_students_t(degrees: int) -> None:
    assert confidence([0.0] * (degrees + 1)).low == 0.0
    assert stats._T[degrees] == pytest.approx(t.ppf(0.975, degrees), abs=1e-4)
