"""Registering: a trained model becomes a version of a registered model.

The steps, each of which finds what an interrupted try left: the manifest, the logged model with all of its
reports, the version, the entry of the record. Only with the last the version counts as registered; the
record decides where two processes register the same bytes. What else was made of them goes afterwards.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from megl_core.registry.adoption import open_record
from megl_core.registry.connection import connect, error_code, global_uri, mlflow_errors
from megl_core.registry.fetching import Stored
from megl_core.registry.history import Draft, History
from megl_core.registry.state import RegistryState, state_of
from megl_core.registry.tracking import DATA_DIGEST_TAG
from megl_core.registry.versions import RegisteredVersion, search, show_version
from megl_core.registry.vocabulary import (
    EVALUATION_DIGEST_TAG,
    GATE_DIGEST_TAG,
    GATE_TAG,
    MANIFEST_DIGEST_TAG,
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

_LOGGED_MODEL = "models:/"


@dataclass(frozen=True)
class _Content:
    """What a version is made of: the model folder with its digest, the reports by name, and its tags."""

    model: Path
    reports: Mapping[str, Path]
    digest: str
    tags: Mapping[str, str]
    licence: str

    def is_in(self, tags: Mapping[str, str]) -> bool:
        """Whether tags say the same. A signature differs each time, and so does the provenance with it."""
        return all(
            tags.get(name) == text for name, text in self.tags.items() if name != PROVENANCE_DIGEST_TAG
        )


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
        history = open_record(client, name)
        version = _registered(client, history, digest)
        if version is None:
            all_tags |= more
            if manifest is not None and TRAINING_DATA_TAG in more:
                kept = _keep_manifest(client, history, manifest, more[TRAINING_DATA_TAG])
                all_tags[MANIFEST_DIGEST_TAG] = kept
            content = _Content(model, files, digest, all_tags, licence)
            version = _complete(client, history, run_id, content)
        _clean_up(client, history, run_id, digest)
        return show_version(name, version, tracking_uri)


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


def _keep_manifest(client: "MlflowClient", history: History, manifest: Path, digest: str) -> str:
    """Store the training data's manifest with the record; the SHA-256 of the file that stays there.

    A manifest of the same data that an entry tells of is left as it is: its bytes may be others where
    another library wrote them.
    """
    for entry in state_of(history.entries).registered.values():
        if entry.details["data_digest"] == digest and (known := entry.details.get("manifest_digest")):
            return str(known)
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"{digest}.parquet"
        named.symlink_to(manifest.resolve())
        client.log_artifact(history.run_id, str(named), "manifests")
    return sha256_file(manifest)


def _complete(client: "MlflowClient", history: History, run_id: str, content: _Content) -> int:
    """Go on from where an earlier try stopped, up to the entry of the record.

    Returns:
        The version: the own one, or that of another process that was faster with the same bytes.
    """
    from mlflow.exceptions import MlflowException

    experiment_id = _experiment_of(client, run_id)
    try:
        version = _half_registered(client, history, content)
        if version is None:
            logged = _logged(client, history, experiment_id, run_id, content)
            if logged is None:
                logged = _log_model(client, history, experiment_id, run_id, content)
            _link(client, run_id, logged.model_id)
            version = _create_version(client, history, run_id, logged)
        return _enter(history, version)
    except MlflowException:  # another process that was faster may have cleaned up
        history.reload()
        faster = _registered(client, history, content.digest)
        if faster is None:
            raise
        return faster


def _registered(client: "MlflowClient", history: History, model_digest: str) -> int | None:
    """The newest version of this very model that the record knows and whose bytes still agree."""
    state = state_of(history.entries)
    found = [
        version
        for version in search(client, history.name, (MODEL_DIGEST_TAG, model_digest))
        if _is_recorded(state, version)
    ]
    return next((int(version.version) for version in _newest(found) if _is_intact(client, version)), None)


def _half_registered(client: "MlflowClient", history: History, content: _Content) -> "ModelVersion | None":
    """The first version of this very content that no entry tells of, for somebody was interrupted."""
    found = [one for one in _unrecorded(client, history, content.digest) if content.is_in(one.tags)]
    return next((version for version in reversed(_newest(found)) if _is_intact(client, version)), None)


def _unrecorded(client: "MlflowClient", history: History, model_digest: str) -> "list[ModelVersion]":
    state = state_of(history.entries)
    versions = search(client, history.name, (MODEL_DIGEST_TAG, model_digest))
    return [version for version in versions if not _is_recorded(state, version)]


def _is_recorded(state: RegistryState, version: "ModelVersion") -> bool:
    """Whether the record tells of this very version, and not of one that had its number before."""
    entry = state.registered.get(int(version.version))
    return entry is not None and _LOGGED_MODEL + entry.details["logged_model"] == version.source


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
    client: "MlflowClient", history: History, experiment_id: str, run_id: str, content: _Content
) -> "LoggedModel | None":
    """A complete logged model of this very content."""
    from mlflow.entities import LoggedModelStatus

    for logged in _logged_models(client, history, experiment_id, run_id, content.digest):
        if logged.status != LoggedModelStatus.READY or not content.is_in(logged.tags):
            continue
        if _is_intact(client, _as_version(logged)):
            return logged
    return None


def _logged_models(
    client: "MlflowClient", history: History, experiment_id: str, run_id: str, model_digest: str
) -> "list[LoggedModel]":
    query = f"tags.`{MODEL_DIGEST_TAG}` = '{model_digest}'"
    found = client.search_logged_models([experiment_id], query)
    return [one for one in found if one.source_run_id == run_id and one.name == history.name]


def _as_version(logged: "LoggedModel") -> "ModelVersion":
    """A logged model as the version that is to be made of it."""
    from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

    return ModelVersion(
        logged.name,
        "(unfinished)",
        logged.creation_timestamp,
        source=f"{_LOGGED_MODEL}{logged.model_id}",
        tags=[ModelVersionTag(name, value) for name, value in logged.tags.items()],
    )


def _log_model(
    client: "MlflowClient", history: History, experiment_id: str, run_id: str, content: _Content
) -> "LoggedModel":
    """Upload the model as an MLflow logged model of the run.

    Made of the client's own steps and not of `mlflow.pyfunc.log_model`, which would open the finished
    run again. The logged model is READY only when all of it is there.
    """
    from mlflow.entities import LoggedModelStatus

    logged = client.create_logged_model(
        experiment_id,
        name=history.name,
        source_run_id=run_id,
        tags=dict(content.tags),
        model_type="classifier",
    )
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model"
        packaging.save(
            content.model,
            content.reports,
            packed,
            licence=content.licence,
            run_id=run_id,
            model_id=logged.model_id,
        )
        client.log_model_artifacts(logged.model_id, str(packed))
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _link(client: "MlflowClient", run_id: str, model_id: str) -> None:
    """Name the logged model among the outputs of its run, which MLflow lets be done once only."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    def is_linked() -> bool:
        outputs = client.get_run(run_id).outputs
        return outputs is not None and model_id in (output.model_id for output in outputs.model_outputs)

    if is_linked():
        return
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    except MlflowException:  # asked for twice: an answer was lost, or another process does the same
        if not is_linked():
            raise


def _create_version(
    client: "MlflowClient", history: History, run_id: str, logged: "LoggedModel"
) -> "ModelVersion":
    """A version of the logged model; the first, where a request that was sent twice made two."""
    source = f"{_LOGGED_MODEL}{logged.model_id}"
    made = client.create_model_version(
        history.name, source, run_id, dict(logged.tags), model_id=logged.model_id
    )
    unrecorded = _unrecorded(client, history, logged.tags[MODEL_DIGEST_TAG])
    return min((one for one in (*unrecorded, made) if one.source == source), key=lambda one: int(one.version))


def _enter(history: History, version: "ModelVersion") -> int:
    """Record a version; of two processes that registered the same bytes the second gives way to the first."""
    number, tags = int(version.version), version.tags
    digest = tags[MODEL_DIGEST_TAG]
    details = {
        "model_digest": digest,
        "provenance_digest": tags.get(PROVENANCE_DIGEST_TAG, ""),
        "data_digest": tags.get(TRAINING_DATA_TAG, ""),
        "manifest_digest": tags.get(MANIFEST_DIGEST_TAG, ""),
        "evaluated_digest": tags.get(DATA_DIGEST_TAG, ""),
        "run_id": version.run_id or "",
        "logged_model": str(version.source).removeprefix(_LOGGED_MODEL),
    }
    before = len(history.entries)

    def decide(history: History) -> Draft | None:
        faster = _same_bytes(history.entries[before:], digest)
        return None if faster else Draft("register", number, "trained and evaluated", details)

    history.append(decide)
    return _same_bytes(history.entries[before:], digest)


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


def _clean_up(client: "MlflowClient", history: History, run_id: str, model_digest: str) -> None:
    """Once the bytes are registered, delete what interrupted or slower tries made of them."""
    began = client.get_run(history.run_id).info.start_time
    entries = state_of(history.entries)
    for version in _unrecorded(client, history, model_digest):
        is_ours = str(version.source).startswith(f"{_LOGGED_MODEL}m-") and version.run_id == run_id
        older = version.creation_timestamp < began  # from a time without records
        if is_ours and not older and int(version.version) not in entries.stages:
            _delete(client.delete_model_version, history.name, version.version)
    used = {str(version.source) for version in search(client, history.name, (MODEL_DIGEST_TAG, model_digest))}
    used |= {_LOGGED_MODEL + entry.details["logged_model"] for entry in entries.registered.values()}
    with suppress(ConfigError):  # the run is gone, and its logged models with it
        experiment_id = _experiment_of(client, run_id)
        for logged in _logged_models(client, history, experiment_id, run_id, model_digest):
            if f"{_LOGGED_MODEL}{logged.model_id}" not in used:
                _delete(client.delete_logged_model, logged.model_id)


def _delete(delete: Callable[..., None], *what: str) -> None:
    """Delete what another process may have deleted already."""
    from mlflow.exceptions import MlflowException

    try:
        delete(*what)
    except MlflowException as error:
        if error_code(error) != MISSING:
            raise


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
