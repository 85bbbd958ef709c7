"""What ingest takes from S3 and pushes to a DVC remote, and how it comes back; S3 as moto serves it."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megl_core.cli import app
from megl_core.config import DataConfig, StorageConfig
from megl_core.data.ingest import Ingested, ingest
from megl_core.data.restore import restore
from megl_core.errors import ConfigError, DataError, IntegrityError, MeglError, UnavailableError
from megl_core.files import sha256_tree, tree_digests
from megl_core.storage.s3 import open_client, upload_folder
from tests.integration.test_sources import left_over, spoil
from tests.unit.data.build import write_dataset

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> StorageConfig:
    """Where to reach a bucket of the test's own; the credentials are in the environment only."""
    for variable in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    config = StorageConfig(endpoint_url=server, region="us-east-1", addressing_style="path", threads=2)
    bucket = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    open_client(config).create_bucket(Bucket=bucket)
    return config.model_copy(update={"dvc_remote": f"s3://{bucket}/megl"})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "birds", count=2)
    return tmp_path / "birds"


def keys(s3: StorageConfig) -> dict[str, bytes]:
    """Every object of the bucket."""
    client, bucket = open_client(s3), str(s3.dvc_remote).split("/")[2]
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}


def test_a_folder_on_s3_is_the_dataset_that_was_uploaded(
    s3: StorageConfig, birds: Path, workspace: Path
) -> None:
    uri = str(s3.dvc_remote).replace("/megl", "/birds")
    plain = s3.model_copy(update={"dvc_remote": None})
    data = DataConfig(name="birds", importer="folder", source=uri)
    with pytest.raises(DataError, match="megl data upload"):
        ingest(data, workspace, plain)
    upload_folder(birds, uri, plain)

    taken = ingest(data, workspace, plain)

    assert taken.source == {"uri": uri, "digest": {"sha256": sha256_tree(birds)}}
    local = data.model_copy(update={"source": str(birds)})
    assert ingest(local, workspace, plain).version == taken.version  # the same bytes: not imported again
    assert left_over(workspace) == []


def test_what_ingest_pushes_comes_back_bit_for_bit_on_a_machine_that_has_nothing(
    s3: StorageConfig, birds: Path, workspace: Path, tmp_path: Path
) -> None:
    data = DataConfig(name="birds", importer="folder", source=str(birds))
    pushed = ingest(data, workspace, s3)
    assert ingest(data, workspace, s3).version == pushed.version
    files = tree_digests(pushed.dataset)
    shutil.rmtree(workspace)

    back = restore(pushed.digest, tmp_path / "back", s3)

    assert tree_digests(back.folder) == files
    assert (back.digest, back.md5) == (pushed.digest, pushed.dvc.md5)
    assert (back.num_files, back.size) == (pushed.dvc.num_files, pushed.dvc.size)
    by_hash = restore(pushed.dvc.md5, tmp_path / "back", s3)  # a dataset that lies there is replaced
    assert (by_hash.digest, tree_digests(tmp_path / "back")) == (None, files)


def test_credentials_are_in_no_file_and_no_object(
    s3: StorageConfig, birds: Path, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ingest(DataConfig(name="birds", importer="folder", source=str(birds)), workspace, s3)

    settings = (workspace / ".dvc" / "config").read_text()
    assert f"endpointurl = {s3.endpoint_url}" in settings
    assert "region = us-east-1" in settings
    contents = [path.read_bytes() for path in workspace.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in [*contents, *keys(s3).values()])
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err


def test_a_dataset_goes_to_s3_and_back_by_the_command_line(
    s3: StorageConfig, birds: Path, tmp_path: Path
) -> None:
    uri = str(s3.dvc_remote).replace("/megl", "/birds")
    settings = [f"--set=storage.endpoint_url={s3.endpoint_url}", f"--set=storage.dvc_remote={s3.dvc_remote}"]
    sent = CliRunner().invoke(app, ["data", "upload", str(birds), uri, *settings, "--json"])
    assert json.loads(sent.stdout)["num_files"] == 5
    taken = CliRunner().invoke(app, ["data", "import", "folder", uri, str(tmp_path / "taken"), *settings])
    assert "2 images" in taken.stdout
    assert json.loads((tmp_path / "taken/dataset.json").read_text())["source"] == uri

    data = DataConfig(name="birds", importer="folder", source=uri)
    pushed = ingest(data, tmp_path / "workspace", s3)
    command = ["data", "restore", pushed.digest, "--output", str(tmp_path / "back"), *settings]
    restored = CliRunner().invoke(app, command)
    assert f"digest {pushed.digest} (verified)" in restored.stdout
    assert tree_digests(tmp_path / "back") == tree_digests(pushed.dataset)


def test_a_remote_that_is_away_is_told_and_the_next_ingest_pushes(
    s3: StorageConfig, birds: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    data = DataConfig(name="birds", importer="folder", source=str(birds))
    away = s3.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    with pytest.raises(UnavailableError, match="Could not connect") as told:
        ingest(data, workspace, away)
    assert SECRET not in str(told.value)
    assert keys(s3) == {}

    pushed = ingest(data, workspace, s3)
    with pytest.raises(UnavailableError, match="Could not connect"):
        restore(pushed.digest, tmp_path / "back", away)
    assert not (tmp_path / "back").exists()
    assert restore(pushed.digest, tmp_path / "back", s3).digest == pushed.digest


@pytest.fixture
def pushed(birds: Path, workspace: Path, tmp_path: Path) -> tuple[Ingested, StorageConfig]:
    storage = StorageConfig(dvc_remote=str(tmp_path / "remote"))
    return ingest(DataConfig(name="birds", importer="folder", source=str(birds)), workspace, storage), storage


def test_wrong_bytes_at_the_remote_are_not_restored(
    pushed: tuple[Ingested, StorageConfig], tmp_path: Path
) -> None:
    taken, storage = pushed
    listing = (taken.dataset / "annotations.jsonl").read_bytes()
    spoil(tmp_path / "remote", hashlib.md5(listing, usedforsecurity=False).hexdigest())
    with pytest.raises(IntegrityError):
        restore(taken.digest, tmp_path / "back", storage)
    assert not (tmp_path / "back").exists()


def test_a_note_of_another_dataset_is_not_believed(
    pushed: tuple[Ingested, StorageConfig], birds: Path, workspace: Path, tmp_path: Path
) -> None:
    taken, storage = pushed
    (birds / "images/s0.png").write_bytes((birds / "images/s1.png").read_bytes())
    other = ingest(DataConfig(name="birds", importer="folder", source=str(birds)), workspace, storage)
    notes = tmp_path / "remote/datasets"
    shutil.copy(notes / f"{other.digest}.json", notes / f"{taken.digest}.json")
    with pytest.raises(IntegrityError, match=other.digest):
        restore(taken.digest, tmp_path / "back", storage)
    assert not (tmp_path / "back").exists()


def test_what_cannot_be_restored_says_what_to_do(
    pushed: tuple[Ingested, StorageConfig], tmp_path: Path
) -> None:
    taken, storage = pushed
    with pytest.raises(DataError, match="holds no dataset"):
        restore("0" * 64, tmp_path / "back", storage)
    with pytest.raises(DataError, match="lacks it"):
        restore("0" * 32 + ".dir", tmp_path / "back", storage)
    with pytest.raises(ConfigError, match="64 digits"):
        restore(taken.digest[:12], tmp_path / "back", storage)
    with pytest.raises(ConfigError, match=r"storage\.dvc_remote"):
        restore(taken.digest, tmp_path / "back", StorageConfig())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary").write_text("private")
    with pytest.raises(MeglError, match="something else"):
        restore(taken.digest, mine, storage)
    assert (mine / "diary").read_text() == "private"
