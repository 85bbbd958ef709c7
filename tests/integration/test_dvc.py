"""DVC for real: Git and DVC repositories, a folder as remote, and S3 served by moto."""

import contextlib
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from megl_core.errors import DataError, IntegrityError, UnavailableError
from megl_core.storage import ensure_repository, fetch, push, track

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def git(folder: Path, *arguments: str) -> str:
    return run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments)


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def write_dataset(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(b"\x00" * 10)
    (folder / "images" / "b.png").write_bytes(b"\x01" * 20)
    (folder / "annotations.jsonl").write_bytes(b"{}\n")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A Git and DVC repository with a committed, tracked dataset `data/set` of 3 files and 33 bytes."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet")
    dvc(root, "init", "--quiet")
    write_dataset(root / "data" / "set")
    return root


@pytest.fixture
def with_folder_remote(repository: Path, tmp_path: Path) -> Path:
    dvc(repository, "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    return repository


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def add_s3_remote(repository: Path, endpoint: str) -> None:
    dvc(repository, "remote", "add", "--default", "s3", "s3://datasets/megl")
    dvc(repository, "remote", "modify", "s3", "endpointurl", endpoint)


def test_tracking_records_the_content_and_says_when_it_changed(repository: Path) -> None:
    data = repository / "data" / "set"

    first = track(data)

    assert (first.path, first.num_files, first.size) == ("data/set", 3, 33)
    assert first.repository == str(repository)
    assert first.changed
    assert first.revision is None  # not committed yet
    recorded = yaml.safe_load((repository / "data" / "set.dvc").read_text())["outs"][0]
    assert recorded["md5"] == first.md5
    assert first.md5.endswith(".dir")

    head = commit(repository, "the dataset")
    again = track(data)
    assert not again.changed
    assert again.revision == head
    assert again.md5 == first.md5

    (data / "images" / "a.png").write_bytes(b"\x02" * 11)
    changed = track(data)
    assert changed.changed
    assert changed.md5 != first.md5
    assert changed.size == 34
    assert changed.revision is None  # HEAD holds the old content
    assert dvc(repository, "status", "--quiet") == ""


def test_a_single_file_can_be_tracked(repository: Path) -> None:
    (repository / "model.bin").write_bytes(b"hello")

    version = track(repository / "model.bin")

    assert version.md5 == "5d41402abc4b2a76b9719d911017c592"  # md5 of "hello"
    assert (version.num_files, version.size) == (1, 5)


def test_the_output_of_a_stage_is_recorded_in_dvc_lock(repository: Path) -> None:
    stage = {"cmd": "mkdir -p out && echo one > out/file", "outs": ["out"]}
    (repository / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    dvc(repository, "repro", "--quiet")

    assert not track(repository / "out").changed

    (repository / "out" / "file").write_text("two\n")
    version = track(repository / "out")
    lock = yaml.safe_load((repository / "dvc.lock").read_text())
    assert version.changed
    assert lock["stages"]["make"]["outs"][0]["md5"] == version.md5


def test_a_workspace_is_its_own_repository_even_inside_an_ignored_folder(repository: Path) -> None:
    (repository / ".gitignore").write_text("/workspace/\n")
    workspace = repository / "workspace"
    write_dataset(workspace / "data" / "set")

    root = ensure_repository(workspace)
    version = track(workspace / "data" / "set")

    assert root == workspace.resolve()
    assert (version.repository, version.path, version.revision) == (str(root), "data/set", None)
    config = (workspace / ".dvc" / "config").read_bytes()
    assert ensure_repository(workspace) == root
    assert (workspace / ".dvc" / "config").read_bytes() == config
    assert (workspace / "data" / "set.dvc").is_file()
    assert "workspace" not in git(repository, "status", "--short")


def test_dvc_says_nothing_on_the_way(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ensure_repository(repository / "inner")
    track(repository / "data" / "set")

    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert logging.getLogger("dvc").handlers  # DVC's own logging is as it was


def test_what_cannot_be_tracked_says_what_to_do(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(DataError, match="nothing at this path"):
        track(tmp_path / "absent")
    write_dataset(tmp_path / "outside")
    with pytest.raises(DataError, match="no DVC repository encloses"):
        track(tmp_path / "outside")
    track(repository / "data" / "set")
    with pytest.raises(DataError, match="inside 'data/set'"):
        track(repository / "data" / "set" / "images")


def test_an_old_revision_comes_back_from_a_folder_remote(with_folder_remote: Path, tmp_path: Path) -> None:
    check_two_revisions(with_folder_remote, tmp_path)


@pytest.mark.service
def test_an_old_revision_comes_back_from_s3(
    repository: Path, tmp_path: Path, credentials: None, s3: str
) -> None:
    add_s3_remote(repository, s3)
    check_two_revisions(repository, tmp_path)


def check_two_revisions(repository: Path, tmp_path: Path) -> None:
    data = repository / "data" / "set"
    old = track(data)
    old_head = commit(repository, "old")
    assert push(data) == 4  # three files and the listing
    assert push(data) == 0
    (data / "images" / "b.png").unlink()
    (data / "annotations.jsonl").write_bytes(b"{}\n{}\n")
    new = track(data)
    new_head = commit(repository, "new")
    assert push(data) == 2  # one changed file and the listing
    shutil.rmtree(repository / ".dvc" / "cache")
    shutil.rmtree(data)

    target = tmp_path / "fetched"
    version = fetch(str(repository), "data/set", old_head, target)
    assert version == type(version)(str(repository), old_head, "data/set", old.md5, 3, 33)
    assert (target / "images" / "b.png").read_bytes() == b"\x01" * 20

    version = fetch(f"file://{repository}", "data/set", new_head, target)
    assert (version.revision, version.md5, version.num_files) == (new_head, new.md5, 2)
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert files == ["annotations.jsonl", "images/a.png"]
    assert (target / "annotations.jsonl").read_bytes() == b"{}\n{}\n"


def test_fetching_without_a_revision_takes_what_is_recorded_not_what_lies_there(
    repository: Path, tmp_path: Path
) -> None:
    track(repository / "data" / "set")
    (repository / "data" / "set" / "annotations.jsonl").write_bytes(b"scribble")

    fetch(str(repository), "data/set", None, tmp_path / "fetched")

    assert (tmp_path / "fetched" / "annotations.jsonl").read_bytes() == b"{}\n"


def test_fetching_what_is_not_there_names_it(with_folder_remote: Path, tmp_path: Path) -> None:
    repository = with_folder_remote
    track(repository / "data" / "set")
    head = commit(repository, "data")
    target = tmp_path / "fetched"
    write_dataset(target)

    with pytest.raises(DataError, match="v9"):
        fetch(str(repository), "data/set", "v9", target)
    with pytest.raises(DataError, match="tracks no folder 'data/other'"):
        fetch(str(repository), "data/other", head, target)
    with pytest.raises(UnavailableError, match="nowhere"):
        fetch(str(tmp_path / "nowhere"), "data/set", None, target)
    shutil.rmtree(repository / ".dvc" / "cache")
    with pytest.raises(DataError, match="dvc push"):
        fetch(str(repository), "data/set", head, target)
    assert (target / "images" / "a.png").read_bytes() == b"\x00" * 10  # untouched by the failures
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_changed_bytes_in_the_remote_are_noticed(with_folder_remote: Path, tmp_path: Path) -> None:
    repository = with_folder_remote
    track(repository / "data" / "set")
    head = commit(repository, "data")
    push(repository / "data" / "set")
    shutil.rmtree(repository / ".dvc" / "cache")
    stored = next(
        path for path in (tmp_path / "remote").rglob("*") if path.is_file() and path.stat().st_size == 20
    )
    stored.chmod(0o644)
    stored.write_bytes(b"\x07" * 20)

    with pytest.raises(IntegrityError):
        fetch(str(repository), "data/set", head, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_pushing_without_a_remote_says_how_to_add_one(repository: Path) -> None:
    with pytest.raises(DataError, match="does not track"):
        push(repository / "data" / "set")
    track(repository / "data" / "set")
    with pytest.raises(UnavailableError, match="dvc remote add"):
        push(repository / "data" / "set")


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "told"),
    [(503, "SlowDown", "run it again later"), (403, "AccessDenied", "credentials")],
)
def test_s3_that_refuses_is_a_clear_error_in_bounded_time(
    repository: Path, tmp_path: Path, credentials: None, status: int, code: str, told: str
) -> None:
    track(repository / "data" / "set")
    with refusing_server(status, code) as endpoint:
        add_s3_remote(repository, endpoint)
        head = commit(repository, "data")
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=told) as pushed:
            push(repository / "data" / "set")
        shutil.rmtree(repository / ".dvc" / "cache")
        with pytest.raises(UnavailableError, match=told) as fetched:
            fetch(str(repository), "data/set", head, tmp_path / "fetched")
        assert time.monotonic() - started < 180
    assert not (tmp_path / "fetched").exists()
    for problem in (pushed, fetched):
        assert SECRET_KEY not in str(problem.value)
        assert ACCESS_KEY not in str(problem.value)


@pytest.mark.service
@pytest.mark.slow
def test_no_s3_at_all_is_a_clear_error(repository: Path, credentials: None) -> None:
    track(repository / "data" / "set")
    with refusing_server(503, "SlowDown") as endpoint:
        pass  # the port is free again: nobody answers
    add_s3_remote(repository, endpoint)
    with pytest.raises(UnavailableError, match="Could not connect"):
        push(repository / "data" / "set")


@pytest.fixture
def s3(credentials: None) -> Iterator[str]:
    """A moto S3 server with the bucket `datasets`; its endpoint URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="datasets")
    yield endpoint
    server.stop()


@contextlib.contextmanager
def refusing_server(status: int, code: str) -> Iterator[str]:
    """An S3 endpoint that answers everything with one error; its URL."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 (http.server's names)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
