"""The prerequisites against a real MLflow server, and against S3 as moto serves it."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from megl_core.config import Config, parse
from megl_core.operations.findings import Finding
from megl_core.operations.prerequisites import check_prerequisites
from tests.integration.conftest import MLflowServer

pytestmark = pytest.mark.service


def test_a_real_server_is_reached_and_of_our_generation(mlflow_server: MLflowServer, tmp_path: Path) -> None:
    config = parse(Config, {"registry": {"tracking_uri": mlflow_server.uri}})
    found = {finding.name: finding for finding in check_prerequisites(config, tmp_path)}

    assert found["mlflow version"].detail == f"client {version('mlflow')}, server {version('mlflow')}"
    assert found["mlflow access"].detail.endswith("registered models")
    assert [finding for finding in found.values() if finding.is_wrong] == []


def test_a_server_that_is_another_program_is_wrong(mlflow_server: MLflowServer, tmp_path: Path) -> None:
    config = parse(Config, {"registry": {"tracking_uri": f"{mlflow_server.uri}/not-mlflow"}})
    found = {finding.name: finding for finding in check_prerequisites(config, tmp_path)}
    assert found["mlflow access"].is_wrong


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with the bucket `shared`, where boto3 finds it by itself."""
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="shared")
    yield
    server.stop()


def source(folder: Path, uri: str) -> Finding:
    config = parse(Config, {"data": {"importer": "folder", "source": uri}})
    return next(found for found in check_prerequisites(config, folder) if found.name == "data source")


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_opens_is_ok_and_one_that_is_not_there_is_wrong(tmp_path: Path) -> None:
    assert source(tmp_path, "s3://shared/birds").state == "ok"
    missing = source(tmp_path, "s3://shred/birds")
    assert missing.is_wrong
    assert "404" in missing.detail


@pytest.mark.usefixtures("s3")
def test_a_store_that_is_away_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert source(tmp_path, "s3://shared/birds").is_wrong
