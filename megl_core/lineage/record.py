"""All that is recorded of a version, gathered in one place."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from megl_core.errors import ConfigError, MeglError
from megl_core.files import read_json, write_bytes
from megl_core.provenance.signing import open_envelope, signed_by
from megl_core.provenance.statement import Statement
from megl_core.registry.connection import connect, mlflow_errors
from megl_core.registry.fetching import fetch_envelope, fetch_evaluation
from megl_core.registry.history import Entry, find_history
from megl_core.registry.versions import RegisteredVersion, show_version
from megl_core.registry.vocabulary import Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient

MANIFESTS = "manifests"
"""Folder of manifests: in a record's run, and in a workspace."""


@dataclass(frozen=True)
class Recorded:
    """A version as registry, provenance and record tell of it; nothing is checked here but the chain.

    Attributes:
        entries: of the record that are about this version, or took it out of Production.
        statement: its provenance; None where it has none or that cannot be read, as `trouble` says.
        signers: ids of the keys that the envelope names.
        metrics: `{split: {metric: value}}` of its registered evaluation.
    """

    version: RegisteredVersion
    entries: tuple[Entry, ...]
    statement: Statement | None
    signers: tuple[str, ...]
    metrics: dict[str, dict[str, float]]
    trouble: str = ""


def read_record(name: str, reference: int | str, tracking_uri: str) -> Recorded:
    """Gather what is recorded of a version.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: the record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    version = show_version(name, reference, tracking_uri)
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "read the record"):
        history = find_history(client, name)
    entries = [entry for entry in history.entries if concerns(entry, version.version)] if history else []
    statement: Statement | None = None
    signers: list[str] = []
    metrics: dict[str, Any] = {}
    trouble = ""
    try:
        envelope = fetch_envelope(name, version.version, tracking_uri)
        if envelope is not None:
            statement = open_envelope(envelope, None, "provenance.json")
            signers = signed_by(envelope)
        with TemporaryDirectory() as folder:
            report = fetch_evaluation(name, version.version, tracking_uri, Path(folder) / "evaluation.json")
            metrics = read_json(report)["metrics"]
    except MeglError as error:
        trouble = error.what
    return Recorded(version, tuple(entries), statement, tuple(signers), metrics, trouble)


def concerns(entry: Entry, version: int) -> bool:
    """Whether an entry is about a version, or moved it out of Production by putting another there."""
    if entry.version == version:
        return True
    if entry.action == "adopt":
        return any(version in numbers for numbers in entry.details["stages"].values())
    if entry.action == "rollback":
        return bool(entry.details["from"] == version)
    into_production = entry.action == "promote" and entry.details["to"] == Stage.PRODUCTION
    return into_production and bool(entry.details["champion"] == version)


def parse_reference(text: str) -> tuple[str, str]:
    """Name and reference of `megl/3` or `megl/champion`.

    Raises:
        ConfigError: there is no slash.
    """
    name, separator, reference = text.rpartition("/")
    if not separator or not name or not reference:
        raise ConfigError(f"{text!r} names no version", fix="write NAME/VERSION or NAME/ALIAS: megl/3")
    return name, reference


def kept_manifest(name: str, digest: str, tracking_uri: str, workspace: Path) -> Path | None:
    """The manifest of a dataset that a version of a model was made of, by its root digest.

    None where neither the workspace nor the model's record has it.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "read the record"):
        history = find_history(client, name)
    return find_manifest(client, history.run_id, digest, workspace) if history and digest else None


def find_manifest(client: "MlflowClient", run_id: str, digest: str, workspace: Path) -> Path | None:
    """The manifest of a dataset by its root digest: the workspace's, else the record's, which is kept there.

    None where neither has it.
    """
    path = workspace / MANIFESTS / f"{digest}.parquet"
    return path if path.is_file() else fetch_manifest(client, run_id, digest, path)


def fetch_manifest(client: "MlflowClient", run_id: str, digest: str, path: Path) -> Path | None:
    """Download a dataset's manifest from the record's run to `path`; None where it is not there."""
    name = f"{MANIFESTS}/{digest}.parquet"
    with mlflow_errors(client.tracking_uri, "fetch the manifest"):
        listed = [file.path for file in client.list_artifacts(run_id, MANIFESTS)]
        if name not in listed:
            return None
        with TemporaryDirectory() as folder:
            write_bytes(path, Path(client.download_artifacts(run_id, name, folder)).read_bytes())
    return path
