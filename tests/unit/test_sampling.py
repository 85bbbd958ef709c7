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


def test_many_shards_are_shuffled_in_windows() -> None:
    """Six shards of ten rows, two mixed at a time: each run of twenty rows comes from two shards."""
    shards = np.repeat(np.arange(6, dtype=np.int32), 10)
    sampler = QuotaSampler(annotated(60, 0), 20, 0.0, seed=1, shards=shards, window=2)
    orders = []
    for lap in range(3):
        batches = [sampler.batch(3 * lap + step) for step in range(3)]
        assert sorted(np.concatenate(batches).tolist()) == list(range(60))
        assert [len(set(shards[batch].tolist())) for batch in batches] == [2, 2, 2]
        orders.append([tuple(sorted(set(shards[batch].tolist()))) for batch in batches])
    assert len({tuple(order) for order in orders}) == 3  # which shards meet differs from lap to lap
    assert sampler.batch(0).tolist() != sorted(sampler.batch(0).tolist())


def test_few_shards_are_shuffled_as_one() -> None:
    shards = np.repeat(np.arange(6, dtype=np.int32), 10)
    one = QuotaSampler(annotated(60, 12), 16, 0.25, seed=1)
    six = QuotaSampler(annotated(60, 12), 16, 0.25, seed=1, shards=shards, window=6)
    for step in range(12):
        assert one.batch(step).tolist() == six.batch(step).tolist()
        assert six.annotated_near(step).tolist() == list(range(12))


@pytest.mark.parametrize("quota", [0.0, 0.25, 1.0])
def test_donors_lie_in_the_shards_that_the_quota_is_read_from(quota: float) -> None:
    shards = np.repeat(np.arange(6, dtype=np.int32), 10)
    marked = np.tile(np.arange(10) < 4, 6)
    sampler = QuotaSampler(marked, 8, quota, seed=1, shards=shards, window=2)
    seen = set()
    for step in range(24):
        near = sampler.annotated_near(step)
        assert marked[near].all()
        assert len(near) == 8
        assert len(set(shards[near].tolist())) == 2
        if quota and step % 4 == 0:  # a lap of 24 rows in twos, or eights, begins a window there
            drawn = sampler.batch(step)[: sampler.num_annotated]
            assert set(drawn.tolist()) <= set(near.tolist())
        seen |= set(near.tolist())
    assert len(seen) == 24
