"""Registering: a trained model becomes a version of a registered model.

The steps, each of which finds what an interrupted try left: the manifest, the logged model with all of its
reports, the version, the entry of the record. Only with the last the version counts as registered; the
record decides where two processes register the same bytes.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.errors import ConfigError, IntegrityError
from megl_core.explain.model_card import UNKNOWN_LICENCE
from megl_core.files import read_json, sha256_file, sha256_tree, write_json
from megl_core.progress import get_reporter
from megl_core.provenance.signing import Signer, seal, signed_by
from megl_core.provenance.statement import (
    PROVENANCE_FILE,
    check_subjects,
    data_digest,
    read_statement,
    with_byproducts,
)
from megl_core.redaction import redact
from megl_core.registry import packaging
from megl_core.registry.connection import connect, error_code, global_uri, mlflow_errors
from megl_core.registry.fetching import Stored
from megl_core.registry.history import Draft, History, open_history
from megl_core.registry.state import state_of
from megl_core.registry.tracking import DATA_DIGEST_TAG
from megl_core.registry.versions import RegisteredVersion, search, show_version
from megl_core.registry.vocabulary import (
    EVALUATION_DIGEST_TAG,
    GATE_DIGEST_TAG,
    GATE_TAG,
    MISSING,
    MODEL_DIGEST_TAG,
    PROVENANCE_DIGEST_TAG,
    SIGNED_TAG,
    TRAINING_DATA_TAG,
    parse_name,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


def register(
    model: Path,
    reports: Mapping[str, Path],
    name: str,
    tracking_uri: str,
    run_id: str,
    *,
    statement: Path | None = None,
    manifest: Path | None = None,
    signer: Signer | None = None,
    tags: Mapping[str, str] | None = None,
    licence: str = UNKNOWN_LICENCE,
) -> RegisteredVersion:
    """Log the model to the run that trained it, and make it a version of the registered model.

    A model whose digest is registered already, with bytes that are still the same, is not registered
    again: its version is returned as it is, with the reports of its first registration. The same holds after
    any interruption: a retry completes what is there.

    Args:
        model: the model folder.
        reports: `{name in the artifacts: file}`; evaluation.json, and what else there is of gate.json,
            predictions.parquet, validation.json, champion/...
        name: the registered model; made if it does not exist.
        tracking_uri: the MLflow server or database.
        run_id: the training run.
        statement: what the training step wrote of where the model comes from; without it the version has no
            provenance and cannot pass the gates.
        manifest: of the training data; kept with the record under its root digest.
        signer: signs the provenance.
        tags: more tags, such as `megl.dvc_hash`.
        licence: of the weights, for the model card.

    Raises:
        IntegrityError: a report or the statement is about other bytes than the model's.
        ConfigError: no such run.
        UnavailableError: MLflow does not answer.
    """
    parse_name(name)
    digest = sha256_tree(model)
    all_tags = describe_reports(digest, reports) | dict(tags or {})
    client = connect(tracking_uri)
    with (
        mlflow_errors(tracking_uri, "register the model"),
        global_uri(tracking_uri),
        _with_provenance(model, reports, statement, signer) as (files, more),
    ):
        history = open_history(client, name)
        version = _registered(client, history, digest)
        if version is None:
            experiment_id = _experiment_of(client, run_id)
            if manifest is not None:
                _keep_manifest(client, history, manifest, more.get(TRAINING_DATA_TAG))
            version = _half_registered(client, history, digest)
            if version is None:
                logged = _logged(client, experiment_id, run_id, digest)
                if logged is None:
                    all_tags |= more
                    logged = _log_model(client, model, files, name, run_id, experiment_id, all_tags, licence)
                version = client.create_model_version(
                    name, f"models:/{logged.model_id}", run_id, dict(logged.tags), model_id=logged.model_id
                )
            version = _enter(client, history, _only_one(client, history, version))
        return show_version(name, int(version), tracking_uri)


def describe_reports(model_digest: str, reports: Mapping[str, Path]) -> dict[str, str]:
    """Tags for the model and its reports, after a look whether they belong together.

    Raises:
        IntegrityError: a report is about another model.
    """
    evaluation, gate = reports[packaging.EVALUATION_ARTIFACT], reports.get(packaging.GATE_ARTIFACT)
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


@contextmanager
def _with_provenance(
    model: Path, reports: Mapping[str, Path], statement: Path | None, signer: Signer | None
) -> Iterator[tuple[dict[str, Path], dict[str, str]]]:
    """The reports with the sealed provenance among them, and the tags that tell of it."""
    if statement is None:
        get_reporter().message("registered without provenance: nobody can say what the model was made of")
        yield dict(reports), {}
        return
    said = read_statement(read_json(statement), str(statement))
    check_subjects(said, model, str(statement))
    said = with_byproducts(said, {name: sha256_file(path) for name, path in reports.items()})
    envelope = seal(said, signer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROVENANCE_FILE
        write_json(path, envelope)
        yield (
            {**reports, PROVENANCE_FILE: path},
            {
                PROVENANCE_DIGEST_TAG: sha256_file(path),
                TRAINING_DATA_TAG: data_digest(said),
                SIGNED_TAG: ", ".join(signed_by(envelope)) or "no",
            },
        )


def _keep_manifest(client: "MlflowClient", history: History, manifest: Path, digest: str | None) -> None:
    """Store the training data's manifest with the record, once for each root digest."""
    if not digest:
        return
    name = f"{digest}.parquet"
    if any(file.path.endswith(name) for file in client.list_artifacts(history.run_id, "manifests")):
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        copy.hardlink_to(manifest) if _same_disk(manifest, copy) else copy.write_bytes(manifest.read_bytes())
        client.log_artifact(history.run_id, str(copy), "manifests")


def _registered(client: "MlflowClient", history: History, model_digest: str) -> int | None:
    """The newest version of this very model that the record knows and whose bytes still agree."""
    known = state_of(history.entries).registered
    found = [
        version
        for version in search(client, history.name, (MODEL_DIGEST_TAG, model_digest))
        if int(version.version) in known
    ]
    return next((int(version.version) for version in _newest(found) if _is_intact(client, version)), None)


def _half_registered(client: "MlflowClient", history: History, model_digest: str) -> "ModelVersion | None":
    """A version of this model with good bytes that no entry tells of, for somebody was interrupted."""
    found = reversed(_newest(_unrecorded(client, history, model_digest)))
    return next((version for version in found if _is_intact(client, version)), None)


def _only_one(client: "MlflowClient", history: History, version: "ModelVersion") -> "ModelVersion":
    """The first of the versions that were made of one logged model; others, of a request sent twice, go."""
    found = _unrecorded(client, history, version.tags[MODEL_DIGEST_TAG])
    *others, first = _newest([other for other in found if other.source == version.source])
    for other in others:
        client.delete_model_version(history.name, other.version)
    return first


def _unrecorded(client: "MlflowClient", history: History, model_digest: str) -> "list[ModelVersion]":
    known = state_of(history.entries).registered
    versions = search(client, history.name, (MODEL_DIGEST_TAG, model_digest))
    return [version for version in versions if int(version.version) not in known]


def _newest(versions: "list[ModelVersion]") -> "list[ModelVersion]":
    return sorted(versions, key=lambda version: -int(version.version))


def _is_intact(client: "MlflowClient", version: "ModelVersion") -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            Stored(client, version).download(packaging.MODEL_ARTIFACT, Path(folder))
        except IntegrityError as error:
            get_reporter().message(f"version {version.version} of {version.name} is damaged: {error.what}")
            return False
    return True


def _logged(
    client: "MlflowClient", experiment_id: str, run_id: str, model_digest: str
) -> "LoggedModel | None":
    """A complete logged model of this run that no version stands on; incomplete ones are deleted."""
    from mlflow.artifacts import download_artifacts
    from mlflow.entities import LoggedModelStatus

    query = f"tags.`{MODEL_DIGEST_TAG}` = '{model_digest}'"
    for logged in client.search_logged_models([experiment_id], query):
        if logged.source_run_id != run_id:
            continue
        if logged.status != LoggedModelStatus.READY:
            client.delete_logged_model(logged.model_id)
            continue
        with tempfile.TemporaryDirectory() as folder:
            uri = f"{logged.artifact_location}/artifacts/{packaging.MODEL_ARTIFACT}"
            try:
                path = download_artifacts(uri, dst_path=folder, tracking_uri=client.tracking_uri)
            except Exception:  # noqa: S112 (gone: each store says so in its own way)
                continue
            if sha256_tree(Path(path)) == model_digest:
                return logged
    return None


def _log_model(
    client: "MlflowClient",
    model: Path,
    reports: Mapping[str, Path],
    name: str,
    run_id: str,
    experiment_id: str,
    tags: Mapping[str, str],
    licence: str,
) -> "LoggedModel":
    """Upload the model as an MLflow logged model of the run.

    Made of the client's own steps and not of `mlflow.pyfunc.log_model`, which would open the finished
    run again. The logged model is READY only when all of it is there.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    logged = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, tags=dict(tags), model_type="classifier"
    )
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model"
        packaging.save(model, reports, packed, licence=licence, run_id=run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(packed))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _enter(client: "MlflowClient", history: History, version: "ModelVersion") -> int:
    """Record a version; of two processes that registered the same bytes the second gives way to the first."""
    number, tags = int(version.version), version.tags
    digest = tags[MODEL_DIGEST_TAG]
    details = {
        "model_digest": digest,
        "provenance_digest": tags.get(PROVENANCE_DIGEST_TAG, ""),
        "data_digest": tags.get(TRAINING_DATA_TAG, ""),
        "evaluated_digest": tags.get(DATA_DIGEST_TAG, ""),
        "run_id": version.run_id or "",
        "logged_model": str(version.source).removeprefix("models:/"),
    }
    before = len(history.entries)

    def decide(history: History) -> Draft | None:
        faster = _same_bytes(history.entries[before:], digest)
        return None if faster else Draft("register", number, "trained and evaluated", details)

    if history.append(decide) is not None:
        return number
    faster = _same_bytes(history.entries[before:], digest)
    if faster != number:
        client.delete_model_version(history.name, version.version)
    return faster


def _same_bytes(entries: Any, digest: str) -> int:
    """The version of these bytes that entries tell of; 0: none."""
    return next(
        (
            entry.version
            for entry in entries
            if entry.action == "register" and entry.details["model_digest"] == digest
        ),
        0,
    )


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


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.parent.stat().st_dev
