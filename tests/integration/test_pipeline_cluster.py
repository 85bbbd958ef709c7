"""Runs and schedules on a Kubeflow Pipelines server, through the unmodified client and over HTTP."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from megl_core.cli import app
from megl_core.errors import ConfigError, MeglError, UnavailableError
from pipelines import client, following, schedules
from pipelines.client import Server, start_run, upload
from pipelines.following import failure, follow
from tests.integration.cluster import double as kubernetes
from tests.integration.kfp_double import Double, Json, task

SUCCEEDED = {"state": "SUCCEEDED", "run_details": {"task_details": [task("ingest", "SUCCEEDED")]}}
PACKAGE = b"pipelineInfo: {name: megl-training}\nroot: {}\n"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "MOUNTED", tmp_path / "absent")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    for variable in (client.TOKEN_VARIABLE, client.MOUNTED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def double() -> Iterator[Double]:
    with Double(SUCCEEDED) as made:
        yield made


def state(run: str, *tasks: Json) -> Json:
    return {"state": run, "run_details": {"task_details": list(tasks)}}


def started(server: Server) -> str:
    return start_run(server, upload(server, "training", PACKAGE), "training", {}, experiment="megl")


def megl(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["pipeline", *arguments])


def schedule(double: Double, *more: str) -> Result:
    return megl("schedule", "create", "training", "--cluster", double.url, "--cron", "0 3 * * 1", *more)


def test_the_same_bytes_are_uploaded_once_and_others_become_a_version_of_their_own(double: Double) -> None:
    server = Server(double.url)
    first, again = upload(server, "training", PACKAGE), upload(server, "training", PACKAGE)
    other = upload(server, "training", PACKAGE + b"# changed\n")
    assert (first.uploaded, again.uploaded, other.uploaded) == (True, False, True)
    assert first.version_id == again.version_id != other.version_id
    assert double.packages == [PACKAGE, PACKAGE + b"# changed\n"]
    assert [one["display_name"] for one in double.items["pipelines"]] == ["megl-training"]
    assert first.name == "0.1.0-" + hashlib.sha256(PACKAGE).hexdigest()[:12]


def test_a_run_from_the_command_line_sends_the_settings_and_ends_with_code_0(double: Double) -> None:
    shown = megl("run", "--cluster", double.url, "--namespace", "team", "--set", "train.epochs=7", "--json")
    assert shown.exit_code == 0, shown.output
    (run,) = double.items["runs"]
    assert json.loads(run["runtime_config"]["parameters"]["train"])["epochs"] == 7
    assert run["runtime_config"]["parameters"]["workspace"] == "/workspace"
    assert run["service_account"] == "megl-pipeline"
    assert double.items["experiments"][0]["namespace"] == "team"
    assert json.loads(shown.stdout)["state"] == "SUCCEEDED"


def test_settings_that_are_wrong_are_refused_before_anything_is_sent(double: Double) -> None:
    shown = megl("run", "--cluster", double.url, "--set", "train.epoch=7")
    assert isinstance(shown.exception, ConfigError)
    assert double.requests == []


def test_without_following_nothing_is_asked_after_the_start(double: Double) -> None:
    assert megl("run", "--cluster", double.url, "--no-follow").exit_code == 0
    assert double.requests[-1] == ("POST", "/apis/v2beta1/runs")


def test_each_change_of_a_step_is_told_once_and_drivers_are_not() -> None:
    script = [
        state("RUNNING", task("root", "RUNNING"), task("train-driver", "RUNNING"), task("train", "RUNNING")),
        state("RUNNING", task("train", "RUNNING")),
        state("SUCCEEDED", task("train", "SUCCEEDED"), task("report", "SKIPPED")),
    ]
    told: list[str] = []
    with Double(*script) as double:
        server = Server(double.url)
        outcome = follow(server, started(server), told.append, 0.01)
    assert [line.partition("  ")[2] for line in told] == ["train: runs", "train: done", "report: skipped"]
    assert outcome.succeeded


def test_a_failed_run_names_the_step_its_error_and_its_last_lines() -> None:
    failed = state("FAILED", task("train", "FAILED", pod="pod-7", error="exit code 1"))
    with Double(failed) as double:
        double.logs["pod-7"] = "\n".join(f"line {number}" for number in range(100))
        server = Server(double.url)
        run_id = started(server)
        outcome = follow(server, run_id, print, 0.01)
        error = failure(server, run_id, outcome)
    assert outcome.log["train"] == [f"line {number}" for number in range(70, 100)]
    assert "the run failed in train: exit code 1" in str(error)
    assert "line 99" in str(error)


@pytest.mark.parametrize("end", ["FAILED", "CANCELED"])
def test_the_command_line_fails_where_the_run_does(end: str) -> None:
    with Double(state(end, task("train", end))) as double:
        shown = megl("run", "--cluster", double.url)
    assert isinstance(shown.exception, MeglError)
    assert shown.exception.exit_code == 1


def test_what_a_running_step_writes_is_told_line_by_line_and_once() -> None:
    script = [state("RUNNING", task("train", "RUNNING", pod="p"))] * 3
    told: list[str] = []
    with Double(*script, state("SUCCEEDED", task("train", "SUCCEEDED", pod="p"))) as double:
        server = Server(double.url)
        run_id = started(server)
        double.logs["p"] = "epoch 1\nhttps://me:secret@host"

        def tell(line: str) -> None:
            told.append(line.strip())
            double.logs["p"] = "epoch 1\nhttps://me:secret@host\nepoch 2"

        follow(server, run_id, tell, 0.01)
    lines = [line for line in told if "|" in line]
    assert lines == ["train | epoch 1", "train | https://host", "train | epoch 2"]


def test_a_log_that_is_not_served_is_replaced_by_the_command_that_shows_it() -> None:
    with Double(state("FAILED", task("train", "FAILED", pod="gone"))) as double:
        server = Server(double.url, namespace="team")
        run_id = started(server)
        lines = follow(server, run_id, print, 0.01).log["train"]
    assert "pod not found" in lines[0]
    assert lines[1] == f"kubectl --namespace team logs --selector pipeline/runid={run_id} --container main"


def argo_pod(name: str, node: str, created: str) -> Json:
    metadata = {
        "name": name,
        "annotations": {"workflows.argoproj.io/node-name": f"megl-training-x7.root.{node}"},
        "creationTimestamp": created,
    }
    return {"metadata": metadata}


def test_where_the_server_serves_no_log_kubernetes_is_asked_for_that_of_the_last_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [
        argo_pod("second-try", "train.executor(1)", "2026-11-24T10:05:00Z"),
        argo_pod("first-try", "train.executor(0)", "2026-11-24T10:00:00Z"),
        argo_pod("driver", "train-driver", "2026-11-24T10:09:00Z"),
    ]
    logs = {"second-try": ["https://me:secret@host", "died"], "first-try": ["old"], "driver": ["driven"]}
    with (
        kubernetes.Double(kubernetes.State(pods=pods, logs=logs)) as cluster,
        Double(
            state("RUNNING", task("train", "RUNNING")), state("FAILED", task("train", "FAILED"))
        ) as double,
    ):
        cluster.jobs["any"] = {}
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        server = Server(double.url, namespace="megl")
        told: list[str] = []
        outcome = follow(server, started(server), told.append, 0.01)
        path = cluster.requests[0][1]
    assert [line.strip() for line in told if "|" in line] == ["train | https://host", "train | died"]
    assert outcome.log == {"train": ["https://host", "died"]}
    assert path.startswith("/api/v1/namespaces/megl/pods?labelSelector=pipeline%2Frunid%3Drun-0")


def test_following_survives_resets_and_503_and_says_so(double: Double) -> None:
    told: list[str] = []
    server = Server(double.url, tell=told.append)
    run_id = started(server)
    double.answers = [0, 503, 200]
    assert follow(server, run_id, told.append, 0.01).succeeded
    assert told[0].startswith("the server does not answer")
    assert told[1] == "the server answers again"


def test_a_server_that_stays_away_ends_the_patience(double: Double) -> None:
    server = Server(double.url, patience_seconds=0.05)
    run_id = started(server)
    double.answers = [503] * 50
    with pytest.raises(UnavailableError, match="503"):
        follow(server, run_id, print, 0.01)


def test_a_server_that_never_answered_is_given_up_soon(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "_FIRST_PATIENCE", 0.05)
    double.answers = [503] * 50
    server = Server(double.url)
    with pytest.raises(UnavailableError, match="503"):
        client.find_pipeline(server, "a")
    double.answers = [200] + [503] * 4
    client.find_pipeline(server, "a")
    client.find_pipeline(server, "a")  # now it is waited for


def test_a_write_is_never_sent_twice(double: Double) -> None:
    server = Server(double.url)
    version = upload(server, "training", PACKAGE)
    double.items["experiments"].append({"experiment_id": "e", "display_name": "megl"})
    double.answers = [200, 503]
    with pytest.raises(UnavailableError):
        start_run(server, version, "training", {}, experiment="megl")
    assert double.writes().count("/apis/v2beta1/runs") == 1


def test_ctrl_c_leaves_the_run_alone_and_names_its_page(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following.time, "sleep", interrupt)
    double.script = [state("RUNNING")]
    shown = megl("run", "--cluster", double.url)
    assert shown.exit_code == 130
    assert f"the run goes on: {double.url}/#/runs/details/run-0" in shown.output
    assert not any("terminate" in path for path in double.writes())


def test_a_token_comes_from_a_file_that_is_read_again_for_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with Double(SUCCEEDED, token="first") as double:
        server = Server(double.url, token_file=file)
        client.find_pipeline(server, "a")
        file.write_text("second")
        double.token = "second"
        client.find_pipeline(server, "a")
    assert double.authorizations == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("variable", [client.TOKEN_VARIABLE, client.MOUNTED_VARIABLE])
def test_a_token_comes_from_the_environment(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    monkeypatch.setenv(variable, "secret" if variable == client.TOKEN_VARIABLE else str(file))
    with Double(SUCCEEDED, token="secret") as double:
        assert client.find_pipeline(Server(double.url), "a") is None


def test_without_a_token_the_error_says_how_to_sign_in() -> None:
    with (
        Double(SUCCEEDED, token="secret") as double,
        pytest.raises(UnavailableError, match="--token-file"),
    ):
        client.find_pipeline(Server(double.url), "a")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500])
def test_no_error_repeats_the_token(double: Double, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client.TOKEN_VARIABLE, "s3cr3t-token")
    double.answers = [status]
    with pytest.raises(MeglError, match=str(status)) as caught:
        client.find_pipeline(Server(double.url, patience_seconds=0), "a")
    assert "s3cr3t" not in str(caught.value)


def test_a_schedule_runs_the_latest_version_one_at_a_time_without_catching_up(double: Double) -> None:
    shown = schedule(double, "--set", "train.epochs=7")
    assert shown.exit_code == 0, shown.output
    (made,) = double.items["recurringruns"]
    assert made["display_name"] == "megl-training"
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert made["pipeline_version_reference"] == {"pipeline_id": "pipeline-0"}
    assert json.loads(made["runtime_config"]["parameters"]["train"])["epochs"] == 7


def test_a_schedule_can_be_held_at_a_version(double: Double) -> None:
    version = upload(Server(double.url), "training", PACKAGE)
    assert schedule(double, "--version", version.name).exit_code == 0
    (made,) = double.items["recurringruns"]
    assert made["pipeline_version_reference"]["pipeline_version_id"] == version.version_id
    assert isinstance(schedule(double, "--version", "none-such").exception, ConfigError)


def test_the_same_schedule_once_more_changes_nothing_and_another_needs_replace(double: Double) -> None:
    schedule(double)
    assert "unchanged" in schedule(double).output
    refused = schedule(double, "--max-concurrency", "2")
    assert "--replace" in str(refused.exception)
    assert [one["max_concurrency"] for one in double.items["recurringruns"]] == ["1"]
    assert "replaced" in schedule(double, "--max-concurrency", "2", "--replace").output
    assert [one["max_concurrency"] for one in double.items["recurringruns"]] == ["2"]


def test_schedules_are_listed_with_their_last_run_paused_resumed_and_deleted_by_name(double: Double) -> None:
    schedule(double)
    (made,) = double.items["recurringruns"]
    double.items["runs"].append(
        {"run_id": "r", "recurring_run_id": made["recurring_run_id"], "state": "FAILED"}
    )
    double.items["recurringruns"].append({"recurring_run_id": "x", "display_name": "of-others"})
    (row,) = json.loads(megl("schedule", "list", "--cluster", double.url, "--json").stdout)
    assert (row["name"], row["time_zone"], row["enabled"]) == ("training", "UTC", True)
    assert (row["last_state"], row["version"]) == ("FAILED", "latest")
    for verb, status in (("pause", "DISABLED"), ("resume", "ENABLED")):
        assert megl("schedule", verb, "training", "--cluster", double.url).exit_code == 0
        assert made["status"] == status
    assert megl("schedule", "delete", "training", "--cluster", double.url).exit_code == 0
    assert [one["display_name"] for one in double.items["recurringruns"]] == ["of-others"]


def test_pausing_what_is_not_there_says_where_to_look(double: Double) -> None:
    with pytest.raises(ConfigError, match="schedule list"):
        schedules.pause(Server(double.url), "training")
