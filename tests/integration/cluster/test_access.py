"""What the launcher may do, asked of an API that speaks HTTP."""

from pathlib import Path

import pytest

from megl_core.cluster.access import QUEUE_RIGHTS, RIGHTS, missing_rights
from megl_core.config import ClusterConfig, Config
from megl_core.errors import UnavailableError
from megl_core.operations.prerequisites import check_prerequisites, prepare
from tests.integration.cluster.double import Double

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def on_cluster(folder: Path) -> Config:
    return Config(cluster=ClusterConfig(exchange=str(folder / "exchange")))


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_an_account_that_may_do_everything_lacks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Double() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        assert missing_rights(ClusterConfig()) == []
        assert api.requests == [("POST", REVIEWS)] * len(RIGHTS)


def test_every_missing_verb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Double() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        api.forbidden = {("patch", "trainjobs"), ("get", "pods/log")}
        assert [str(right) for right in missing_rights(ClusterConfig())] == [
            "patch trainjobs.trainer.kubeflow.org",
            "get pods/log",
        ]


def test_a_queue_needs_one_verb_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Double() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        api.forbidden = {("list", "workloads")}
        assert missing_rights(ClusterConfig()) == []
        assert missing_rights(ClusterConfig(queue="team")) == list(QUEUE_RIGHTS)


def test_a_forbidden_verb_stops_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Double() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        api.forbidden = {("create", "trainjobs")}
        with pytest.raises(UnavailableError, match=r"may not create trainjobs\.trainer\S+ in megl"):
            prepare(on_cluster(tmp_path), tmp_path / "w", tmp_path / "report.json")


def test_a_cluster_that_refuses_the_caller_is_a_finding_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Double() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        api.answers = [401]
        findings = check_prerequisites(on_cluster(tmp_path), tmp_path / "w")
    (cluster,) = [finding for finding in findings if finding.name == "kubernetes"]
    assert (cluster.state, cluster.is_wrong) == ("unreachable", True)
    assert "does not know who asks" in cluster.detail
