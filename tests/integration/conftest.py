"""A real MLflow server, a line to it that can be cut, and small models to register."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from megl_core.files import sha256_file, sha256_tree, write_json
from tests.integration.faulty_store import SECRET, Proxy, faulty_store

if TYPE_CHECKING:
    from megl_core.config import StorageConfig
    from megl_core.registry.models import RegisteredVersion

_START_SECONDS = 180


@dataclass(frozen=True)
class MLflowServer:
    """A running server and the folder that holds its artifacts."""

    uri: str
    artifacts: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """`mlflow server` with one worker, on SQLite and a folder, at a free port."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
        *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_healthy(f"{uri}/health", process, log)
        yield MLflowServer(uri, folder / "artifacts")
    finally:
        stop_group(process)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A store that can fail, with the bucket `datasets`; its keys stand in the environment."""
    for variable in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with faulty_store() as store:
        yield store


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for an HTTP 200; fail with the log's end if the process dies or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no answer from {url}:\n{log.read_text()[-2000:]}")


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that leads its own group, and its workers."""
    import signal

    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            continue


@dataclass
class Strike:
    """A fault at one of the writing requests: the `number`-th whose path matches `paths`.

    Attributes:
        act: what happens; it may kill the process that sent the request.
        after: once the server has done what was asked, but before it answers; else before it hears of it.
        status: what is answered instead; None: the connection is dropped.
        struck: whether it came to it.
    """

    number: int
    act: Callable[[], object] = lambda: None
    after: bool = False
    status: int | None = None
    paths: str = ""
    struck: bool = False
    seen: int = 0


@dataclass
class Line:
    """An HTTP line to the server. Requests whose path matches a pattern of `faults` get that status.

    While `open` is not set, requests get no answer.
    """

    uri: str
    open: threading.Event = field(default_factory=threading.Event)
    faults: dict[str, int] = field(default_factory=dict)
    strike: Strike | None = None

    def fault(self, path: str) -> int | None:
        return next((status for pattern, status in self.faults.items() if re.search(pattern, path)), None)

    def strikes(self, method: str, path: str) -> Strike | None:
        """The strike, if this is the request that it is meant for."""
        strike = self.strike
        if strike is None or strike.struck or method == "GET" or "/search" in path:
            return None
        if not re.search(strike.paths, path):
            return None
        strike.seen += 1
        strike.struck = strike.seen == strike.number
        return strike if strike.struck else None


@pytest.fixture
def line(mlflow_server: MLflowServer) -> Iterator[Line]:
    """A forwarding line to the real server, whose faults a test switches on and off."""

    class Forwarder(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.body()
            line.open.wait()
            if status := line.fault(self.path):
                self.answer(status, b"", "text/plain")
                return
            strike = line.strikes(self.command, self.path)
            if strike is not None and not strike.after:
                self.struck(strike)
                return
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "connection", "transfer-encoding")
            }
            request = urllib.request.Request(
                mlflow_server.uri + self.path, data=body or None, headers=headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    if strike is not None:
                        response.read()
                        self.struck(strike)
                        return
                    self.answer(response.status, response.read(), response.headers["Content-Type"])
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read(), error.headers["Content-Type"])

        def struck(self, strike: Strike) -> None:
            strike.act()
            if strike.status is not None:
                self.answer(strike.status, b"", "text/plain")
            self.close_connection = True

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815

        def answer(self, status: int, body: bytes, kind: str | None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind or "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forwarder)
    line = Line(f"http://127.0.0.1:{server.server_port}")
    line.open.set()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield line
    line.open.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/mlflow.db"


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.service)])
def store(request: pytest.FixtureRequest) -> str:
    """The URI of an MLflow store: a SQLite file, then a real server."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_uri"))
    return str(request.getfixturevalue("mlflow_server").uri)


@dataclass(frozen=True)
class SmallModel:
    """An untrained model as the training step writes it, and all that a pipeline knows about it."""

    folder: Path
    evaluation: Path
    digest: str
    statement: Path
    validation: Path

    @property
    def reports(self) -> dict[str, Path]:
        return {
            "evaluation.json": self.evaluation,
            "predictions.parquet": self.evaluation.with_name("predictions.parquet"),
            "validation.json": self.validation,
        }

    def register(self, name: str, store: str, run_id: str, **options: Any) -> "RegisteredVersion":
        """With its provenance; `more` are further reports."""
        from megl_core.registry.models import register

        reports = self.reports | options.pop("more", {})
        return register(
            self.folder, reports, name, store, run_id, **({"statement": self.statement} | options)
        )


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., SmallModel]:
    """Makes a real model of a few hundred weights; another seed gives other weights."""

    def make(
        seed: int = 0,
        accuracy: float = 0.95,
        data: str = "d" * 64,
        samples: int = 200,
        labels: Sequence[str] = ("round", "boxy", "crossed"),
    ) -> SmallModel:
        import torch

        from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig
        from megl_core.data.tokenizer import WordTokenizer
        from megl_core.models.megl import MEGL
        from megl_core.provenance.statement import Training, training_statement

        torch.manual_seed(seed)
        config = ModelConfig(
            backbone=BackboneConfig(widths=[8, 8], depths=[1, 1]),
            decoder=DecoderConfig(width=8, max_tokens=6),
        )
        words = WordTokenizer.learn(["a red round thing", "a blue boxy thing"], 1)
        folder = tmp_path / f"trained-{seed}"
        MEGL(config, list(labels), words).save_pretrained(folder)
        digest = sha256_tree(folder)
        evaluation = write_evaluation(tmp_path / f"evaluated-{seed}", digest, accuracy, data, samples)
        training = Training(
            sections={"train": {"seed": seed}},
            data_digest=data,
            dvc={"md5": "0" * 32 + ".dir", "repository": "/data", "path": "scenes", "revision": None},
            code_digest="c0de" * 16,
            checkpoints={},
            run_id="a run",
            started="2026-11-24T00:00:00+00:00",
            finished="2026-11-24T00:01:00+00:00",
        )
        statement, validation = (tmp_path / f"{name}-{seed}.json" for name in ("statement", "validation"))
        write_json(statement, training_statement(folder, training))
        write_json(validation, {"passed": True, "digest": data})
        return SmallModel(folder, evaluation, digest, statement, validation)

    return make


def write_evaluation(folder: Path, digest: str, accuracy: float, data: str, samples: int) -> Path:
    """evaluation.json and predictions.parquet of a model that gets the first samples of `test` right."""
    import numpy as np
    import pyarrow.parquet as pq

    from megl_core.evaluation.predict import Prediction, to_table

    folder.mkdir()
    right = round(accuracy * samples)
    predictions = [
        Prediction(
            row=number,
            id=f"{number:05d}",
            label=0,
            predicted=0 if number < right else 1,
            probabilities=np.array([0.8, 0.1, 0.1], dtype=np.float32),
            mask_scores=None,
            energy_in_cue=None,
            faithfulness=None,
            rationale=None,
            references=(),
            text_scores={},
            extra={},
        )
        for number in range(samples)
    ]
    table = to_table({"test": predictions}, ["round", "boxy", "crossed"])
    pq.write_table(table, folder / "predictions.parquet")
    report = {
        "model_digest": digest,
        "data_digest": data,
        "method_digest": "m" * 64,
        "predictions_digest": sha256_file(folder / "predictions.parquet"),
        "primary_split": "test",
        "shifted_split": None,
        "metrics": {"test": {"accuracy": accuracy}},
    }
    write_json(folder / "evaluation.json", report)
    return folder / "evaluation.json"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator["StorageConfig"]:
    """A store with the empty bucket `exchange`; child processes find its keys too."""
    from moto.server import ThreadedMotoServer

    from megl_core.config import StorageConfig
    from megl_core.storage.s3 import open_client

    for variable in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    _, port = server.get_host_and_port()
    reset = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    with urllib.request.urlopen(reset):  # moto keeps its buckets for the whole process
        pass
    config = StorageConfig(endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1")
    open_client(config).create_bucket(Bucket="exchange")
    yield config
    server.stop()
