"""What verbs print for people, in a terminal of 80 columns."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megl_core.cli import evaluate, main, models, pipeline
from megl_core.errors import ConfigError
from megl_core.evaluation import Evaluation

ROW = {
    "n": 60000, "accuracy": 1.0, "worst_group_accuracy": 0.5, "cue_flip_rate": 0.25, "energy_in_mask": 0.5,
    "pointing_game": 0.5, "bleu4": 0.5, "rouge_l": 0.5, "slot_accuracy": 0.5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluate, models, pipeline):
        monkeypatch.setattr(module, "console", Console(width=80))


def test_the_evaluation_fits(capsys: pytest.CaptureFixture[str]) -> None:
    metrics: dict[str, dict[str, Any]] = {"conflict": ROW, "test_new": ROW}
    evaluate._show(Evaluation(Path("out"), "", "", [], metrics))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "conflict  60000     1.000  0.500  0.250" in shown


def result(**changes: Any) -> dict[str, Any]:
    return {
        "metrics": {"val": {"accuracy": 0.25}}, "main_splits": ["test", None], "ran": ["train"],
        "gate_passed": True, "gate": {"rows": []}, "model_name": "megl", "version": 1, "stage": "None",
        "data_digest": "0" * 64, "num_samples": 8, "report": "report.html", "seconds": 1.0,
        "model": "/a b/trained", "tracking_uri": "sqlite:////a b/mlflow.db",
    } | changes  # fmt: skip


def test_a_closed_gate_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    bound = {"bound": "at least 0.9", "passed": False, "note": ""}
    rows = [
        bound | {"metric": "test.accuracy", "value": None, "note": "not measured"},
        bound | {"metric": "val.accuracy", "value": 0.25},
        bound | {"metric": "val.auc", "value": 0.95, "passed": True},
    ]
    pipeline._show(result(gate_passed=False, gate={"rows": rows}))
    shown = capsys.readouterr().out
    assert "test.accuracy is not measured, asked is at least 0.9; val.accuracy is 0.250" in shown
    assert "val.auc" not in shown


def test_commands_to_copy_are_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline._show(result())
    shown = capsys.readouterr().out
    assert "--backend-store-uri 'sqlite:////a b/mlflow.db'" in shown
    assert "megl explain IMAGE --model '/a b/trained'" in shown


def test_commands_to_copy_work_where_the_environment_is_not_activated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("megl", "mlflow"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    pipeline._show(result())
    shown = capsys.readouterr().out
    assert " bin/mlflow ui --backend" in shown
    assert " bin/megl explain IMAGE" in shown
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    pipeline._show(result())
    shown = capsys.readouterr().out
    assert " mlflow ui --backend" in shown
    assert " megl explain IMAGE" in shown


def test_only_headings_of_the_table_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline._show(result())
    assert "flips:" not in capsys.readouterr().out
    pipeline._show(result(metrics={"val": {"accuracy": 0.25, "cue_flip_rate": 0.5}}))
    shown = capsys.readouterr().out
    assert "flips: predictions that change with the cue alone" in shown
    assert "slots:" not in shown


def test_a_workspace_that_cannot_be_made_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["megl", "pipeline", "run", "-w", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert f"where: {tmp_path / 'file'}" in capsys.readouterr().err


def test_an_unknown_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(ConfigError, match="no model 'meggl' is registered"):
        models.list_("meggl", f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--data", "fotos"], 3, "where: --data fotos"),
        (["--namespace", "team"], 2, "--namespace: only for runs on a cluster"),
        (["--token-file", "t", "--no-follow"], 2, "--token-file, --no-follow: only"),
        (["--experiment", "new", "--service-account", "me"], 2, "--experiment, --service-account: only"),
    ],
)
def test_what_a_local_run_cannot_take_is_told_before_it_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["megl", "pipeline", "run", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_taken_place_for_a_model_is_told_once_before_the_processes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["megl", "train", "no-data", "-o", str(tmp_path), "-n", "2"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.count("holds something else") == 1
