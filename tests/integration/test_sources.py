"""What ingest takes from elsewhere: revisions of a Git and DVC repository, with a folder as its remote."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megl_core.config import DataConfig
from megl_core.data.ingest import ingest
from megl_core.errors import DataError, IntegrityError, MeglError, UnavailableError
from megl_core.files import sha256_tree
from megl_core.storage import push, track
from tests.integration.test_dvc import commit, dvc, git
from tests.unit.data.build import write_dataset, write_rows

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
PATH = "data/birds"
TOKEN = "glpat-not-to-be-shown"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Owner:
    """Somebody's Git repository whose folder `data/birds` DVC tracks and pushes to a folder.

    Attributes:
        first, second: commits; the second has one sample less and stands at the tip of the branch.
    """

    folder: Path
    remote: Path
    first: str
    second: str

    @property
    def url(self) -> str:
        return f"file://{self.folder}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    base = tmp_path_factory.mktemp("owner")
    folder, remote = base / "repository", base / "remote"
    folder.mkdir()
    git(folder, "init", "--quiet")
    dvc(folder, "init", "--quiet")
    dvc(folder, "remote", "add", "--quiet", "--default", "store", str(remote))
    rows = write_dataset(folder / PATH)
    track(folder / PATH)
    first = commit(folder, "all of them")
    git(folder, "tag", "v1")
    push(folder / PATH)
    write_rows(folder / PATH, rows[:-1])
    track(folder / PATH)
    second = commit(folder, "one less")
    push(folder / PATH)
    return Owner(folder, remote, first, second)


@pytest.fixture
def owner(made: Owner, tmp_path: Path) -> Owner:
    """A copy to be broken."""
    folder, remote = tmp_path / "repository", tmp_path / "remote"
    shutil.copytree(made.folder, folder)
    shutil.copytree(made.remote, remote)
    dvc(folder, "remote", "modify", "--quiet", "store", "url", str(remote))
    return Owner(folder, remote, made.first, commit(folder, "the remote moved"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def from_dvc(owner: Owner, **changes: Any) -> DataConfig:
    return DataConfig.model_validate(
        {"name": "birds", "importer": "folder", "source": owner.url, "path": PATH, **changes}
    )


def contents(workspace: Path) -> list[str]:
    return [path.name for path in workspace.rglob("*") if path.name != "datasets"]


def left_over(workspace: Path) -> list[str]:
    """What lies in the workspace and is no part of a complete ingest."""
    return [path.name for path in workspace.rglob(".birds*")]


def test_a_revision_of_a_repository_is_the_dataset_that_it_records(made: Owner, workspace: Path) -> None:
    old = ingest(from_dvc(made, revision="v1"), workspace)

    assert old.num_samples == 6
    assert old.source is not None
    assert old.source["uri"] == f"dvc+{made.url}#{PATH}"
    assert old.source["digest"]["gitCommit"] == made.first
    assert old.source["digest"]["dvcMd5"] == recorded_md5(made)
    assert old.version["source"] == old.source
    local = ingest(DataConfig(name="other", importer="folder", source=str(made.folder / PATH)), workspace)
    new = ingest(from_dvc(made), workspace)
    assert (new.num_samples, new.digest) == (5, local.digest)
    assert new.source is not None
    assert new.source["digest"]["gitCommit"] == made.second
    assert left_over(workspace) == []


def recorded_md5(owner: Owner) -> str:
    found = re.search(r"[0-9a-f]{32}\.dir", git(owner.folder, "show", f"{owner.first}:{PATH}.dvc"))
    assert found
    return found.group()


def test_another_revision_with_the_same_bytes_is_the_same_dataset(owner: Owner, workspace: Path) -> None:
    first = ingest(from_dvc(owner), workspace)
    (owner.folder / "README").write_text("nothing about data")
    commit(owner.folder, "words")
    shutil.rmtree(owner.remote)  # what is not fetched needs no remote

    again = ingest(from_dvc(owner), workspace)

    assert (again.digest, again.version) == (first.digest, first.version)


def test_a_folder_with_its_commit_says_so_and_an_edit_is_told(owner: Owner, workspace: Path) -> None:
    data = from_dvc(owner, source=str(owner.folder))
    taken = ingest(data, workspace)
    assert taken.source is not None
    assert taken.source["digest"]["gitCommit"] == owner.second
    annotations = workspace / "datasets/birds/annotations.jsonl"
    text = annotations.read_text()
    annotations.unlink()
    annotations.write_text("".join(text.splitlines(keepends=True)[1:]))

    edited = ingest(data, workspace)

    assert edited.source == taken.source | {"annotations": {"edited": True}}


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"revision": "v9"}, DataError, "v9"),
        ({"path": "data/bees"}, DataError, "tracks no folder 'data/bees'"),
        ({"source": "file:///nowhere/at/all"}, UnavailableError, "check the repository's URL"),
    ],
)
def test_what_is_not_there_is_told(
    made: Owner, workspace: Path, changes: dict[str, str], kind: type[MeglError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        ingest(from_dvc(made, **changes), workspace)
    assert contents(workspace) == []


def test_a_repository_without_a_remote_is_told(owner: Owner, workspace: Path) -> None:
    dvc(owner.folder, "remote", "remove", "--quiet", "store")
    commit(owner.folder, "no remote")
    with pytest.raises(UnavailableError, match="dvc remote add"):
        ingest(from_dvc(owner), workspace)
    assert contents(workspace) == []


def test_a_remote_that_lacks_the_data_is_told(owner: Owner, workspace: Path) -> None:
    shutil.rmtree(owner.remote)
    with pytest.raises(DataError, match="dvc push"):
        ingest(from_dvc(owner), workspace)
    assert contents(workspace) == []


def test_bytes_that_are_not_their_hash_are_refused_and_the_old_dataset_stays(
    owner: Owner, workspace: Path
) -> None:
    before = ingest(from_dvc(owner, revision="v1"), workspace)
    tree = sha256_tree(before.dataset)
    listing = (owner.folder / PATH / "annotations.jsonl").read_bytes()
    spoil(owner.remote, hashlib.md5(listing, usedforsecurity=False).hexdigest())

    with pytest.raises(IntegrityError):
        ingest(from_dvc(owner), workspace)

    assert sha256_tree(before.dataset) == tree
    assert left_over(workspace) == []


def spoil(remote: Path, md5: str) -> None:
    stored = remote / "files/md5" / md5[:2] / md5[2:]
    stored.chmod(0o644)
    stored.write_bytes(b"x" * stored.stat().st_size)


@pytest.fixture
def git_server(made: Owner) -> Iterator[str]:
    """Git's own HTTP server over the repository, open to those with the token; its URL."""
    wanted = f"Basic {b64encode(f'token:{TOKEN}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != wanted:
                self.reply(401, ['WWW-Authenticate: Basic realm="git"'], b"")
                return
            path, _, query = self.path.partition("?")
            variables = {
                "GIT_PROJECT_ROOT": str(made.folder.parent),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            }
            command = ["git", "-c", "safe.directory=*", "http-backend"]
            done = subprocess.run(
                command, input=body, env=os.environ | variables, capture_output=True, check=True
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            self.reply(200, head.decode().splitlines(), content)

        def reply(self, status: int, headers: list[str], content: bytes) -> None:
            self.send_response(status)
            for line in [*headers, f"Content-Length: {len(content)}"]:
                name, _, value = line.partition(": ")
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 (http.server's names)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{made.folder.name}/.git"
    server.shutdown()
    server.server_close()


def test_a_private_repository_opens_with_a_token_that_is_written_nowhere(
    made: Owner,
    git_server: str,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    with pytest.raises(UnavailableError, match="credential"):
        ingest(from_dvc(made, source=git_server), workspace)
    settings.write_text(
        '[credential]\n helper = "!f() { echo username=token; echo password=$GIT_TOKEN; }; f"\n'
    )
    monkeypatch.setenv("GIT_TOKEN", TOKEN)

    taken = ingest(from_dvc(made, source=git_server, revision=made.first), workspace)

    assert taken.num_samples == 6
    assert taken.source is not None
    assert taken.source["uri"] == f"dvc+{git_server}#{PATH}"
    assert not any(TOKEN.encode() in path.read_bytes() for path in workspace.rglob("*") if path.is_file())
    captured = capfd.readouterr()
    assert TOKEN not in captured.out + captured.err


@pytest.mark.parametrize("name", ["../escaped", "../../../escaped", "images/../../escaped"])
def test_a_listing_that_leads_out_of_the_folder_is_refused(
    owner: Owner, workspace: Path, tmp_path: Path, name: str
) -> None:
    md5 = recorded_md5(owner)
    stored = owner.remote / "files/md5" / md5[:2] / md5[2:]
    entries = json.loads(stored.read_bytes())
    entries[0]["relpath"] = name
    listing = json.dumps(entries).encode()
    evil = hashlib.md5(listing, usedforsecurity=False).hexdigest()
    target = owner.remote / "files/md5" / evil[:2] / f"{evil[2:]}.dir"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(listing)
    pointer = owner.folder / f"{PATH}.dvc"
    pointer.write_text(re.sub(r"[0-9a-f]{32}\.dir", f"{evil}.dir", pointer.read_text()))
    commit(owner.folder, "evil")

    with pytest.raises(DataError, match="unsafe path"):
        ingest(from_dvc(owner), workspace)

    assert list(tmp_path.rglob("escaped")) == []
