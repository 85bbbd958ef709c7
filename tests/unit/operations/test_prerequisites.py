"""The first step of a pipeline: it finds everything that is wrong, and says it at once."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from megl_core.code import code_digest
from megl_core.config import Config, parse
from megl_core.errors import UnavailableError
from megl_core.operations import machine, services
from megl_core.operations.findings import Finding
from megl_core.operations.prerequisites import check_prerequisites, prepare


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def config(**sections: dict[str, object]) -> Config:
    return parse(Config, sections)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_workspace_on_this_machine_has_what_it_needs(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    prepared = prepare(Config(), tmp_path / "workspace", report)

    assert prepared.code == code_digest()
    assert len(prepared.store) == 64
    written = {row["name"]: row for row in json.loads(report.read_text())}
    assert written["torch"]["detail"] == version("torch")
    assert {row["state"] for row in written.values()} == {"ok", "unused"}
    assert list((tmp_path / "workspace").iterdir()) == []


def test_everything_that_is_wrong_is_one_error_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is mended one error at a time costs an hour for each."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    wrong = config(
        data={"importer": "folder", "source": str(tmp_path / "nowhere")},
        registry={"tracking_uri": "http://127.0.0.1:9"},
    )
    with pytest.raises(UnavailableError) as caught:
        prepare(wrong, blocked / "workspace", tmp_path / "report.json", gpus=64, free_gib=1e6)

    table = capsys.readouterr().err
    for name in (
        "gpu",
        "workspace",
        "disk of the workspace",
        "disk of temporary files",
        "mlflow",
        "data source",
    ):
        assert f"{name} (" in caught.value.what
        assert f"✗ {name} " in table
    assert "python (" not in caught.value.what
    assert "of 64 asked for" in table
    written = {row["name"]: row["state"] for row in json.loads((tmp_path / "report.json").read_text())}
    assert (written["workspace"], written["python"]) == ("missing", "ok")


def test_gpus_are_looked_for_only_where_they_are_asked_for(tmp_path: Path) -> None:
    asked = config(train={"device": "cuda"})
    assert "gpu" not in by_name(check_prerequisites(Config(), tmp_path))
    assert by_name(check_prerequisites(asked, tmp_path))["gpu"].required


def test_training_in_pods_of_its_own_needs_no_gpu_here_but_the_folder_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    pods = config(train={"device": "cuda"}, cluster={"exchange": str(tmp_path / "shared")})
    found = by_name(check_prerequisites(pods, tmp_path))
    assert "gpu" not in found
    assert found["exchange"].state == "ok"
    assert (found["kubernetes"].state, found["kubernetes"].is_wrong) == ("unreachable", True)


def test_granted_gpus_are_named_and_more_than_these_are_wrong() -> None:
    torch = pytest.importorskip("torch")
    if not (count := torch.cuda.device_count()):
        pytest.skip("no GPU here")
    granted, more = machine.gpus(count), machine.gpus(count + 1)
    assert (granted.state, more.is_wrong) == ("ok", True)
    assert torch.cuda.get_device_name(0) in granted.detail


@pytest.mark.parametrize(
    ("settings", "state", "wrong"),
    [
        ("url = s3://bucket/data\n    endpointurl = http://127.0.0.1:9", "unreachable", True),
        ("url = ../nowhere", "missing", False),  # the first push makes it
    ],
)
def test_a_dvc_remote_that_is_away_is_wrong(tmp_path: Path, settings: str, state: str, wrong: bool) -> None:
    folder = tmp_path / "datasets" / ".dvc"
    folder.mkdir(parents=True)
    remote = f"[core]\n    remote = store\n['remote \"store\"']\n    {settings}\n"
    (folder / "config").write_text(remote)
    found = by_name(check_prerequisites(Config(), tmp_path))["dvc remote"]
    assert (found.state, found.is_wrong) == (state, wrong)


def test_a_folder_that_may_not_be_written_to_is_named_with_its_user() -> None:
    found = machine.writable("workspace", Path("/proc/workspace"))
    assert (found.state, found.is_wrong) == ("missing", True)
    assert "/proc/workspace" in found.detail
    assert "user " in found.fix


def test_free_space_is_that_of_the_disk_the_folder_will_lie_on(tmp_path: Path) -> None:
    found = machine.disk("disk", tmp_path / "not" / "yet", free_gib=0.001)
    assert (found.state, found.required) == ("ok", True)
    assert f"at {tmp_path}" in found.detail


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_too_little_space_is_wrong() -> None:
    found = machine.disk("disk", Path("/proc"), free_gib=1)
    assert found.is_wrong
    assert "0.0 of 0.0 GiB free" in found.detail


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Answers /version with what the test puts first in the list."""
    versions: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if versions else 404)
            self.end_headers()
            self.wfile.write("".join(versions).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", versions
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(
    ("told", "state", "wrong"),
    [
        (version("mlflow"), "ok", False),
        (f"{version('mlflow').split('.')[0]}.0.1", "ok", False),
        ("1.30.0", "missing", True),
        ("<html>please log in</html>", "unused", False),
        ("", "unused", False),
    ],
)
def test_a_tracking_server_of_another_generation_is_wrong(
    server: tuple[str, list[str]], told: str, state: str, wrong: bool
) -> None:
    uri, versions = server
    versions[:] = [told] if told else []
    found = services.mlflow_version(uri)
    assert (found.state, found.is_wrong) == (state, wrong)
    assert version("mlflow") in found.detail
