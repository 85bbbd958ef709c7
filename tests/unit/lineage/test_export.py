"""OpenLineage events, in a file and over HTTP."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.lineage.export import send_events, training_events, write_events
from megl_core.lineage.record import Recorded


@dataclass
class Collector:
    """A server that keeps what it is sent."""

    url: str = ""
    status: int = 201
    requests: list[tuple[str, str | None, Any]] = field(default_factory=list)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield collector
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_tells_of_the_training(recorded: Recorded, tmp_path: Path) -> None:
    for _ in range(2):  # an export replaces the one before
        write_events(training_events(recorded), tmp_path / "events.jsonl")
    start, complete = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (start["eventType"], start["eventTime"]) == ("START", "2026-11-24T08:00:00Z")
    assert (complete["eventType"], complete["eventTime"]) == ("COMPLETE", "2026-11-24T08:30:00Z")
    run_id = "01234567-89ab-cdef-0123-456789abcdef"  # MLflow's
    assert start["run"]["runId"] == complete["run"]["runId"] == run_id
    (data,) = start["inputs"]
    assert (data["namespace"], data["name"]) == ("/data", "scenes")
    assert data["facets"]["version"]["datasetVersion"] == "d" * 64
    assert start["outputs"] == []
    (model,) = complete["outputs"]
    assert model["name"] == "models/megl"
    assert model["facets"]["version"]["datasetVersion"] == "1" * 64
    code = complete["job"]["facets"]["sourceCodeLocation"]
    assert (code["url"], code["version"]) == ("https://example.org/megl.git", "c" * 40)
    settings = complete["run"]["facets"]["executionParameters"]["parameters"]
    assert {one["key"]: one["value"] for one in settings} == {"train.epochs": "3", "train.rate": "0.1"}


def test_a_server_is_sent_both_events(
    recorded: Recorded, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "a-key")
    send_events(training_events(recorded), collector.url)
    assert [(path, key, event["eventType"]) for path, key, event in collector.requests] == [
        ("/api/v1/lineage", "Bearer a-key", "START"),
        ("/api/v1/lineage", "Bearer a-key", "COMPLETE"),
    ]


def test_a_server_that_refuses_is_an_error(recorded: Recorded, collector: Collector) -> None:
    collector.status = 403
    with pytest.raises(UnavailableError, match="did not take the events"):
        send_events(training_events(recorded), collector.url)
    with pytest.raises(ConfigError):
        send_events(training_events(recorded), "no url")


def test_a_version_without_provenance_has_nothing_to_tell(recorded: Recorded) -> None:
    with pytest.raises(DataError, match="nobody can say"):
        training_events(replace(recorded, statement=None))
