"""Intervals of a difference, against values worked out by hand and by simulation."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from megl_core.config import GateConfig, GateRule
from megl_core.errors import GateError, IntegrityError
from megl_core.evaluation.predict import Prediction, to_table
from megl_core.registry.gate import compare
from megl_core.registry.pairs import Pairs, bootstrap, read_pairs
from tests.integration.conftest import write_evaluation

NO_WORSE = GateConfig(rules=[GateRule(metric="test.accuracy", max_drop=0.02)])
BETTER = GateConfig(rules=[GateRule(metric="test.accuracy", min_gain=0.0)])


def evaluated(folder: Path, accuracy: float, samples: int = 1000) -> Path:
    return write_evaluation(folder, folder.name * 8, accuracy, "d" * 64, samples)


def test_equal_values_have_an_interval_of_no_width() -> None:
    values = np.full(5, 0.25)
    assert bootstrap(lambda rows: values[rows].mean(axis=1), 5, 0.95, 500) == (0.25, 0.25)


def test_two_values_give_the_quantiles_of_the_binomial() -> None:
    """The mean of two draws from {0, 1} is 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    values = np.array([0.0, 1.0])
    low, high = bootstrap(lambda rows: values[rows].mean(axis=1), 2, 0.6, 4000)
    assert (low, high) == (0.0, 1.0)
    low, high = bootstrap(lambda rows: values[rows].mean(axis=1), 2, 0.51 - 0.02, 4000)
    assert (low, high) == (0.5, 0.5)


def test_three_values_give_the_quantiles_of_their_27_draws() -> None:
    """The mean of three draws from {-1, 0, 1} is -1 in 1 of 27 cases, -2/3 in 3 and -1/3 in 6."""
    values = np.array([-1.0, 0.0, 1.0])

    def interval(confidence: float) -> tuple[float, float]:
        return bootstrap(lambda rows: values[rows].mean(axis=1), 3, confidence, 4000)

    assert interval(0.95) == (-1.0, 1.0)  # 0.025 < 1/27
    assert interval(0.90) == pytest.approx((-2 / 3, 2 / 3))  # 1/27 < 0.05 < 4/27
    assert interval(0.60) == pytest.approx((-1 / 3, 1 / 3))  # 4/27 < 0.2 < 10/27


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        values = generator.normal(0.3, 1.0, 80)
        low, high = bootstrap(lambda rows, values=values: values[rows].mean(axis=1), 80, 0.9, 400)
        hits += low <= 0.3 <= high
    assert 0.83 <= hits / 200 <= 0.96


def test_the_same_predictions_give_the_same_interval(tmp_path: Path) -> None:
    new, old = evaluated(tmp_path / "a", 0.93), evaluated(tmp_path / "b", 0.90)
    rows = [compare(new, old, NO_WORSE).rows[0] for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0].low is not None
    assert rows[0].high is not None
    # 30 of 1000 differ, all in favour of the new one: 0.03 +- 1.96 sqrt(0.03 * 0.97 / 1000)
    assert rows[0].low == pytest.approx(0.03 - 0.0106, abs=0.0015)
    assert rows[0].high == pytest.approx(0.03 + 0.0106, abs=0.0015)


def test_a_better_challenger_passes_and_a_worse_one_does_not(tmp_path: Path) -> None:
    better, worse = evaluated(tmp_path / "a", 0.95), evaluated(tmp_path / "b", 0.90)
    assert compare(better, worse, BETTER).passed
    assert compare(better, worse, NO_WORSE).passed
    assert not compare(worse, better, BETTER).passed
    assert not compare(worse, better, NO_WORSE).passed


def test_a_gain_that_may_be_noise_does_not_promote(tmp_path: Path) -> None:
    """Two of 1000 images more: the point is above, the interval's lower end is not."""
    new, old = evaluated(tmp_path / "a", 0.902), evaluated(tmp_path / "b", 0.900)
    (row,) = compare(new, old, BETTER).rows
    assert row.value is not None
    assert row.champion is not None
    assert row.value > row.champion
    assert not row.passed
    assert compare(new, old, NO_WORSE).passed


def test_a_loss_that_may_be_larger_than_allowed_does_not_pass(tmp_path: Path) -> None:
    """0.015 below with 200 images: within 0.02 as a point, not with 95 % confidence."""
    new, old = (evaluated(tmp_path / name, value, 200) for name, value in (("a", 0.885), ("b", 0.90)))
    assert not compare(new, old, NO_WORSE).passed
    many = [evaluated(tmp_path / name, value, 20_000) for name, value in (("c", 0.885), ("d", 0.90))]
    assert compare(*many, NO_WORSE).passed


def test_other_samples_are_not_compared(tmp_path: Path) -> None:
    new, old = evaluated(tmp_path / "a", 0.9, 100), evaluated(tmp_path / "b", 0.9, 99)
    with pytest.raises(GateError, match="different samples"):
        compare(new, old, NO_WORSE)


def test_predictions_that_were_exchanged_are_noticed(tmp_path: Path) -> None:
    new, old = evaluated(tmp_path / "a", 0.9), evaluated(tmp_path / "b", 0.8)
    predictions = old.with_name("predictions.parquet")
    new.with_name("predictions.parquet").write_bytes(predictions.read_bytes())
    with pytest.raises(IntegrityError, match="not those"):
        read_pairs(new.parent, old.parent)


def test_without_predictions_points_are_compared_and_the_row_says_so(tmp_path: Path) -> None:
    new, old = evaluated(tmp_path / "a", 0.899), evaluated(tmp_path / "b", 0.9)
    old.with_name("predictions.parquet").unlink()
    (row,) = compare(new, old, NO_WORSE).rows
    assert row.passed
    assert "without an interval" in row.note


def predicted(right: list[bool], scenes: list[str | None]) -> pa.Table:
    """predictions.parquet of samples that are all `round`, before a scene or before none."""
    rows = [
        Prediction(
            row=number,
            id=f"{number:03d}",
            label=0,
            predicted=0 if hit else 1,
            probabilities=np.array([0.6, 0.4], dtype=np.float32),
            mask_scores=None,
            energy_in_cue=None,
            faithfulness=None,
            rationale=None,
            references=(),
            text_scores={},
            extra={} if scene is None else {"scene": scene},
        )
        for number, (hit, scene) in enumerate(zip(right, scenes, strict=True))
    ]
    return to_table({"test": rows}, ["round", "boxy"])


def paired(new: list[bool], old: list[bool], scenes: list[str | None]) -> Pairs:
    counted = sorted({scene for scene in scenes if scene is not None})
    groups = [{"label": "round", "scene": scene, "accuracy": 0.5, "n": 10} for scene in counted]
    return Pairs(predicted(new, scenes), predicted(old, scenes), {"test": groups})


def test_the_worst_group_is_looked_for_in_each_model_by_itself() -> None:
    """The new one fails by the river, the old one on the road: both worst groups have accuracy 0."""
    scenes: list[str | None] = ["river"] * 30 + ["road"] * 30
    by_river, on_road = [True] * 30 + [False] * 30, [False] * 30 + [True] * 30
    assert paired(on_road, by_river, scenes).interval("test.worst_group_accuracy", 0.95, 500) == (0, 0)
    everywhere = [True] * 60
    assert paired(everywhere, by_river, scenes).interval("test.worst_group_accuracy", 0.95, 500) == (1, 1)
    assert paired(by_river, everywhere, scenes).interval("test.worst_group_accuracy", 0.95, 500) == (-1, -1)


def test_samples_of_no_group_do_not_count_for_the_worst_group() -> None:
    scenes: list[str | None] = ["road"] * 30 + [None] * 30
    new, old = [True] * 30 + [False] * 30, [True] * 60
    assert paired(new, old, scenes).interval("test.worst_group_accuracy", 0.95, 500) == (0, 0)


def test_the_worst_groups_interval_is_that_of_counting_group_by_group() -> None:
    generator = np.random.default_rng(2)
    scenes = [str(scene) for scene in generator.choice(["river", "road", "wood"], 90)]
    new, old = generator.random(90) < 0.8, generator.random(90) < 0.7

    def worst(right: NDArray[np.bool_], row: NDArray[np.int64]) -> float:
        drawn = [scenes[number] for number in row]
        return min(
            float(np.mean([right[number] for number in row if scenes[number] == scene]))
            for scene in set(drawn)
        )

    expected = bootstrap(
        lambda rows: np.array([worst(new, row) - worst(old, row) for row in rows]), 90, 0.9, 200
    )
    found = paired(new.tolist(), old.tolist(), list(scenes)).interval("test.worst_group_accuracy", 0.9, 200)
    assert found == pytest.approx(expected)


def test_what_is_no_mean_over_samples_has_no_interval() -> None:
    pairs = paired([True] * 4, [False] * 4, ["road"] * 4)
    for metric in ("test.macro_f1", "test.energy_in_mask", "test.label", "ood.accuracy"):
        assert pairs.interval(metric, 0.95, 100) is None


def test_a_challenger_as_good_as_the_champion_passes_the_default_allowance() -> None:
    """600 images, three that only the one gets right and three the other: 0 +- 1.96 sqrt(6) / 600."""
    right, scenes = [True] * 594, ["road"] * 600
    new, old = [True] * 3 + [False] * 3 + right, [False] * 3 + [True] * 3 + right
    interval = paired(new, old, list(scenes)).interval("test.accuracy", 0.95, 2000)
    assert interval == pytest.approx((-0.008, 0.008), abs=0.0011)
    allowed = GateConfig().rules[0].max_drop
    assert allowed is not None
    assert interval is not None
    assert interval[0] >= -allowed
