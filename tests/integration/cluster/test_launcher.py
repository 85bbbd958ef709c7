"""The launcher and the official Kubernetes client against an API that speaks HTTP."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from megl_core.cluster.launcher import run_train_job
from megl_core.config import ClusterConfig
from megl_core.errors import ConfigError, MeglError, UnavailableError
from tests.conftest import REPOSITORY
from tests.integration.cluster.double import Double, State, ended, image_error, pod, unschedulable

COMMAND = ["torchrun", "-m", "megl_core.cli", "train"]
QUICK: dict[str, Any] = {"num_nodes": 2, "poll_seconds": 0.01, "patience_minutes": 0.2}
RUNNING = State(pods=[pod(0, "Running"), pod(1, "Running")])
COMPLETE = State(condition=("Complete", "JobsCompleted", ""), pods=[ended(0, 0, ""), ended(1, 0, "")])
NO_LOGS: Mapping[str, list[str]] = MappingProxyType({})

Make = Callable[..., Double]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Start a double with these states and let KUBECONFIG lead to it."""
    doubles: list[Double] = []
    for variable in ("POD_NAME", "POD_UID", "POD_NAMESPACE", "MEGL_EVENTS"):
        monkeypatch.delenv(variable, raising=False)

    def make(*states: State) -> Double:
        double = Double(*states)
        double.start()
        doubles.append(double)
        monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(tmp_path)))
        return double

    yield make
    for double in doubles:
        double.halt()


def launch(**settings: Any) -> None:
    run_train_job("digits", COMMAND, ClusterConfig(**{**QUICK, **settings}))


def failed(
    *pods: dict[str, Any], reason: str = "JobsFailed", logs: Mapping[str, list[str]] = NO_LOGS
) -> State:
    return State(condition=("Failed", reason, "a job has failed"), pods=pods, logs=logs)


def test_the_first_ranks_log_is_shown_once_and_the_job_is_removed(
    cluster: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    log = ["epoch 1", '{"loss": 0.5}', "epoch 2"]
    first = State(pods=RUNNING.pods, logs={"digits-node-0-0-0": log[:1]})
    second = State(pods=RUNNING.pods, logs={"digits-node-0-0-0": log[:2]})
    last = State(COMPLETE.condition, COMPLETE.pods, {"digits-node-0-0-0": log})
    double = cluster(first, second, second, last)
    launch()
    shown = capfd.readouterr().err.splitlines()
    assert [line for line in shown if "epoch" in line or "loss" in line] == log
    assert double.jobs == {}


def test_the_job_asks_for_what_the_settings_say(cluster: Make) -> None:
    double = cluster(COMPLETE)
    launch(
        gpus_per_node=4,
        memory="64Gi",
        env={"A": "1"},
        queue="gpus",
        priority="high",
        timeout_minutes=2,
    )
    (job,) = double.created
    assert job["spec"] == {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": "megl"},
        "activeDeadlineSeconds": 120,
        "trainer": {
            "command": COMMAND,
            "numNodes": 2,
            "numProcPerNode": 4,
            "env": [{"name": "A", "value": "1"}],
            "resourcesPerNode": {
                "requests": {"memory": "64Gi", "nvidia.com/gpu": "4"},
                "limits": {"memory": "64Gi", "nvidia.com/gpu": "4"},
            },
        },
    }
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "megl",
        "kueue.x-k8s.io/queue-name": "gpus",
        "kueue.x-k8s.io/priority-class": "high",
    }
    assert "ownerReferences" not in job["metadata"]


def test_a_name_that_pods_cannot_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 44"):
        run_train_job("n" * 45, COMMAND, ClusterConfig())


def test_a_pending_job_is_given_up_with_the_reason(cluster: Make, capfd: pytest.CaptureFixture[str]) -> None:
    why = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."
    double = cluster(State(pods=[unschedulable(0, why), pod(1, "Pending")]))
    with pytest.raises(UnavailableError, match=r"Unschedulable: 0/5 nodes .* nvidia\.com/gpu") as caught:
        launch(pending_minutes=0.002)
    assert "cluster.pending_minutes" in str(caught.value)
    assert capfd.readouterr().err.count(f"pending: Unschedulable: {why}") == 1
    assert double.jobs == {}


def test_the_deadline_ends_a_running_job_and_removes_it(
    cluster: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = cluster(RUNNING)
    with pytest.raises(UnavailableError, match=r"after 0\.002 minutes: it was still running"):
        launch(timeout_minutes=0.002)
    assert double.jobs == {}


def test_a_suspended_job_tells_what_the_queue_says(cluster: Make, capfd: pytest.CaptureFixture[str]) -> None:
    double = cluster(State(condition=("Suspended", "Suspended", "TrainJob is suspended")), RUNNING, COMPLETE)
    told = "insufficient unused quota for nvidia.com/gpu, 2 more needed"
    one = {"type": "QuotaReserved", "status": "False", "message": told}
    double.workloads = [{"status": {"conditions": [one]}}]
    launch(queue="gpus")
    assert f"pending: waiting for quota in queue gpus: {told}" in capfd.readouterr().err


def test_a_used_up_resource_quota_is_told_from_the_events(
    cluster: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    double = cluster(State(), COMPLETE)
    double.events = [
        {"metadata": {}, "involvedObject": {}, "reason": "FailedCreate", "message": "exceeded quota: team"}
    ]
    launch()
    assert "pending: FailedCreate: exceeded quota: team" in capfd.readouterr().err


def test_an_image_that_cannot_be_pulled_ends_the_wait_early(cluster: Make) -> None:
    pods = [pod(0, "Running"), image_error(1, "ImagePullBackOff", "registry/megl:1 not found")]
    cluster(State(pods=pods))
    with pytest.raises(UnavailableError, match="ImagePullBackOff on rank 1: registry/megl:1 not found"):
        launch(start_minutes=0.002)


def test_the_first_rank_that_failed_is_the_cause_and_its_last_lines_are_shown(
    cluster: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    pods = [ended(0, 143, "Error", second=4), ended(1, 3, "Error", second=5)]
    logs = {"digits-node-0-1-0": ["one", "two", "nan in the loss"]}
    double = cluster(RUNNING, failed(*pods, logs=logs))
    with pytest.raises(MeglError, match="rank 1 ended with exit code 3") as caught:
        launch(tail_lines=2)
    shown = capfd.readouterr().err
    assert "[rank 1] two\n[rank 1] nan in the loss" in shown
    assert "[rank 1] one" not in shown
    assert "pod digits-node-0-1-0" in str(caught.value)
    assert double.jobs == {}


def test_a_rank_that_lost_another_one_is_not_the_cause(cluster: Make) -> None:
    cluster(RUNNING, failed(ended(0, 5, "Error", second=1), ended(1, 3, "Error", second=2)))
    with pytest.raises(MeglError, match="rank 1 ended with exit code 3"):
        launch()


def test_memory_is_the_cause_even_where_another_rank_fell_first(cluster: Make) -> None:
    cluster(failed(ended(0, 1, "Error", second=4), ended(1, 137, "OOMKilled", second=5)))
    with pytest.raises(MeglError, match=r"rank 1 ran out of memory \(OOMKilled, exit code 137\)"):
        launch()


def test_the_cause_is_known_when_the_pods_are_gone(cluster: Make) -> None:
    cluster(State(pods=[pod(0, "Running"), ended(1, 7, "Error")]), failed())
    with pytest.raises(MeglError, match="rank 1 ended with exit code 7"):
        launch()


def test_an_evicted_job_that_starts_again_succeeds(cluster: Make, capfd: pytest.CaptureFixture[str]) -> None:
    evicted = pod(1, "Failed", reason="Evicted", message="The node was low on memory.")
    again = State(pods=[pod(0, "Running", attempt=1), pod(1, "Running", attempt=1)])
    cluster(RUNNING, State(pods=[pod(0, "Running"), evicted]), again, COMPLETE)
    launch()
    assert capfd.readouterr().err.count("rank 1 was evicted: The node was low on memory.") == 1


def test_an_eviction_of_an_earlier_attempt_does_not_hide_the_last_ones_cause(cluster: Make) -> None:
    evicted = pod(1, "Failed", reason="Evicted", message="The node was low on memory.")
    cluster(State(pods=[pod(0, "Running"), evicted]), failed(ended(0, 5, "Error", attempt=1)))
    with pytest.raises(MeglError, match="rank 0 ended with exit code 5"):
        launch()


def test_a_job_that_the_cluster_stopped_in_time_is_a_timeout(cluster: Make) -> None:
    cluster(failed(reason="DeadlineExceeded"))
    with pytest.raises(UnavailableError, match=r"cluster\.timeout_minutes"):
        launch()


@pytest.mark.parametrize("answer", [0, 410, 429, 500, 503])
def test_a_passing_fault_is_waited_for(
    cluster: Make, answer: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megl_core.cluster.api._PAUSE_SECONDS", 0.01)
    double = cluster(RUNNING, RUNNING, COMPLETE)
    double.answers = [200, 200, answer, answer]  # created, read; then its pods cannot be listed
    launch()
    assert "answers again" in capfd.readouterr().err
    assert len(double.created) == 1


def test_a_server_that_restarts_is_found_again(
    cluster: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("megl_core.cluster.api._PAUSE_SECONDS", 0.05)
    double = cluster(RUNNING, RUNNING, COMPLETE)
    double.states[1] = State(pods=RUNNING.pods, before=double.halt)
    launch()
    assert "answers again" in capfd.readouterr().err
    assert len(double.created) == 1


def test_a_server_that_stays_away_ends_the_step(cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megl_core.cluster.objects._REMOVAL_SECONDS", 0.1)
    double = cluster(RUNNING)
    double.answers = [200, *[503] * 100]
    with pytest.raises(UnavailableError, match=r"gave no answer for .* 503"):
        launch(patience_minutes=0.002)


def test_a_creation_whose_answer_got_lost_is_not_repeated(
    cluster: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megl_core.cluster.api._PAUSE_SECONDS", 0.01)
    double = cluster(RUNNING, COMPLETE)
    double.reset_after_create = True
    launch()
    assert len(double.created) == 1
    assert double.jobs == {}


@pytest.mark.parametrize(
    ("verb", "resource", "named"),
    [("create", "trainjobs", "trainjobs.trainer.kubeflow.org"), ("get", "pods", "pods")],
)
def test_what_rbac_forbids_is_named(cluster: Make, verb: str, resource: str, named: str) -> None:
    double = cluster(RUNNING)
    double.forbidden = {(verb, resource)}
    word = "list" if resource == "pods" else verb
    with pytest.raises(UnavailableError, match=f"may not {word} {named}") as caught:
        launch()
    assert "robot" in str(caught.value)
    assert double.jobs == {}


def test_a_second_try_follows_the_job_of_the_first_and_owns_it(
    cluster: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    double = cluster(COMPLETE)
    launch()
    (first,) = double.created
    double.put(first)
    double.states = [RUNNING, RUNNING, COMPLETE]
    for key, value in {"POD_NAME": "step-2", "POD_UID": "u2", "POD_NAMESPACE": "megl"}.items():
        monkeypatch.setenv(key, value)
    owners: list[Any] = []
    double.states[1] = State(
        pods=RUNNING.pods, before=lambda: owners.extend(double.jobs["digits"]["metadata"]["ownerReferences"])
    )
    launch()
    assert "is there already: following it" in capfd.readouterr().err
    assert owners == [{"apiVersion": "v1", "kind": "Pod", "name": "step-2", "uid": "u2"}]
    assert len(double.created) == 2  # the first launch's, and the one that this test put there
    assert double.jobs == {}


def test_a_failed_job_of_an_earlier_try_is_replaced(cluster: Make) -> None:
    double = cluster(COMPLETE)
    launch()
    double.put(double.created[0])
    double.states = [failed(ended(0, 1, "Error"))]
    with pytest.raises(MeglError, match="rank 0 ended with exit code 1"):
        launch()
    assert len(double.created) == 3  # made, left behind by a launcher that was killed, made anew
    assert double.jobs == {}


def test_an_earlier_job_that_does_not_go_away_ends_the_step(cluster: Make) -> None:
    double = cluster(RUNNING)
    double.put({"metadata": {"name": "digits"}})
    double.jobs["digits"]["metadata"]["deletionTimestamp"] = "2026-05-01T10:00:00Z"
    double.looks_until_removed = 100_000
    with pytest.raises(UnavailableError, match="does not go away"):
        launch(patience_minutes=0.002)


def test_a_refusal_that_is_not_rbac_shows_the_clusters_words(cluster: Make) -> None:
    double = cluster(RUNNING)
    double.answers = [403]
    with pytest.raises(ConfigError, match=r"refused to create trainjobs\.trainer\.kubeflow\.org") as caught:
        launch()
    assert "the test says so" in str(caught.value)


def test_a_job_with_other_settings_is_left_alone(cluster: Make) -> None:
    double = cluster(COMPLETE)
    launch()
    double.put(double.created[0])
    double.states = [RUNNING]
    with pytest.raises(ConfigError, match="with other settings"):
        launch(gpus_per_node=8)
    assert list(double.jobs) == ["digits"]


def test_a_job_that_somebody_removes_is_a_failure(cluster: Make) -> None:
    double = cluster(RUNNING, State())
    double.states[1] = State(before=double.jobs.clear)
    with pytest.raises(MeglError, match="removed by somebody else"):
        launch()


def test_a_finalizer_that_holds_the_job_is_named(
    cluster: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("megl_core.cluster.objects._REMOVAL_SECONDS", 0.1)
    double = cluster(COMPLETE)
    double.looks_until_removed = 1000
    launch()
    assert "still waits for foregroundDeletion" in capfd.readouterr().err


def test_binary_bytes_and_secrets_in_a_log_stop_nothing_and_are_not_shown(
    cluster: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    line = "from s3 https://me:secret@host/x \udcff"
    cluster(State(COMPLETE.condition, COMPLETE.pods, {"digits-node-0-0-0": [line]}))
    launch()
    shown = capfd.readouterr().err
    assert "from s3 https://host/x \N{REPLACEMENT CHARACTER}" in shown
    assert "secret" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_removes_the_job(cluster: Make, number: int) -> None:
    double = cluster(RUNNING)
    program = (
        "from megl_core.cluster.launcher import run_train_job\n"
        "from megl_core.config import ClusterConfig\n"
        "run_train_job('digits', ['true'], ClusterConfig(num_nodes=2, poll_seconds=0.05))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, env=dict(os.environ))
    try:
        end = time.monotonic() + 60
        while double.step < 2 and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    finally:
        process.kill()
    assert len(double.created) == 1
    assert double.jobs == {}
