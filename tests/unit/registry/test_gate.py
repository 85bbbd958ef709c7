"""The gate's verdicts, worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from megl_core.config import GateConfig, GateRule
from megl_core.errors import DataError, GateError
from megl_core.files import sha256_file, write_json
from megl_core.registry.gate import compare

DATA = "d" * 64


def evaluation(path: Path, metrics: dict[str, Any], data: str = DATA, model: str = "m") -> Path:
    path.write_text(json.dumps({"model_digest": model, "data_digest": data, "metrics": metrics}))
    return path


def judge(tmp_path: Path, new: dict[str, Any], old: dict[str, Any] | None, *rules: GateRule) -> list[bool]:
    """Whether each row passes, for metrics of the test split."""
    challenger = evaluation(tmp_path / "new.json", {"test": new})
    champion = None if old is None else evaluation(tmp_path / "old.json", {"test": old})
    result = compare(challenger, champion, GateConfig(rules=list(rules)))
    assert result.passed == all(row.passed for row in result.rows)
    return [row.passed for row in result.rows]


NO_DROP = GateRule(metric="test.accuracy", max_drop=0.01)


def test_reads_the_champion_from_the_champion(tmp_path: Path) -> None:
    # A gate that reads both numbers from the challenger finds no drop in either direction.
    assert judge(tmp_path, {"accuracy": 0.80}, {"accuracy": 0.95}, NO_DROP) == [False]
    assert judge(tmp_path, {"accuracy": 0.95}, {"accuracy": 0.80}, NO_DROP) == [True]


def test_roles_stand_for_the_splits_that_were_evaluated(tmp_path: Path) -> None:
    challenger = evaluation(tmp_path / "new.json", {"val": {"accuracy": 0.8}, "odd.split": {"accuracy": 0.7}})
    roles = {"primary_split": "val", "shifted_split": "odd.split"}
    challenger.write_text(json.dumps(json.loads(challenger.read_text()) | roles))
    rules = [GateRule(metric="primary.accuracy", min=0.5), GateRule(metric="shifted.accuracy", min=0.75)]
    result = compare(challenger, None, GateConfig(rules=rules))
    assert [(row.metric, row.value, row.passed) for row in result.rows] == [
        ("val.accuracy", 0.8, True),
        ("odd.split.accuracy", 0.7, False),
    ]


def test_a_role_that_no_split_has_is_not_measured(tmp_path: Path) -> None:
    challenger = evaluation(tmp_path / "new.json", {"test": {"accuracy": 0.8}})
    required = GateRule(metric="shifted.accuracy", min=0.1)
    optional = GateRule(metric="shifted.accuracy", min=0.1, required=False)
    result = compare(challenger, None, GateConfig(rules=[required, optional]))
    assert [row.passed for row in result.rows] == [False, True]


def test_rows_show_both_values(tmp_path: Path) -> None:
    challenger = evaluation(tmp_path / "new.json", {"test": {"accuracy": 0.80}}, model="new")
    champion = evaluation(tmp_path / "old.json", {"test": {"accuracy": 0.95}}, model="old")
    result = compare(challenger, champion, GateConfig(rules=[NO_DROP]))
    assert [(row.value, row.champion, row.bound) for row in result.rows] == [
        (0.80, 0.95, "at most 0.01 below the champion")
    ]
    assert (result.model_digest, result.champion_model_digest, result.data_digest) == ("new", "old", DATA)
    assert result.evaluation_digest == sha256_file(challenger)
    assert result.champion_evaluation_digest == sha256_file(champion)


def test_a_drop_of_exactly_the_allowance_passes(tmp_path: Path) -> None:
    assert judge(tmp_path, {"accuracy": 0.94}, {"accuracy": 0.95}, NO_DROP) == [True]
    assert judge(tmp_path, {"accuracy": 0.9399}, {"accuracy": 0.95}, NO_DROP) == [False]


@pytest.mark.parametrize("name", ["ece", "cue_flip_rate", "energy_in_cue"])
def test_lower_is_better(tmp_path: Path, name: str) -> None:
    rule = GateRule(metric=f"test.{name}", max_drop=0.02)
    assert judge(tmp_path, {name: 0.10}, {name: 0.05}, rule) == [False]
    assert judge(tmp_path, {name: 0.05}, {name: 0.10}, rule) == [True]
    assert judge(tmp_path, {name: 0.07}, {name: 0.05}, rule) == [True]


def test_absolute_bounds(tmp_path: Path) -> None:
    rule = GateRule(metric="test.accuracy", min=0.9, max=0.99)
    assert judge(tmp_path, {"accuracy": 0.95}, None, rule) == [True, True]
    assert judge(tmp_path, {"accuracy": 0.89}, None, rule) == [False, True]
    assert judge(tmp_path, {"accuracy": 1.0}, None, rule) == [True, False]


def test_first_model_meets_only_absolute_bounds(tmp_path: Path) -> None:
    challenger = evaluation(tmp_path / "new.json", {"test": {"accuracy": 0.95}})
    result = compare(
        challenger, None, GateConfig(rules=[GateRule(metric="test.accuracy", min=0.9, max_drop=0)])
    )
    assert [(row.passed, row.champion, row.note) for row in result.rows] == [
        (True, None, ""),
        (True, None, "no champion yet"),
    ]
    assert result.champion_model_digest is None


def test_missing_required_metric_fails(tmp_path: Path) -> None:
    for rule in (GateRule(metric="test.auc", min=0.1), GateRule(metric="test.auc", max_drop=1.0)):
        assert judge(tmp_path, {"accuracy": 1.0}, None, rule) == [False]
        assert judge(tmp_path, {"accuracy": 1.0}, {"accuracy": 1.0}, rule) == [False]


def test_missing_optional_metric_is_skipped_unless_the_champion_has_it(tmp_path: Path) -> None:
    rule = GateRule(metric="test.auc", min=0.1, required=False)
    assert judge(tmp_path, {"accuracy": 1.0}, {"accuracy": 1.0}, rule) == [True]
    assert judge(tmp_path, {"accuracy": 1.0}, {"auc": 0.9}, rule) == [False]


def test_a_champion_without_a_required_metric_fails_the_comparison(tmp_path: Path) -> None:
    assert judge(tmp_path, {"accuracy": 1.0}, {"auc": 0.9}, NO_DROP) == [False]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.99"])
def test_what_is_no_finite_number_fails(tmp_path: Path, value: object) -> None:
    floor = GateRule(metric="test.accuracy", min=0.5)
    assert judge(tmp_path, {"accuracy": value}, None, floor) == [False]
    assert judge(tmp_path, {"accuracy": value}, None, NO_DROP) == [False]
    assert judge(tmp_path, {"accuracy": value}, {"accuracy": 0.2}, NO_DROP) == [False]
    assert judge(tmp_path, {"accuracy": 0.9}, {"accuracy": value}, NO_DROP) == [False]


def test_nan_can_be_written(tmp_path: Path) -> None:
    challenger = evaluation(tmp_path / "new.json", {"test": {"accuracy": float("nan")}})
    result = compare(challenger, None, GateConfig(rules=[GateRule(metric="test.accuracy", min=0.5)]))
    write_json(tmp_path / "gate.json", result.to_json())
    written = json.loads((tmp_path / "gate.json").read_text())
    assert written["passed"] is False
    assert written["rows"] == [
        {
            "metric": "test.accuracy",
            "value": None,
            "champion": None,
            "bound": "at least 0.5",
            "passed": False,
            "note": "not a finite number",
            "low": None,
            "high": None,
        }
    ]


def test_other_data_is_not_compared(tmp_path: Path) -> None:
    challenger = evaluation(tmp_path / "new.json", {"test": {"accuracy": 0.9}})
    champion = evaluation(tmp_path / "old.json", {"test": {"accuracy": 0.9}}, data="e" * 64)
    with pytest.raises(GateError, match="different data: dddddddddddd and eeeeeeeeeeee"):
        compare(challenger, champion, GateConfig(rules=[NO_DROP]))


def test_splits_may_hold_dots(tmp_path: Path) -> None:
    metrics = {"test": {"accuracy": 0.1}, "test.v2": {"accuracy": 0.9}}
    challenger = evaluation(tmp_path / "new.json", metrics)
    result = compare(challenger, None, GateConfig(rules=[GateRule(metric="test.v2.accuracy", min=0.5)]))
    assert [row.value for row in result.rows] == [0.9]


@pytest.mark.parametrize("content", ["[]", "{}", '{"model_digest": "m", "data_digest": "d", "metrics": 3}'])
def test_no_evaluation(tmp_path: Path, content: str) -> None:
    path = tmp_path / "new.json"
    path.write_text(content)
    with pytest.raises(DataError, match="no evaluation"):
        compare(path, None, GateConfig())
