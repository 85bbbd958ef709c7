"""Fetching a version's bytes from the artifact store, and checking them before anybody uses them."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from megl_core.errors import IntegrityError
from megl_core.files import atomic_directory, sha256_file, sha256_tree, write_bytes
from megl_core.registry.connection import connect, error_code, mlflow_errors
from megl_core.registry.packaging import EVALUATION_ARTIFACT, MODEL_ARTIFACT
from megl_core.registry.versions import EVALUATION_DIGEST_TAG, MISSING, MODEL_DIGEST_TAG, find

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_LOGGED_MODEL = "models:/"
_CONFIG_FILE = "config.json"  # what every model folder holds
_LOST = "do not use this version; register the model again from the run that made it"


def fetch_model(name: str, reference: int | str, tracking_uri: str, target: Path) -> Path:
    """Download the model folder of a version (number or alias) to `target`, and check its digest.

    Raises:
        ConfigError: there is no such version.
        IntegrityError: the bytes are not those that were registered, or are gone; nothing is written.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with (
        mlflow_errors(tracking_uri, "fetch the model"),
        atomic_directory(target, marker=_CONFIG_FILE) as folder,
    ):
        version = find(client, name, reference, tracking_uri)
        downloads = folder / ".download"
        source = download(client, version, MODEL_ARTIFACT, MODEL_DIGEST_TAG, downloads)
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
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "fetch the evaluation"), tempfile.TemporaryDirectory() as folder:
        version = find(client, name, reference, tracking_uri)
        source = download(client, version, EVALUATION_ARTIFACT, EVALUATION_DIGEST_TAG, Path(folder))
        write_bytes(target, source.read_bytes())
    return target


def download(
    client: "MlflowClient", version: "ModelVersion", artifact: str, digest_tag: str, folder: Path
) -> Path:
    """Download a file or folder of a version into `folder` and compare it with the digest in a tag.

    Raises:
        IntegrityError: the tag or the artifact is missing, or they do not agree.
    """
    from mlflow.artifacts import download_artifacts

    where = f"{artifact} of version {version.version} of {version.name!r}"
    recorded = version.tags.get(digest_tag)
    if not recorded:
        raise IntegrityError(f"nothing to check against: no tag {digest_tag}", where=where)
    location = _artifacts_of(client, version)
    if not location or not _is_stored(client, location, artifact):
        raise IntegrityError("the artifact is gone from the store", where=where, fix=_LOST)
    path = Path(
        download_artifacts(
            artifact_uri=f"{location}/{artifact}", dst_path=str(folder), tracking_uri=client.tracking_uri
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


def _artifacts_of(client: "MlflowClient", version: "ModelVersion") -> str | None:
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

    listed = list_artifacts(artifact_uri=location, tracking_uri=client.tracking_uri)
    return artifact in (file.path.rpartition("/")[2] for file in listed)
