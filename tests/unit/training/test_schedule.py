import pytest

from megl_core.training.schedule import one_cycle


def test_the_rate_rises_peaks_and_ends_at_zero() -> None:
    rates = [one_cycle(step, 100, peak=1.0, warmup=0.2) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[10] == pytest.approx((1 / 25 + 1) / 2)  # half of a cosine's way
    assert rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert rates == sorted(rates[:21]) + sorted(rates[21:], reverse=True)


def test_no_warmup_starts_at_the_peak() -> None:
    assert one_cycle(0, 10, peak=0.3, warmup=0.0) == pytest.approx(0.3)
