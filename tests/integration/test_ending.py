"""A run's end through kfp.local: a failed step turns it red, and whoever is to know is told so."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/hunter2", told
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(("how", "state"), [("succeed", "succeeded"), ("raise", "failed"), ("die", "failed")])
def test_a_step_that_fails_in_any_way_turns_the_run_red_and_is_told(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]], how: str, state: str
) -> None:
    url, told = hook
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.ending_pipeline", str(tmp_path), how],
        cwd=REPOSITORY,
        env=os.environ | {"MEGL_WEBHOOK_URL": url, "MEGL_PIPELINE_RUN": "r1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (state == "succeeded"), done.stderr
    (body,) = told
    assert (body["run"], body["state"]) == ("r1", state)
    assert "hunter2" not in done.stdout + done.stderr
