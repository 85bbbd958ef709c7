import pytest

from benchmarks.timing import Spread, interleaved, ratios, spread_of


def test_median_and_quartiles_are_interpolated() -> None:
    """Of 1, 2, 4, 8 the quartiles stand a quarter of the way through 3 gaps: 1.75, 3 and 5."""
    assert spread_of([8.0, 1.0, 4.0, 2.0]) == Spread(median=3.0, low=1.75, high=5.0, n=4)


def test_a_single_value_has_no_width() -> None:
    assert spread_of([2.5]) == Spread(2.5, 2.5, 2.5, 1)


def test_ratios_pair_the_repetitions() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_works_take_turns_at_going_first() -> None:
    called: list[str] = []
    works = {name: lambda name=name: called.append(name) for name in "ab"}
    found = interleaved(works, repetitions=2, calls=2)
    warm_up, first, second = "ab", "aabb", "bbaa"
    assert "".join(called) == warm_up + first + second
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}


def test_a_longer_work_takes_more_of_the_processor() -> None:
    works = {"short": lambda: sum(range(1_000)), "long": lambda: sum(range(200_000))}
    found = interleaved(works, repetitions=3)
    assert spread_of(ratios(found["long"], found["short"])).median > 10


def test_repetitions_must_pair() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])
