"""`megl doctor`: what is there, what is not, and nothing secret."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from megl_core.cli import extras

SECRET = "hunter2"


def doctor(folder: Path, **environment: str) -> tuple[int, dict[str, dict[str, object]], str]:
    """Exit code, findings by name, and everything that was printed."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MLFLOW_TRACKING_URI", "KFP_ENDPOINT", "DOCKER_HOST", "KUBECONFIG"}
    }
    done = subprocess.run(
        [sys.executable, "-m", "megl_core.cli", "doctor", "--json"],
        cwd=folder,
        env=clean | {"HOME": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    return done.returncode, findings, done.stdout + done.stderr


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server() -> Iterator[str]:
    """Answers /health with 200, /login/health with 401 and all else with 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/health": 200, "/login/health": 401}.get(self.path, 503))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_a_whole_installation_without_services_is_in_order(tmp_path: Path) -> None:
    code, findings, _ = doctor(tmp_path)

    assert code == 0
    assert findings["torch"]["state"] == "ok"
    assert findings["dev"]["state"] == "ok"
    assert str(findings["python"]["detail"]).startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert {name: findings[name]["state"] for name in ("mlflow", "dvc remote", "kubernetes")} == {
        "mlflow": "unused",
        "dvc remote": "unused",
        "kubernetes": "unused",
    }
    assert findings["kubeflow pipelines"]["detail"] == "KFP_ENDPOINT is not set: no server to try"


def test_services_that_answer_are_ok_and_secrets_stay_secret(tmp_path: Path, server: str) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "storage").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = ../storage\n    password = {SECRET}\n"
    )
    cluster = {"name": "c", "cluster": {"server": server}}
    user = {"name": "u", "user": {"token": SECRET}}
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [cluster],
        "users": [user],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    with socket.socket(socket.AF_UNIX) as docker:
        docker.bind(str(tmp_path / "s"))
        docker.listen()
        code, findings, printed = doctor(
            tmp_path,
            MLFLOW_TRACKING_URI=server.replace("//", f"//me:{SECRET}@") + "/login",
            KUBECONFIG=str(tmp_path / "kubeconfig"),
            DOCKER_HOST=f"unix://{tmp_path / 's'}",
        )

    services = ("mlflow", "dvc remote", "kubernetes", "docker")
    assert {name: findings[name]["state"] for name in services} == dict.fromkeys(services, "ok")
    assert code == 0
    assert SECRET not in printed


def test_a_service_that_was_asked_for_and_does_not_answer_is_exit_code_5(
    tmp_path: Path, server: str, closed_port: int
) -> None:
    for uri in (f"http://127.0.0.1:{closed_port}", f"{server}/broken"):
        code, findings, printed = doctor(tmp_path, MLFLOW_TRACKING_URI=uri)
        assert code == 5
        assert findings["mlflow"]["state"] == "unreachable"
        assert findings["mlflow"]["fix"]
        assert "Traceback" not in printed


def test_a_cluster_that_is_away_is_no_failure(tmp_path: Path, closed_port: int) -> None:
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{closed_port}"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    code, findings, _ = doctor(tmp_path, KUBECONFIG=str(tmp_path / "kubeconfig"))
    assert (code, findings["kubernetes"]["state"]) == (0, "unreachable")


def test_extras_are_read_from_the_installed_metadata() -> None:
    found = extras.requirements()

    assert set(found) == {"core", "model", "serve", "train", "data", "pipeline", "dev"}
    assert "torch" in found["model"]
    assert set(found["model"]) < set(found["train"])  # an extra that another one includes is laid flat
    assert set(found["train"]) | set(found["data"]) | set(found["pipeline"]) < set(found["dev"])
    assert "torch" not in found["core"] + found["data"] + found["pipeline"]


@pytest.mark.parametrize(
    ("module", "lock"),
    [("mlflow.pyfunc", "requirements-train.lock"), ("great_expectations", "requirements-data.lock")],
)
def test_a_missing_module_is_traced_to_its_extra(module: str, lock: str) -> None:
    problem = extras.missing_package(module)
    assert problem is not None
    assert lock in str(problem)
    assert extras.missing_package("no_such_module") is None
