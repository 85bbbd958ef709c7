"""A search with real trainings, in real processes, logged to a real MLflow store."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch
import yaml

from megl_core.config import Config, changed, load_config
from megl_core.data.manifest import SCHEMA, row_digest, scan, write_manifest
from megl_core.data.pack import pack
from megl_core.errors import ConfigError, DataError, MeglError, UnavailableError
from megl_core.progress import SilentReporter
from megl_core.registry.connection import connect
from megl_core.registry.tracking import resolve_tracking_uri
from megl_core.storage.s3 import upload_folder
from megl_core.tuning import Space, Tuned, tune
from megl_core.tuning.space import Choices, Range
from megl_core.tuning.study import alone, ended, next_trial, open_study, origin, take_up
from megl_core.tuning.worker import Job, work
from tests.integration.faulty_store import Proxy, settings

_PATIENCE = 300  # seconds, for machines that have much else to do
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
    assert not (tmp_path / "tune" / "checkpoints").exists()


def test_a_search_in_two_sittings_is_the_same_search(packed: Path, tmp_path: Path) -> None:
    one = searched(packed, tmp_path / "one", 4)
    searched(packed, tmp_path / "other", 2)
    with (tmp_path / "other" / "tune" / "journal.log").open("a") as journal:
        journal.write('{"op_code":5,"wor')  # what the power took away
    assert searched(packed, tmp_path / "other", 4).attempts == one.attempts
    assert len({tuple(attempt.values.items()) for attempt in one.attempts}) == 4


def test_a_folder_of_something_else_is_no_place_for_a_search(packed: Path, tmp_path: Path) -> None:
    model = tmp_path / "tune"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(MeglError, match="holds something else"):
        searched(packed, tmp_path, 1)
    assert [path.name for path in model.iterdir()] == ["model.safetensors"]


def test_a_search_that_was_stopped_before_its_first_record_can_be_started_again(
    packed: Path, tmp_path: Path
) -> None:
    with alone(tmp_path / "tune"):
        pass
    assert len(searched(packed, tmp_path, 1).attempts) == 1


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


@pytest.mark.parametrize(
    ("name", "good", "bad", "told"),
    [("train.learning_rate", 0.003, 1e30, "finite"), ("train.batch_size", 16, 400, "do not fill a batch")],
)
def test_settings_that_break_a_training_are_a_failed_trial_and_the_search_goes_on(
    packed: Path, tmp_path: Path, name: str, good: float, bad: float, told: str
) -> None:
    space = Space(parameters={name: Choices(choices=[good, bad])})
    result = tune(
        packed, space, QUICK, tmp_path / "tune", tmp_path, trials=5, track=False, reporter=SilentReporter()
    )
    failed = [attempt for attempt in result.attempts if attempt.state == "failed"]
    assert {attempt.values[name] for attempt in failed} == {bad}
    assert all(told in attempt.error for attempt in failed)
    assert result.best.values[name] == good


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_what_is_missing_for_all_trials_ends_the_search_and_costs_none(packed: Path, tmp_path: Path) -> None:
    config = changed(QUICK, ["train.device=cuda"])
    with pytest.raises(UnavailableError, match="no CUDA device"):
        tune(
            packed,
            SPACE,
            config,
            tmp_path / "tune",
            tmp_path,
            trials=3,
            track=False,
            reporter=SilentReporter(),
        )
    study = open_study(tmp_path / "tune")
    assert ended(study) == []
    (cut_off,) = take_up(study, SPACE, config)
    assert study.trials[-1].system_attrs["fixed_params"] == cut_off.params


def test_a_score_of_masks_needs_masks(packed: Path, tmp_path: Path) -> None:
    """Told before anything is trained: no folder was begun."""
    dataset = packed.parent / "dataset"
    rows = scan(dataset, QUICK.data.split).to_pylist()
    for row in rows:
        if row["split"] == "val":
            row |= {name: None for name in row if name.startswith("mask")}
            row["row_sha256"] = row_digest(row)
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "manifest.parquet")
    pack(dataset, tmp_path / "manifest.parquet", tmp_path / "packed", QUICK.pack)
    with pytest.raises(DataError, match="no validation image has a mask"):
        searched(tmp_path / "packed", tmp_path, 1)
    assert not (tmp_path / "tune").exists()


def test_every_trial_is_a_run_below_that_of_the_search(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    searched(packed, tmp_path, 1, track=True)
    assert len(runs_of_search(tmp_path)) == 2  # the search and its trial
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # later searches of this process go to the workspace's store
    shutil.rmtree(tmp_path / "tune")
    searched(packed, tmp_path, 2, track=True)
    result = searched(packed, tmp_path, 3, track=True)
    runs = runs_of_search(tmp_path)
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


def test_a_trial_that_is_worse_than_the_others_is_stopped_early(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate of nearly nothing; the median of the first five is that of trials that learn."""
    space = Space(
        parameters={"train.learning_rate": Choices(choices=[0.003, 1e-9])}, score={"val_energy_in_mask": 1}
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = changed(QUICK, ["train.epochs=3"])
    result = tune(packed, space, config, tmp_path / "tune", tmp_path, trials=9, reporter=SilentReporter())
    pruned = [attempt.number for attempt in result.attempts if attempt.state == "pruned"]
    assert pruned
    assert min(pruned) >= 5
    runs = {run.data.tags.get("megl.trial"): run for run in runs_of_search(tmp_path)}
    assert {number for number, run in runs.items() if "megl.pruned" in run.data.tags} == set(map(str, pruned))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@contextmanager
def searching(
    packed: Path | str, folder: Path, config: Config, space: Space, *options: str
) -> Iterator["subprocess.Popen[str]"]:
    """`megl tune` in a session of its own, killed in the end."""
    (folder / "space.yaml").write_text(yaml.safe_dump(space.model_dump(mode="json")))
    (folder / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [
        *(sys.executable, "-m", "megl_core.cli", "tune", str(packed), "--space", "space.yaml"),
        *("--params", "params.yaml", "--output", "tune", *options),
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    process = subprocess.Popen(
        command,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.service
def test_a_search_over_data_on_s3_is_the_same_search(packed: Path, proxy: Proxy, tmp_path: Path) -> None:
    """By the command line: the server of processes keeps the credentials of the first search it served."""
    uri = "s3://datasets/packed"
    upload_folder(packed, uri, settings(proxy))
    storage = settings(proxy, cache=tmp_path / "cache", read_timeout=30)
    config = QUICK.model_copy(update={"storage": storage})
    with searching(uri, tmp_path, config, SPACE, "--trials", "1", "--no-track", "--json") as process:
        output, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0, errors
    near = searched(packed, tmp_path / "near", 1)
    assert json.loads(output)["best"]["score"] == near.best.score


def wait_for_checkpoint(folder: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while not list(folder.glob("tune/checkpoints/trial-0/*/step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_search_that_was_killed_goes_on_and_leaves_nobody_behind(packed: Path, tmp_path: Path) -> None:
    """Killed as the kernel kills it: it gets to say no word; then stopped by Ctrl-C."""
    long = changed(QUICK, ["train.epochs=5000"])
    options = ("--trials", "1", "--no-track")
    with searching(packed, tmp_path, long, SPACE, *options) as process:
        wait_for_checkpoint(tmp_path, process)
        with pytest.raises(UnavailableError, match="another process searches here"):
            tune(packed, SPACE, long, tmp_path / "tune", tmp_path, trials=1, track=False)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill()
        assert psutil.wait_procs(children, timeout=_PATIENCE)[1] == []
    first = newest(tmp_path)

    with searching(packed, tmp_path, long, SPACE, *options) as process:
        deadline = time.monotonic() + _PATIENCE
        while newest(tmp_path) <= first:  # it goes on from the checkpoint
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, shown = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in shown
    assert "trial 1: resuming at step" in shown
    cut_off, again = open_study(tmp_path / "tune").get_trials(deepcopy=False)
    assert cut_off.state.name == "FAIL"
    assert again.state.name == "RUNNING"
    assert again.params == cut_off.params


DIES_WRITING = """
import os, signal
from pathlib import Path
from megl_core.tuning.study import open_study

def die(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)  # the record is there in part
    os.kill(os.getpid(), signal.SIGKILL)

study = open_study(Path("tune"))
study.set_user_attr("before", 1)
os.fsync = die
study.set_user_attr("half", 2)
"""
GOES_ON = """
from pathlib import Path
from megl_core.tuning.study import open_study

open_study(Path("tune")).set_user_attr("after", 3)
"""


def test_a_process_that_is_killed_while_it_writes_holds_up_no_other(tmp_path: Path) -> None:
    """With a relative folder: there Optuna's own lock is waited for without end."""
    killed = subprocess.run([sys.executable, "-c", DIES_WRITING], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "tune" / "journal.log").read_bytes().endswith(b"\n")

    subprocess.run([sys.executable, "-c", GOES_ON], cwd=tmp_path, check=True, timeout=_PATIENCE)
    assert open_study(tmp_path / "tune").user_attrs == {"before": 1, "after": 3}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["enqueue_trial", "set_user_attr", "tell"])
def test_settings_outlive_a_search_that_is_killed_before_it_tries_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Before a trial's settings are read, and then while the next search queues them again."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    study = open_study(tmp_path)
    take_up(study, SPACE, QUICK)
    assert next_trial(study, tmp_path, 3, 0, 0) is not None
    monkeypatch.setattr(study, at, die)
    with pytest.raises(Killed):
        take_up(study, SPACE, QUICK)

    later = open_study(tmp_path)
    take_up(later, SPACE, QUICK)
    (waiting,) = (trial for trial in later.trials if trial.state.name == "WAITING")
    assert waiting.system_attrs["fixed_params"] == {
        "objective.visual": QUICK.objective.visual,
        "train.learning_rate": QUICK.train.learning_rate,
        "model.saliency": QUICK.model.saliency,
    }
    assert (origin(waiting), [trial.state.name for trial in later.trials]) == (0, ["FAIL", "WAITING"])


def test_a_process_of_a_search_that_was_stopped_begins_nothing(packed: Path, tmp_path: Path) -> None:
    """Its signal may have come when a training was at its end, and needed none any more."""
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    stopped.set()
    job = Job(packed, SPACE, QUICK, tmp_path, tmp_path, 2, 0, "", None)
    process = context.Process(target=work, args=(job, 0, stopped))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert open_study(tmp_path).trials == []


def test_a_full_disk_is_told_and_spoils_nothing(tiny_disk: Path) -> None:
    study = open_study(tiny_disk / "tune")
    study.set_user_attr("before", 1)
    (tiny_disk / "other").write_bytes(b"x" * 1_000_000)
    with pytest.raises(MeglError, match=r"cannot write journal\.log: No space left"):
        study.set_user_attr("big", "x" * 100_000)
    (tiny_disk / "other").unlink()
    open_study(tiny_disk / "tune").set_user_attr("after", 3)
    assert open_study(tiny_disk / "tune").user_attrs == {"before": 1, "after": 3}


def test_a_process_that_is_killed_costs_its_trial_and_is_replaced(packed: Path, tmp_path: Path) -> None:
    space = Space(parameters={"train.epochs": Choices(choices=[5000, 1, 2, 3, 4])})
    config = changed(QUICK, ["train.epochs=5000", "train.seed=1"])
    with searching(packed, tmp_path, config, space, "--trials", "2", "--json") as process:
        wait_for_checkpoint(tmp_path, process)
        (worker,) = (
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.ppid() != process.pid  # a child of the server that the workers are forked from
        )
        worker.kill()
        shown, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0, errors
    killed, other = json.loads(shown)["trials"]
    assert killed["state"] == "failed"
    assert "its process was ended by signal 9" in killed["error"]
    assert other["state"] == "complete"
    status = {
        run.data.tags.get("megl.trial"): run.info.status for run in runs_of_search(tmp_path / "workspace")
    }
    assert status == {None: "FINISHED", "0": "KILLED", "1": "FINISHED"}


def newest(folder: Path) -> int:
    names = folder.glob("tune/checkpoints/trial-0/*/step-*")
    return max((int(path.name.removeprefix("step-")) for path in names), default=0)


def runs_of_search(workspace: Path) -> list[Any]:
    client = connect(resolve_tracking_uri(QUICK.registry, workspace))
    experiment = client.get_experiment_by_name(QUICK.registry.experiment)
    return list(client.search_runs([experiment.experiment_id]))
