"""How a run ended: what is told, to whom, and what never is."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megl_core.operations.ending import conclude
from megl_core.operations.outcome import Outcome, read_outcome, tell, write_result

RESULT = {"model_name": "megl", "version": 7, "stage": "Staging", "report": "/w/megl-v7.html", "metrics": {}}
SECRET = "T0/B1/hunter2"


class Hook:
    """A webhook in this process."""

    def __init__(self) -> None:
        self.status = 200
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.url = ""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.told.append((self.path, body))
            self.send_response(hook.status)
            self.send_header("Location", f"{hook.url}/elsewhere")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 (the interface's name)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    hook.url = f"http://127.0.0.1:{http.server_port}/{SECRET}"
    monkeypatch.setenv("MEGL_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("MEGL_PIPELINE_RUN", "r1")
    yield hook
    http.shutdown()
    http.server_close()


def test_a_run_that_succeeded_is_told_with_its_version_and_report(
    hook: Hook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path, "r1", RESULT)
    conclude(tmp_path, "SUCCEEDED")

    text = "MEGL run r1: succeeded, megl v7 in stage Staging, report /w/megl-v7.html"
    ((path, body),) = hook.told
    assert path == f"/{SECRET}"
    assert body == {
        "run": "r1", "state": "succeeded", "model": "megl", "version": "7", "stage": "Staging",
        "report": "/w/megl-v7.html", "error": "", "text": text,
    }  # fmt: skip
    assert capsys.readouterr().err.splitlines() == [text]


def test_a_run_that_failed_is_told_with_its_error(hook: Hook, tmp_path: Path) -> None:
    conclude(tmp_path, "FAILED", "train failed")
    assert hook.told[0][1]["state"] == "failed"
    assert hook.told[0][1]["text"] == "MEGL run r1: failed, train failed"


@pytest.mark.parametrize(
    ("state", "has_result", "expected"),
    [
        ("SUCCEEDED", False, "succeeded"),
        ("COMPLETE", False, "succeeded"),
        ("FAILED", True, "failed"),
        ("CANCELED", False, "failed"),
        ("RUNNING", True, "succeeded"),
        ("RUNNING", False, "RUNNING"),
    ],
)
def test_every_servers_word_for_the_end_is_understood(
    tmp_path: Path, state: str, has_result: bool, expected: str
) -> None:
    if has_result:
        write_result(tmp_path, "r1", RESULT)
    assert read_outcome(tmp_path, "r1", state).state == expected


@pytest.mark.parametrize("status", [302, 307, 400, 500])
def test_a_webhook_that_refuses_changes_nothing_and_its_secret_stays_secret(
    hook: Hook, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    hook.status = status
    conclude(tmp_path, "SUCCEEDED")
    said = capsys.readouterr().err
    assert f"the webhook was not told: 127.0.0.1 answers with {status}" in said
    assert "hunter2" not in said
    assert len(hook.told) == 1  # and nobody else was told


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/hunter2", "ftp://host/hunter2", "hunter2", "http://[::hunter2", "http://h /hunter2"],
)
def test_a_webhook_that_is_none_changes_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("MEGL_WEBHOOK_URL", url)
    conclude(tmp_path, "SUCCEEDED")
    said = capsys.readouterr().err
    assert "the webhook was not told: " in said
    assert "hunter2" not in said


def test_without_a_webhook_the_log_is_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MEGL_WEBHOOK_URL", raising=False)
    tell(Outcome("r1", "succeeded"))
    assert capsys.readouterr().err == "MEGL run r1: succeeded\n"


def test_a_broken_result_does_not_keep_the_run_from_ending(
    hook: Hook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline" / "runs" / "r1" / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    conclude(tmp_path, "SUCCEEDED")
    assert "could not tell of the run: DataError" in capsys.readouterr().err
