"""A search with real trainings, in real processes, logged to a real MLflow store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from megl_core.config import Config, changed, load_config
from megl_core.errors import ConfigError
from megl_core.progress import SilentReporter
from megl_core.tuning import Space, Tuned, tune
from megl_core.tuning.space import Choices, Range

QUICK = changed(
    Config(),
    [
        "train.epochs=2",
        "train.batch_size=16",
        "train.checkpoint_seconds=0",
        "model.backbone.widths=[4,8]",
        "model.backbone.depths=[1,1]",
        "model.decoder.name=none",
        "objective.text=0",
        "objective.region=0",
    ],
)
SPACE = Space(
    parameters={
        "objective.visual": Range(low=0.1, high=10.0, log=True),
        "train.learning_rate": Range(low=0.0001, high=0.01, log=True),
        "model.saliency": Choices(choices=["centered", "plain"]),
    }
)


def searched(packed: Path, folder: Path, trials: int, **options: object) -> Tuned:
    settings = {"track": False, "reporter": SilentReporter()} | options
    return tune(packed, SPACE, QUICK, folder / "tune", folder, trials=trials, **settings)  # type: ignore[arg-type]


def test_a_search_tries_its_own_settings_first_and_goes_on_where_it_stopped(
    packed: Path, tmp_path: Path
) -> None:
    first = searched(packed, tmp_path, 2)
    assert first.attempts[0].values == {
        "objective.visual": QUICK.objective.visual,
        "train.learning_rate": QUICK.train.learning_rate,
        "model.saliency": QUICK.model.saliency,
    }
    more = searched(packed, tmp_path, 4, processes=2)
    assert [attempt.number for attempt in more.attempts] == [0, 1, 2, 3]
    assert more.attempts[:2] == first.attempts
    complete = [attempt for attempt in more.attempts if attempt.state == "complete"]
    assert more.best == max(complete, key=lambda attempt: attempt.score or 0.0)

    best = load_config(tmp_path / "tune" / "best.yaml")
    assert best == more.config
    assert best.objective.visual == more.best.values["objective.visual"]
    assert best.train.epochs == QUICK.train.epochs
    listed = json.loads((tmp_path / "tune" / "trials.json").read_text())
    assert [row["score"] for row in listed] == [attempt.score for attempt in more.attempts]
    assert not any((tmp_path / "tune" / "checkpoints").iterdir())


def test_the_same_search_gives_the_same_trials(packed: Path, tmp_path: Path) -> None:
    one, other = (searched(packed, tmp_path / name, 3) for name in ("one", "other"))
    assert one.attempts == other.attempts


def test_a_folder_holds_one_search(packed: Path, tmp_path: Path) -> None:
    searched(packed, tmp_path, 1)
    with pytest.raises(ConfigError, match="other settings"):
        tune(
            packed,
            SPACE,
            changed(QUICK, ["train.batch_size=8"]),
            tmp_path / "tune",
            tmp_path,
            trials=2,
            track=False,
            reporter=SilentReporter(),
        )


def test_settings_that_break_a_training_are_a_failed_trial_and_the_search_goes_on(
    packed: Path, tmp_path: Path
) -> None:
    space = Space(parameters={"train.learning_rate": Choices(choices=[0.003, 1e30])})
    result = tune(
        packed, space, QUICK, tmp_path / "tune", tmp_path, trials=6, track=False, reporter=SilentReporter()
    )
    failed = [attempt for attempt in result.attempts if attempt.state == "failed"]
    assert {attempt.values["train.learning_rate"] for attempt in failed} == {1e30}
    assert all("finite" in attempt.error for attempt in failed)
    assert result.config.train.learning_rate == 0.003


def test_every_trial_is_a_run_below_that_of_the_search(packed: Path, tmp_path: Path) -> None:
    from megl_core.registry.connection import connect
    from megl_core.registry.tracking import resolve_tracking_uri

    searched(packed, tmp_path, 2, track=True)
    result = searched(packed, tmp_path, 3, track=True)
    client = connect(resolve_tracking_uri(QUICK.registry, tmp_path))
    experiment = client.get_experiment_by_name(QUICK.registry.experiment)
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("megl.search")]
    assert len(parents) == 1
    children = {
        run.data.tags["megl.trial"]: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id
    }
    assert sorted(children) == ["0", "1", "2"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert children["0"].data.params["objective.visual"] == str(result.attempts[0].values["objective.visual"])


def test_a_killed_search_tries_the_interrupted_settings_again(packed: Path, tmp_path: Path) -> None:
    """Killed as a machine is: no process of it gets to say a word."""
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE.model_dump(mode="json")))
    long = changed(QUICK, ["train.epochs=400"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(long.model_dump(mode="json")))
    command = [
        *(sys.executable, "-m", "megl_core.cli", "tune", str(packed), "--space", "space.yaml"),
        *("--params", "params.yaml", "--output", "tune", "--trials", "1", "--no-track"),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "tune" / "checkpoints").glob("*/*/step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    restarted = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "tune" / "journal.log"
    while '"trial_id": 1' not in journal.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(restarted.pid, signal.SIGKILL)
    restarted.communicate()

    from megl_core.tuning.study import open_study

    first, again = open_study(tmp_path / "tune", 0).get_trials(deepcopy=False)
    assert first.state.name == "FAIL"
    assert again.system_attrs["fixed_params"] == first.params
