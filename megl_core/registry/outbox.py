"""What MLflow could not be sent, kept in the workspace until it can be.

    <workspace>/outbox/<run>.<time>.<kind>/item.json     what is to be sent, without credentials
                                          /files/        copies of artifacts

Items of a run are sent in the order in which they were made; artifacts, which often go to another server,
do not wait for the rest, nor the rest for them. An item is removed once it was sent, and sending one
twice changes nothing in MLflow: whoever is killed in between loses nothing and doubles nothing.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from megl_core.errors import DataError
from megl_core.files import atomic_directory, read_json, write_json
from megl_core.locks import LOCK_FILE, locked
from megl_core.redaction import redact
from megl_core.registry.connection import connect, describe, error_code, is_mlflow_failure, mlflow_errors
from megl_core.registry.vocabulary import MISSING

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUTBOX_FOLDER = "outbox"
Kind = Literal["metrics", "tags", "artifacts", "status"]
CHANNELS: tuple[tuple[Kind, ...], ...] = (("metrics", "tags", "status"), ("artifacts",))
"""Kinds of items that wait for each other."""

_ITEM_FILE = "item.json"
_FILES = "files"
_MAX_METRICS = 1000  # of one request


@dataclass(frozen=True)
class Item:
    """One thing to send to a run.

    Attributes:
        kind: decides what `content` holds: `points` (name, value, milliseconds, step) for metrics, `tags`,
            `folder` for artifacts, `status` and `end_time` for the status.
        files: of artifacts: the file, or the folder whose content it is.
    """

    kind: Kind
    content: Mapping[str, Any]
    files: Path | None = None

    @property
    def channel(self) -> tuple[Kind, ...]:
        return next(kinds for kinds in CHANNELS if self.kind in kinds)

    def send(self, client: "MlflowClient", run_id: str) -> None:
        """Write it to MLflow; again is as well as once."""
        from mlflow.entities import Metric

        content = self.content
        if self.kind == "metrics":
            points = [Metric(name, float(value), *when) for name, value, *when in content["points"]]
            for start in range(0, len(points), _MAX_METRICS):
                client.log_batch(run_id, metrics=points[start : start + _MAX_METRICS])
        elif self.kind == "tags":
            for name, value in content["tags"].items():
                client.set_tag(run_id, name, value)
        elif self.kind == "status":
            client.set_terminated(run_id, content["status"], content["end_time"])
        elif self.files is not None and self.files.is_dir():
            client.log_artifacts(run_id, str(self.files), content["folder"])
        else:
            client.log_artifact(run_id, str(self.files), content["folder"])


@dataclass(frozen=True)
class Synced:
    """Runs whose items were all sent, and why those of others were not."""

    sent: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)


class Outbox:
    """The waiting items of all runs of a workspace."""

    def __init__(self, workspace: Path) -> None:
        self.folder = workspace.absolute() / OUTBOX_FOLDER

    def put(self, run_id: str, item: Item, uri: str) -> None:
        """Keep an item with copies of its files. `uri` names the store in messages.

        Raises:
            MeglError: the disk fails.
        """
        name = f"{run_id}.{time.time_ns():020d}.{item.kind}"
        with atomic_directory(self.folder / name, marker=_ITEM_FILE) as folder:
            if item.files is not None:
                self._copy(item.files, folder / _FILES)
            write_json(folder / _ITEM_FILE, {"store": redact(uri), "content": item.content})

    def runs(self) -> list[str]:
        """The runs that items wait for."""
        return sorted({path.name.partition(".")[0] for path in self.folder.glob("[!.]*")})

    def waiting(self, run_id: str) -> list[Path]:
        """The items of a run, oldest first."""
        return sorted(self.folder.glob(f"{run_id}.*"))

    def flush(self, client: "MlflowClient", run_id: str, channel: tuple[Kind, ...]) -> None:
        """Send the items of a run, in order. What the first that fails raises ends it."""
        for path in self.waiting(run_id):
            if path.suffix[1:] not in channel:
                continue
            with _held(path) as item:
                if item is not None:
                    item.send(client, run_id)
                    (path / _ITEM_FILE).unlink()  # without it the rest is nothing
                    shutil.rmtree(path)

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_file():
            target.mkdir()
            shutil.copyfile(source, target / source.name)
        else:  # a folder may hold the workspace
            shutil.copytree(source, target, ignore=self._own)

    def _own(self, folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name).absolute() == self.folder]


def sync(uri: str, workspace: Path) -> Synced:
    """Send what waits in a workspace to the store that has the runs.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    outbox = Outbox(workspace)
    synced = Synced()
    runs = outbox.runs()
    if not runs:
        return synced
    client = connect(uri)
    for run_id in runs:
        with mlflow_errors(uri, "send what waits"):
            problem = _problem(client, outbox, run_id)
        if problem:
            synced.waiting[run_id] = problem
        else:
            synced.sent.append(run_id)
    return synced


def _problem(client: "MlflowClient", outbox: Outbox, run_id: str) -> str:
    """Send the items of a run; why some could not be sent, or ""."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error_code(error) != MISSING:
            raise
        (first, *_) = outbox.waiting(run_id)
        return f"this store has no such run; it was made in {read_json(first / _ITEM_FILE)['store']}"
    problems = []
    for channel in CHANNELS:
        try:
            outbox.flush(client, run_id, channel)
        except Exception as error:
            if not (is_mlflow_failure(error) or isinstance(error, OSError | DataError)):
                raise
            problems.append(describe(error))
    return "; ".join(problems)


@contextmanager
def _held(path: Path) -> Iterator[Item | None]:
    """An item that nobody else sends meanwhile; None if somebody has sent it."""
    with locked(path / LOCK_FILE):
        if (path / _ITEM_FILE).is_file():
            files = path / _FILES
            kind: Any = path.suffix[1:]
            content = read_json(path / _ITEM_FILE)["content"]
            yield Item(kind, content, files if files.is_dir() else None)
        else:  # it was sent, and the removal perhaps interrupted
            shutil.rmtree(path, ignore_errors=True)
            yield None
