"""Runs in a real MLflow: on SQLite, on a server, and on a server that goes away."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from megl_core.cli.sync import app
from megl_core.config import RegistryConfig
from megl_core.errors import ConfigError, UnavailableError
from megl_core.registry import sending, tracking
from megl_core.registry.outbox import Outbox, sync
from megl_core.registry.tracking import start_run
from tests.integration.conftest import Line, free_port


def read_run(uri: str, run_id: str):
    return MlflowClient(uri, uri).get_run(run_id)


def test_a_run_holds_what_was_logged(store: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>well</p>")
    config = RegistryConfig(tracking_uri=store, experiment="scenes")
    with start_run(
        config, tmp_path, name="first", tags={"megl.code": "c0de"}, system_metrics=False
    ) as tracker:
        tracker.log_params({"train": {"epochs": 3, "rate": 0.5, "name": "x"}, "model": {"widths": [8, 16]}})
        tracker.log_metrics({"loss": 2.0, "per class.café": 0.25}, 10)
        tracker.log_metrics({"loss": 1.5}, 20)
        tracker.log_dataset("scenes", "ab" * 32, "/data/scenes", dvc_hash="f00.dir")
        tracker.log_artifacts(tmp_path / "report.html", "reports")
    run = read_run(store, tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.tags["megl.code"] == "c0de"
    assert "mlflow.user" in run.data.tags
    assert run.data.params == {
        "train.epochs": "3",
        "train.rate": "0.5",
        "train.name": "x",
        "model.widths": "[8,16]",
    }
    assert run.data.metrics == {"loss": 1.5, "per class.caf_": 0.25}
    history = MlflowClient(store, store).get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(10, 2.0), (20, 1.5)]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("scenes", "ab" * 18)
    assert json.loads(used.dataset.source) == {"uri": "/data/scenes"}
    assert {tag.key: tag.value for tag in used.tags} == {
        "mlflow.data.context": "training",
        "megl.data_digest": "ab" * 32,
        "megl.dvc_hash": "f00.dir",
    }
    files = MlflowClient(store, store).list_artifacts(tracker.run_id, "reports")
    assert [file.path for file in files] == ["reports/report.html"]


def test_the_default_store_lies_in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "note.txt").write_text("x")
    workspace = tmp_path / "new" / "workspace"
    with start_run(RegistryConfig(), workspace, system_metrics=False) as tracker:
        tracker.log_artifacts(tmp_path / "note.txt")
    assert (workspace / "mlflow.db").is_file()
    assert (workspace / "mlartifacts" / tracker.run_id / "artifacts" / "note.txt").read_text() == "x"
    assert list((tmp_path / "here").iterdir()) == []
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_run_is_taken_up_again(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = RegistryConfig(tracking_uri=store)
    with start_run(config, tmp_path, system_metrics=False) as first:
        first.log_params({"epochs": 3})
    with start_run(config, tmp_path, run_id=first.run_id, system_metrics=False) as second:
        assert read_run(store, first.run_id).info.status == "RUNNING"
        second.log_params({"epochs": 4, "split": "test"})
        second.log_metrics({"test.accuracy": 0.75})
    run = read_run(store, first.run_id)
    assert second.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3", "split": "test"}
    assert run.data.metrics == {"test.accuracy": 0.75}
    assert "keeps its first values of epochs" in capsys.readouterr().err


def test_no_such_run(store: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="no MLflow run 0123"),
        start_run(RegistryConfig(tracking_uri=store), tmp_path, run_id="0123"),
    ):
        pass


def test_a_deleted_experiment(sqlite_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(sqlite_uri, sqlite_uri)
    client.delete_experiment(client.create_experiment("thrown-away"))
    config = RegistryConfig(tracking_uri=sqlite_uri, experiment="thrown-away")
    with pytest.raises(ConfigError, match="was deleted"), start_run(config, tmp_path):
        pass


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_how_a_run_ends(store: str, tmp_path: Path, error: type[BaseException], status: str) -> None:
    config = RegistryConfig(tracking_uri=store)
    run_id = ""

    def fail() -> None:
        nonlocal run_id
        with start_run(config, tmp_path, system_metrics=False) as tracker:
            run_id = tracker.run_id
            tracker.log_metrics({"loss": 1.0}, 1)
            raise error

    with pytest.raises(error):
        fail()
    run = read_run(store, run_id)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}


@pytest.mark.slow
def test_sigterm_ends_a_run_as_killed(sqlite_uri: str, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from megl_core.config import RegistryConfig\n"
        "from megl_core.registry.tracking import start_run\n"
        f"with start_run(RegistryConfig(tracking_uri={sqlite_uri!r}), Path('.')) as tracker:\n"
        "    print(tracker.run_id, flush=True)\n"
        "    time.sleep(120)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    process.stdout.close()
    assert read_run(sqlite_uri, run_id).info.status == "KILLED"


@pytest.mark.slow
def test_system_metrics(sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with start_run(RegistryConfig(tracking_uri=sqlite_uri), tmp_path) as tracker:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not read_run(sqlite_uri, tracker.run_id).data.metrics:
            time.sleep(0.2)
    metrics = read_run(sqlite_uri, tracker.run_id).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@127.0.0.1:{free_port()}")
    config = RegistryConfig()
    with (
        pytest.raises(UnavailableError, match="could not open a run") as caught,
        start_run(config, tmp_path),
    ):
        pass
    assert "127.0.0.1" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.service
def test_a_server_that_answers_503(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    line.faults["."] = 503
    with (
        pytest.raises(UnavailableError, match="503"),
        start_run(RegistryConfig(tracking_uri=line.uri), tmp_path),
    ):
        pass


@pytest.mark.service
def test_metrics_of_an_outage_arrive_after_it(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sending, "_PAUSE", 0.0)
    monkeypatch.setattr(tracking, "_SEND_EVERY", 0.0)
    config = RegistryConfig(tracking_uri=line.uri)
    with start_run(config, tmp_path, system_metrics=False) as tracker:
        tracker.log_metrics({"loss": 3.0}, 1)
        line.faults["."] = 503
        tracker.log_metrics({"loss": 2.0}, 2)
        tracker.log_metrics({"loss": 1.0}, 3)
        tracker.log_artifacts(tmp_path)
        line.faults.clear()
        tracker.log_metrics({"loss": 0.5}, 4)
    history = MlflowClient(line.uri).get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert read_run(line.uri, tracker.run_id).info.status == "FINISHED"
    assert capsys.readouterr().err.count("what it did not get is sent later") == 1


@pytest.mark.service
def test_an_outage_until_the_end_costs_warnings_and_no_training(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trained = []
    with start_run(RegistryConfig(tracking_uri=line.uri), tmp_path, system_metrics=False) as tracker:
        line.faults["."] = 503
        tracker.log_metrics({"loss": 2.0, "rate": 0.1}, 2)
        tracker.set_tags({"a": "b"})
        trained.append("model")
    assert trained == ["model"]
    said = capsys.readouterr().err
    assert f"what run {tracker.run_id} could not send waits in {tmp_path / 'outbox'}: megl train sync" in said
    line.faults.clear()
    assert read_run(line.uri, tracker.run_id).info.status == "RUNNING"


@pytest.mark.service
@pytest.mark.parametrize("how", ["sync", "next run"])
def test_what_an_outage_kept_back_is_sent_later(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "report.html").write_text("<p>well</p>")
    config = RegistryConfig(tracking_uri=line.uri)
    with start_run(config, tmp_path, system_metrics=False) as tracker:
        tracker.log_metrics({"loss": 3.0}, 1)
        line.faults["."] = 503
        tracker.log_metrics({"loss": 2.0}, 2)
        tracker.set_tags({"a": "b"})
        tracker.log_artifacts(tmp_path / "report.html", "reports")
    (tmp_path / "report.html").unlink()
    command = ["--workspace", str(tmp_path), "--set", f"registry.tracking_uri={line.uri}"]
    told = CliRunner().invoke(app, command)
    assert isinstance(told.exception, UnavailableError)
    line.faults.clear()
    if how == "sync":
        told = CliRunner().invoke(app, command)
        assert told.exit_code == 0, told.output
    else:
        with start_run(config, tmp_path, system_metrics=False):
            pass
    run = read_run(line.uri, tracker.run_id)
    assert (run.info.status, run.data.tags["a"]) == ("FINISHED", "b")
    history = MlflowClient(line.uri).get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0)]
    (report,) = MlflowClient(line.uri).list_artifacts(tracker.run_id, "reports")
    assert report.path == "reports/report.html"
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for a minute, and the end of a run for a moment."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setattr(tracking, "_SEND_EVERY", 0.0)
    monkeypatch.setattr(tracking, "_MONITOR_SECONDS", 0.5)
    monkeypatch.setattr(sending, "_END_SECONDS", 0.5)


def after_the_hang(line: Line, workspace: Path, run_id: str) -> list[tuple[int, float]]:
    """The losses of a run, once the server answers again and got what waited."""
    line.open.set()
    for thread in threading.enumerate():
        if thread.name == "mlflow":  # its request arrives now, of which nobody knew whether it had
            thread.join(timeout=60)
    sync(line.uri, workspace)
    assert Outbox(workspace).runs() == []
    history = MlflowClient(line.uri).get_metric_history(run_id, "loss")
    return [(point.step, point.value) for point in history]


@pytest.mark.service
@pytest.mark.usefixtures("impatient")
def test_a_server_that_hangs_holds_up_neither_a_run_nor_its_end(line: Line, tmp_path: Path) -> None:
    began = time.monotonic()
    with start_run(RegistryConfig(tracking_uri=line.uri), tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        line.open.clear()
        for step in range(2, 6):
            tracker.log_metrics({"loss": 1 / step}, step)
        tracker.set_tags({"a": "b"})
    assert time.monotonic() - began < 30
    losses = after_the_hang(line, tmp_path, tracker.run_id)
    assert losses == [(step, 1 / step) for step in range(1, 6)]
    run = read_run(line.uri, tracker.run_id)
    assert (run.info.status, run.data.tags["a"]) == ("FINISHED", "b")


@pytest.mark.service
@pytest.mark.usefixtures("impatient")
def test_what_waits_for_a_server_that_hangs_does_not_fill_the_memory(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_MAX_POINTS", 5)
    config = RegistryConfig(tracking_uri=line.uri)
    with start_run(config, tmp_path, system_metrics=False) as tracker:
        line.open.clear()
        for step in range(100):
            tracker.log_metrics({"loss": float(step)}, step)
        assert len(Outbox(tmp_path).waiting(tracker.run_id)) >= 9
    assert after_the_hang(line, tmp_path, tracker.run_id) == [(step, float(step)) for step in range(100)]


@pytest.mark.slow
@pytest.mark.service
def test_a_server_that_hangs_ends_no_training_of_several_processes(
    line: Line, packed: Path, tmp_path: Path
) -> None:
    settings = [
        "train.epochs=100", "train.batch_size=16", "train.checkpoint_seconds=0.5", "train.stall_seconds=5",
        "model.image_size=24", "model.backbone.widths=[8,16]", "model.backbone.depths=[1,1]",
        "model.decoder.width=16",
    ]  # fmt: skip
    command = [sys.executable, "-m", "megl_core.cli", "train", str(packed), "-n", "2", "-o", "model"]
    process = subprocess.Popen(
        command + [f"--set={setting}" for setting in settings],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": line.uri, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("model.checkpoints/*/step-*")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        line.open.clear()
        _, shown = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, shown[-3000:]
    assert "could not send waits in" in shown
    (run_id,) = Outbox(tmp_path / "workspace").runs()
    losses = after_the_hang(line, tmp_path / "workspace", run_id)
    assert [step for step, _ in losses] == list(range(3, 303, 3))
    assert read_run(line.uri, run_id).info.status == "FINISHED"
