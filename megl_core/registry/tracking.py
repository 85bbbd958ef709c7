"""Runs: parameters, metrics, the dataset and the machine's load, in MLflow.

Opening a run, its parameters and its dataset are strict: they come first, and a server that is not there
is better known before the training than after. Metrics, tags, artifacts and the closing of a run are
lenient: a server that goes away in the middle costs a warning, never the training, and what it was not sent
waits in the workspace's outbox (`outbox.py`). A thread sends them (`sending.py`), artifacts excepted.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from megl_core.config import RegistryConfig
from megl_core.errors import ConfigError
from megl_core.files import canonical_json
from megl_core.progress import get_reporter
from megl_core.redaction import redact
from megl_core.registry.connection import (
    artifact_root,
    connect,
    error_code,
    mlflow_errors,
    require_database,
)
from megl_core.registry.outbox import Item, Outbox, sync
from megl_core.registry.sending import Sender

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATA_DIGEST_TAG = "megl.data_digest"
DVC_HASH_TAG = "megl.dvc_hash"

_SEND_EVERY = 2.0  # seconds
_MAX_POINTS = 10_000  # that wait for a server
_MONITOR_SECONDS = 5.0  # for its last values
_MAX_PARAMS = 100
_MAX_PARAM_LENGTH = 6000
_MAX_DIGEST_LENGTH = 36  # the whole digest is a tag of the dataset
_NOT_IN_A_NAME = re.compile(r"[^\w./ :-]", re.ASCII)


def resolve_tracking_uri(config: RegistryConfig, workspace: Path) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else `mlflow.db` (SQLite) in the workspace."""
    uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return uri or f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def resolve_registry(config: RegistryConfig, workspace: Path) -> str:
    """The URI of `resolve_tracking_uri`, for those who look for a registered model.

    Raises:
        DataError: its SQLite file does not exist.
    """
    uri = resolve_tracking_uri(config, workspace)
    require_database(uri)
    return uri


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train.epochs": 12}` from `{"train": {"epochs": 12}}`; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Tracker:
    """Writes to one MLflow run. Made by `start_run`; used from one thread."""

    def __init__(self, client: "MlflowClient", run_id: str, uri: str, outbox: Outbox) -> None:
        self.run_id = run_id
        self.uri = uri
        self._client = client
        self._sender = Sender(client, run_id, uri, outbox)
        self._points: list[tuple[str, str, int, int]] = []  # metrics that were not sent yet
        self._next_send = 0.0

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters; nested mappings become dotted names.

        MLflow keeps the first value of a parameter. A resumed run that has another is told so.

        Raises:
            UnavailableError: MLflow does not answer.
        """
        from mlflow.entities import Param

        texts = {name: _param_text(value) for name, value in flatten(params).items()}
        with mlflow_errors(self.uri, "log the parameters"):
            known = self._client.get_run(self.run_id).data.params
            new = [Param(name, text) for name, text in texts.items() if name not in known]
            for start in range(0, len(new), _MAX_PARAMS):
                self._client.log_batch(self.run_id, params=new[start : start + _MAX_PARAMS])
        changed = sorted(name for name, text in texts.items() if known.get(name, text) != text)
        if changed:
            get_reporter().message(f"MLflow run {self.run_id} keeps its first values of {', '.join(changed)}")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics at a step (0 by default). Never raises for MLflow's sake.

        Characters that MLflow does not allow in a name become `_`.
        """
        now = int(time.time() * 1000)
        self._points += [
            (_NOT_IN_A_NAME.sub("_", name), str(float(value)), now, step or 0)
            for name, value in metrics.items()
        ]
        is_due = time.monotonic() >= self._next_send and self._sender.is_idle
        if is_due or len(self._points) >= _MAX_POINTS:
            self._send_metrics()

    def log_dataset(
        self, name: str, digest: str, source: str, dvc_hash: str | None = None, context: str = "training"
    ) -> None:
        """Record which bytes the run reads.

        Args:
            name: the dataset's name.
            digest: our root digest (SHA-256, hex); MLflow shows its first 36 characters.
            source: path or URL of the data.
            dvc_hash: DVC's hash of the folder.
            context: what it is used for: `training`, `evaluation`.

        Raises:
            UnavailableError: MLflow does not answer.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = {"mlflow.data.context": context, DATA_DIGEST_TAG: digest}
        if dvc_hash:
            tags[DVC_HASH_TAG] = dvc_hash
        where = canonical_json({"uri": redact(source)}).decode()
        dataset = Dataset(name, digest[:_MAX_DIGEST_LENGTH], source_type="local", source=where)
        used = DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])
        with mlflow_errors(self.uri, "log the dataset"):
            self._client.log_inputs(self.run_id, [used])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, now or later. Never raises for MLflow's sake."""
        self._sender.put(Item("tags", {"tags": dict(tags)}))

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or what is in a folder, to `folder` of the run, now or later.

        Never raises for MLflow's sake. What has to wait is copied.
        """
        self._sender.send(Item("artifacts", {"folder": folder}, path))

    def close(self, status: str) -> None:
        """Send what is left and end the run as FINISHED, FAILED or KILLED, now or later."""
        self._send_metrics()
        self._sender.close(Item("status", {"status": status, "end_time": int(time.time() * 1000)}))

    def _send_metrics(self) -> None:
        points, self._points = self._points, []
        if points:
            self._sender.put(Item("metrics", {"points": points}))
        self._next_send = time.monotonic() + _SEND_EVERY


@contextlib.contextmanager
def start_run(
    config: RegistryConfig,
    workspace: Path,
    *,
    name: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    system_metrics: bool = True,
) -> Iterator[Tracker]:
    """A new run of the configured experiment, or with `run_id` an earlier one taken up again.

    The run ends FINISHED, FAILED if the block raises, KILLED on Ctrl-C or SIGTERM. What earlier runs of the
    workspace could not send is sent first.

    Raises:
        UnavailableError: MLflow does not answer.
        ConfigError: no such run, or the experiment was deleted.
    """
    uri = resolve_tracking_uri(config, workspace)
    client = connect(uri)
    for sent in sync(uri, workspace).sent:
        get_reporter().message(f"MLflow has now what run {sent} could not send")
    with mlflow_errors(uri, "open a run"):
        if run_id is None:
            run_id = _create(client, config.experiment, uri, name, tags or {})
        else:
            _reopen(client, run_id, uri, tags or {})
    tracker = Tracker(client, run_id, uri, Outbox(workspace))
    monitor = _monitor(tracker) if system_metrics else contextlib.nullcontext()
    status = "FINISHED"
    try:
        with _sigterm_as_exit(), monitor:
            yield tracker
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        tracker.close(status)


def end_run(config: RegistryConfig, workspace: Path, run_id: str, status: str) -> None:
    """End a run whose process is gone, as FINISHED, FAILED or KILLED, now or later.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    uri = resolve_tracking_uri(config, workspace)
    Tracker(connect(uri), run_id, uri, Outbox(workspace)).close(status)


def _create(
    client: "MlflowClient", experiment: str, uri: str, name: str | None, tags: Mapping[str, str]
) -> str:
    from mlflow.tracking.context.registry import resolve_tags

    # The client's own call does not add MLflow's usual tags: user, source, git commit.
    all_tags = resolve_tags(dict(tags))
    run = client.create_run(_experiment_id(client, experiment, uri), run_name=name, tags=all_tags)
    return str(run.info.run_id)


def _reopen(client: "MlflowClient", run_id: str, uri: str, tags: Mapping[str, str]) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(
            f"no MLflow run {run_id}",
            where=redact(uri),
            fix="use the tracking URI it was made with, or train anew: megl pipeline run --no-cache",
        ) from None
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


def _experiment_id(client: "MlflowClient", name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root(uri)))
        except MlflowException as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment.lifecycle_stage == "deleted":
        raise ConfigError(
            f"the MLflow experiment {name!r} was deleted",
            where=redact(uri),
            fix=f"mlflow experiments restore --experiment-id {experiment.experiment_id}, "
            "or choose another name: --set registry.experiment=NAME",
        )
    return str(experiment.experiment_id)


@contextlib.contextmanager
def _monitor(tracker: Tracker) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU load in the background."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(tracker.run_id, resume_logging=True, tracking_uri=tracker.uri)
    monitor.start()
    try:
        yield
    finally:
        ending = threading.Thread(target=monitor.finish, daemon=True)
        ending.start()
        ending.join(_MONITOR_SECONDS)


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the run is closed; a handler that is set already stays."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface's arguments)
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _param_text(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text[:_MAX_PARAM_LENGTH]
