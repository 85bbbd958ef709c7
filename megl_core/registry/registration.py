"""Registering: a trained model becomes a version of a registered model.

A version is an MLflow logged model with its reports inside. Its tags say which bytes these are, and the
model's digest, not MLflow's number, decides whether a model is already there.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from megl_core.errors import ConfigError, IntegrityError
from megl_core.explain.model_card import UNKNOWN_LICENCE
from megl_core.files import read_json, sha256_file, sha256_tree
from megl_core.progress import get_reporter
from megl_core.redaction import redact
from megl_core.registry import packaging
from megl_core.registry.connection import connect, error_code, global_uri, mlflow_errors
from megl_core.registry.fetching import download
from megl_core.registry.tracking import DATA_DIGEST_TAG
from megl_core.registry.versions import (
    EVALUATION_DIGEST_TAG,
    MISSING,
    MODEL_DIGEST_TAG,
    RegisteredVersion,
    describe_version,
    parse_name,
    read_aliases,
    search,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

GATE_TAG = "megl.gate"
GATE_DIGEST_TAG = "megl.gate_digest"


def register(
    model: Path,
    evaluation: Path,
    gate: Path | None,
    name: str,
    tracking_uri: str,
    run_id: str,
    tags: Mapping[str, str] | None = None,
    licence: str = UNKNOWN_LICENCE,
) -> RegisteredVersion:
    """Log the model to the run that trained it, and make it a version of the registered model.

    A model whose digest is registered already, with bytes that are still the same, is not registered
    again: its version is returned as it is, with the reports of its first registration.

    Args:
        model: the model folder.
        evaluation: its evaluation.json.
        gate: its gate.json, if it was compared.
        name: the registered model; made if it does not exist.
        tracking_uri: the MLflow server or database.
        run_id: the training run.
        tags: more tags, such as `megl.dvc_hash` and `megl.code_commit`.
        licence: of the weights, for the model card.

    Raises:
        IntegrityError: a report is about other bytes than the model's.
        ConfigError: no such run.
        UnavailableError: MLflow does not answer.
    """
    parse_name(name)
    digest = sha256_tree(model)
    tags = _describe_reports(digest, evaluation, gate) | dict(tags or {})
    reports = {packaging.EVALUATION_ARTIFACT: evaluation}
    if gate:
        reports[packaging.GATE_ARTIFACT] = gate
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "register the model"), global_uri(tracking_uri):
        version = _find_intact(client, name, digest)
        if version is None:
            model_id = _log_model(client, model, reports, name, run_id, tags, licence)
            _ensure_registered_model(client, name)
            version = client.create_model_version(
                name, f"models:/{model_id}", run_id, tags, model_id=model_id
            )
        return describe_version(version, read_aliases(client, name))


def _describe_reports(model_digest: str, evaluation: Path, gate: Path | None) -> dict[str, str]:
    """Tags for the model and its reports, after a look whether they belong together."""
    report = read_json(evaluation)
    _require_same(model_digest, report.get("model_digest"), evaluation)
    tags = {
        MODEL_DIGEST_TAG: model_digest,
        DATA_DIGEST_TAG: str(report.get("data_digest")),
        EVALUATION_DIGEST_TAG: sha256_file(evaluation),
    }
    if gate is None:
        return tags
    verdict = read_json(gate)
    _require_same(model_digest, verdict.get("model_digest"), gate)
    return tags | {
        GATE_DIGEST_TAG: sha256_file(gate),
        GATE_TAG: "passed" if verdict.get("passed") is True else "failed",
    }


def _require_same(model_digest: str, reported: object, report: Path) -> None:
    if reported != model_digest:
        raise IntegrityError(
            f"{report.name} is about another model: {str(reported)[:12]}, not {model_digest[:12]}",
            where=str(report),
            fix="evaluate this model, then register it with that report",
        )


def _find_intact(client: "MlflowClient", name: str, model_digest: str) -> "ModelVersion | None":
    """The newest version of this very model whose stored bytes still agree."""
    versions = search(client, name, (MODEL_DIGEST_TAG, model_digest))
    for version in sorted(versions, key=lambda version: -int(version.version)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                download(client, version, packaging.MODEL_ARTIFACT, MODEL_DIGEST_TAG, Path(folder))
            except IntegrityError as error:
                get_reporter().message(f"version {version.version} of {name} is damaged: {error.what}")
                continue
        return version
    return None


def _log_model(
    client: "MlflowClient",
    model: Path,
    reports: Mapping[str, Path],
    name: str,
    run_id: str,
    tags: Mapping[str, str],
    licence: str,
) -> str:
    """Upload the model as an MLflow logged model of the run; returns its id.

    Made of the client's own steps and not of `mlflow.pyfunc.log_model`, which would open the finished
    run again. The logged model is READY only when all of it is there.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment_id = _experiment_of(client, run_id)
    logged = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, tags=dict(tags), model_type="classifier"
    )
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model"
        packaging.save(model, reports, packed, licence=licence, run_id=run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(packed))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _experiment_of(client: "MlflowClient", run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        if error_code(error) != MISSING:
            raise
        raise ConfigError(
            f"no MLflow run {run_id}",
            where=redact(client.tracking_uri),
            fix="give the run that trained the model, and the tracking URI that it was made with",
        ) from None


def _ensure_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise
