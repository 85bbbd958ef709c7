"""Fetching a version's bytes from the artifact store, and checking them before anybody uses them.

What a file's digest must be is said by the version's tags and by its provenance, which is signed where keys
are in use: whoever can change the tags of a version cannot forge that.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.errors import DataError, IntegrityError
from megl_core.evaluation import PREDICTIONS_FILE
from megl_core.files import atomic_directory, read_json, sha256_file, sha256_tree, write_bytes
from megl_core.models.pickles import refuse_pickles
from megl_core.provenance.signing import Verifier, find_verifier, open_envelope
from megl_core.provenance.statement import PROVENANCE_FILE, Statement, byproducts, check_subjects
from megl_core.registry.connection import connect, error_code, mlflow_errors
from megl_core.registry.packaging import EVALUATION_ARTIFACT, GATE_ARTIFACT, MODEL_ARTIFACT
from megl_core.registry.versions import find
from megl_core.registry.vocabulary import (
    EVALUATION_DIGEST_TAG,
    GATE_DIGEST_TAG,
    MISSING,
    MODEL_DIGEST_TAG,
    PROVENANCE_DIGEST_TAG,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_LOGGED_MODEL = "models:/"
_CONFIG_FILE = "config.json"  # what every model folder holds
_LOST = "do not use this version; register the model again from the run that made it"
_DIGEST_TAGS = {
    MODEL_ARTIFACT: MODEL_DIGEST_TAG,
    EVALUATION_ARTIFACT: EVALUATION_DIGEST_TAG,
    GATE_ARTIFACT: GATE_DIGEST_TAG,
    PROVENANCE_FILE: PROVENANCE_DIGEST_TAG,
}


def fetch_model(
    name: str, reference: int | str, tracking_uri: str, target: Path, verifier: Verifier | None = None
) -> Path:
    """Download the model folder of a version (number or alias) to `target`, and check it.

    Its digest must be the registered one, its files those of its provenance where it has one, and none of
    them a pickle.

    Args:
        verifier: the key that must have signed the provenance. None: `MEGL_PUBLIC_KEY`, if that is set.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: the bytes are not those that were registered, are gone, or nobody vouches for them;
            nothing is written.
        DataError: the folder holds a pickle.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with (
        mlflow_errors(tracking_uri, "fetch the model"),
        atomic_directory(target, marker=_CONFIG_FILE) as folder,
    ):
        stored = Stored(client, find(client, name, reference, tracking_uri))
        downloads = folder / ".download"
        source = stored.download(MODEL_ARTIFACT, downloads)
        statement = stored.statement(downloads, verifier or find_verifier())
        if statement is not None:
            check_subjects(statement, source, stored.where(MODEL_ARTIFACT))
        refuse_pickles(source)
        for file in list(source.iterdir()):
            file.rename(folder / file.name)
        shutil.rmtree(downloads)
    return target


def fetch_evaluation(name: str, reference: int | str, tracking_uri: str, target: Path) -> Path:
    """Download the evaluation.json of a version (number or alias) to the file `target`, and check its digest.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: the bytes are not those that were registered, or are gone; nothing is written.
        UnavailableError: MLflow does not answer.
    """
    with _stored(name, reference, tracking_uri) as (stored, folder):
        write_bytes(target, stored.download(EVALUATION_ARTIFACT, folder).read_bytes())
    return target


def fetch_evaluated(name: str, reference: int | str, tracking_uri: str, folder: Path) -> Path:
    """Download evaluation.json of a version, and its predictions where they are kept, into `folder`.

    Both are those that the provenance names, where there is one.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: the bytes are not those that were registered, or are gone.
        UnavailableError: MLflow does not answer.
    """
    fetch_evaluation(name, reference, tracking_uri, folder / EVALUATION_ARTIFACT)
    for artifact in (EVALUATION_ARTIFACT, PREDICTIONS_FILE):
        fetch_report(name, reference, tracking_uri, artifact, folder / artifact)
    return folder


def fetch_report(
    name: str, reference: int | str, tracking_uri: str, artifact: str, target: Path
) -> Path | None:
    """Download a report that a version's provenance knows to the file `target`; None where it knows none.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: the bytes are not those that the provenance names, or are gone.
        UnavailableError: MLflow does not answer.
    """
    with _stored(name, reference, tracking_uri) as (stored, folder):
        statement = stored.statement(folder)
        wanted = byproducts(statement).get(artifact) if statement else None
        if wanted is None:
            return None
        write_bytes(target, stored.download(artifact, folder, wanted).read_bytes())
    return target


def fetch_envelope(name: str, reference: int | str, tracking_uri: str) -> dict[str, Any] | None:
    """The provenance of a version in its envelope; None where it has none.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: it is not the registered one, or is gone.
        UnavailableError: MLflow does not answer.
    """
    with _stored(name, reference, tracking_uri) as (stored, folder):
        return stored.envelope(folder)


@dataclass(frozen=True)
class Stored:
    """The files of a version in the artifact store."""

    client: "MlflowClient"
    version: "ModelVersion"

    def where(self, artifact: str) -> str:
        """An artifact, as messages name it."""
        return f"{artifact} of version {self.version.version} of {self.version.name!r}"

    def envelope(self, folder: Path) -> dict[str, Any] | None:
        """provenance.json; None where the version was registered without.

        Raises:
            IntegrityError: it is not what was registered.
        """
        if PROVENANCE_DIGEST_TAG not in self.version.tags:
            return None
        path = self.download(PROVENANCE_FILE, folder)
        try:
            return dict(read_json(path))
        except (DataError, TypeError, ValueError):
            raise IntegrityError("this is no envelope", where=self.where(PROVENANCE_FILE)) from None

    def statement(self, folder: Path, verifier: Verifier | None = None) -> Statement | None:
        """The provenance; None where the version was registered without and no key is asked for.

        Raises:
            IntegrityError: it is not what was registered, or not signed by the verifier's key.
        """
        where = self.where(PROVENANCE_FILE)
        envelope = self.envelope(folder)
        if envelope is not None:
            return open_envelope(envelope, verifier, where)
        if verifier is not None:
            raise IntegrityError(
                "there is no provenance, and a public key is configured", where=where, fix=_LOST
            )
        return None

    def download(self, artifact: str, folder: Path, digest: str | None = None) -> Path:
        """Download a file or folder into `folder` and compare it with a digest (None: that of its tag).

        Raises:
            IntegrityError: the digest or the artifact is missing, or they do not agree.
        """
        from mlflow.artifacts import download_artifacts

        where = self.where(artifact)
        recorded = digest or self.version.tags.get(_DIGEST_TAGS.get(artifact, ""))
        if not recorded:
            raise IntegrityError("nothing to check against: no digest is recorded", where=where)
        location = artifacts_of(self.client, self.version)
        if not location or not _is_stored(self.client, location, artifact):
            raise IntegrityError("the artifact is gone from the store", where=where, fix=_LOST)
        path = Path(
            download_artifacts(
                artifact_uri=f"{location}/{artifact}",
                dst_path=str(folder),
                tracking_uri=self.client.tracking_uri,
            )
        )
        actual = sha256_tree(path) if path.is_dir() else sha256_file(path)
        if actual != recorded:
            raise IntegrityError(
                f"the bytes have changed since they were registered: {recorded[:12]} then, {actual[:12]} now",
                where=where,
                fix=_LOST,
            )
        return path


@contextmanager
def _stored(name: str, reference: int | str, tracking_uri: str) -> Iterator[tuple[Stored, Path]]:
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "fetch the report"), tempfile.TemporaryDirectory() as folder:
        yield Stored(client, find(client, name, reference, tracking_uri)), Path(folder)


def artifacts_of(client: "MlflowClient", version: "ModelVersion") -> str | None:
    """Where a version's artifacts are; None if its logged model was deleted.

    `ModelVersion.model_id` reads back as None; the source names the logged model.
    """
    from mlflow.exceptions import MlflowException

    source = str(version.source)
    if source.startswith(_LOGGED_MODEL):
        try:
            source = client.get_logged_model(source.removeprefix(_LOGGED_MODEL)).artifact_location
        except MlflowException as error:
            if error_code(error) == MISSING:
                return None
            raise
    return f"{source}/artifacts"


def _is_stored(client: "MlflowClient", location: str, artifact: str) -> bool:
    """Whether the store lists an artifact; asking for a missing one fails differently in every store."""
    from mlflow.artifacts import list_artifacts

    parent, _, own = artifact.rpartition("/")
    listed = list_artifacts(artifact_uri=f"{location}/{parent}", tracking_uri=client.tracking_uri)
    return own in (file.path.rpartition("/")[2] for file in listed)
