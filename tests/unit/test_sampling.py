from collections import Counter

import numpy as np
import pytest

from megl_core.data.sampling import QuotaSampler


def annotated(num_rows: int, num_marked: int) -> np.ndarray:
    marked = np.zeros(num_rows, dtype=bool)
    marked[:num_marked] = True
    return marked


@pytest.mark.parametrize("num_marked", [1, 5, 50, 100])
def test_every_batch_meets_the_quota(num_marked: int) -> None:
    marked = annotated(100, num_marked)
    sampler = QuotaSampler(marked, batch_size=16, quota=0.25, seed=0)
    for step in range(40):
        batch = sampler.batch(step)
        assert len(batch) == 16
        assert marked[batch].sum() >= 4


def test_the_rest_visits_every_row_equally_often() -> None:
    sampler = QuotaSampler(annotated(60, 6), batch_size=16, quota=0.25, seed=0)
    rest = [index for step in range(50) for index in sampler.batch(step)[4:]]  # 50 * 12 = 10 laps of 60
    assert set(Counter(rest).values()) == {10}


def test_few_annotated_rows_are_repeated_evenly() -> None:
    sampler = QuotaSampler(annotated(60, 3), batch_size=8, quota=0.25, seed=0)
    quota = [index for step in range(9) for index in sampler.batch(step)[:2]]
    assert Counter(quota) == {0: 6, 1: 6, 2: 6}


def test_without_annotated_rows_the_quota_is_void() -> None:
    sampler = QuotaSampler(annotated(20, 0), batch_size=10, quota=0.25, seed=0)
    assert sorted(np.concatenate([sampler.batch(0), sampler.batch(1)]).tolist()) == list(range(20))


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    one = QuotaSampler(annotated(50, 5), 8, 0.25, seed=1)
    for step in (7, 3, 7):  # in any order
        again = QuotaSampler(annotated(50, 5), 8, 0.25, seed=1)
        assert one.batch(step).tolist() == again.batch(step).tolist()
    assert one.batch(3).tolist() != QuotaSampler(annotated(50, 5), 8, 0.25, seed=2).batch(3).tolist()


def test_an_epoch_draws_as_many_rows_as_there_are() -> None:
    assert QuotaSampler(annotated(100, 0), 32, 0.25, seed=0).steps_per_epoch == 4
