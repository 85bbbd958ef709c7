"""The pipeline's steps with tracking and registry around them, as commands and components call them."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.code import code_digest
from megl_core.config import Config, RegistryConfig, StorageConfig
from megl_core.data.packed import verify, verify_index
from megl_core.data.streaming import open_packed
from megl_core.errors import ConfigError, GateError, IntegrityError, MeglError
from megl_core.evaluation import EVALUATION_FILE, PREDICTIONS_FILE, Evaluation, evaluate
from megl_core.evaluation.report import write_report
from megl_core.files import read_json, sha256_tree, write_bytes, write_json
from megl_core.progress import get_reporter
from megl_core.provenance.signing import find_signer
from megl_core.provenance.statement import Training, statement_file, training_statement
from megl_core.redaction import redact
from megl_core.registry.gate import GateResult, compare
from megl_core.registry.promotion import CHAMPION_FOLDER, Verdict, champion_on, judge
from megl_core.registry.registration import register
from megl_core.registry.stages import (
    GATED,
    ApprovalMissingError,
    ProductionChangedError,
    approvals_needed,
    promote,
    request,
)
from megl_core.registry.tracking import resolve_tracking_uri, start_run
from megl_core.registry.versions import RegisteredVersion, champion, show_version
from megl_core.registry.vocabulary import Stage
from megl_core.storage.s3 import is_s3

if TYPE_CHECKING:
    from megl_core.training import TrainResult

GATE_FILE = "gate.json"
VALIDATION_FILE = "validation.json"
_BELOW = {Stage.STAGING: {Stage.NONE}, Stage.PRODUCTION: {Stage.NONE, Stage.STAGING}}


@dataclass(frozen=True)
class Trained:
    """A model folder, the SHA-256 over its files, its last epoch's numbers, and its MLflow run ("": none)."""

    model: Path
    model_digest: str
    metrics: dict[str, float]
    run_id: str


def train_tracked(
    data: Path | str,
    output: Path,
    config: Config,
    workspace: Path,
    *,
    digest: str = "",
    code: str = "",
    dvc: Mapping[str, Any] | None = None,
    track: bool = True,
    resume: bool = True,
    checkpoints: Path | None = None,
    provenance: Path | None = None,
    profile: Path | None = None,
    run_id: str | None = None,
    saved: Callable[[Path], None] | None = None,
) -> Trained | None:
    """Train on the very data that were validated, and log the run to MLflow.

    Args:
        provenance: the file for the statement of what the model was made of. None: beside the model,
            `<output>.provenance.json`; the model folder itself tells nothing of time and place.
        profile: a file for a Chrome trace of a few steps.
        run_id: the MLflow run to go on with; None: a new one.
        saved: is called with each checkpoint's folder when it is complete.

    Returns:
        None on all but the main process of several.

    Raises:
        IntegrityError: the packed bytes are not those with this digest ("": with the recorded one).
        MeglError: something else than a model is at `output`, or a folder at `profile`.
    """
    from megl_core.training import check_places, train

    sections = (config.model, config.objective, config.train)
    code = code or code_digest()
    options: dict[str, Any] = {
        "resume": resume, "checkpoints": checkpoints, "code": code, "profile": profile,
        "saved": saved,
        "storage": config.storage,
    }  # fmt: skip
    is_main = os.environ.get("RANK", "0") == "0"
    if is_main:
        check_places(output, profile)
        digest = _verified(data, digest, config.storage)
    started = _now()

    def finished(result: "TrainResult", run_id: str) -> Trained:
        training = _training(result.model, config, digest, dvc, run_id, started)
        target = provenance or statement_file(output)
        write_json(target, training_statement(result.model, training))
        return Trained(result.model, result.model_digest, result.metrics, run_id)

    if not track or not is_main:
        result = train(data, output, *sections, **options)
        return finished(result, "") if result else None
    with start_run(config.registry, workspace, run_id=run_id, tags={"megl.code_digest": code}) as tracker:
        dvc_hash = str(dvc["md5"]) if dvc else None
        source = f"{dvc['repository']}/{dvc['path']}" if dvc else str(data)
        tracker.log_dataset(Path(source).name, digest, source, dvc_hash)
        result = train(data, output, *sections, tracker=tracker, **options)
        if result is None:
            return None
        tracker.set_tags({"megl.model_digest": result.model_digest})
        return finished(result, tracker.run_id)


def _training(
    model: Path,
    config: Config,
    digest: str,
    dvc: Mapping[str, Any] | None,
    run_id: str,
    started: str,
) -> Training:
    """What the training step knows of itself."""
    from megl_core.training.loop import TRAINING_FILE

    report = read_json(model / TRAINING_FILE)
    tree = config.model_dump(mode="json")
    return Training(
        sections={name: tree[name] for name in ("model", "objective", "train")},
        data_digest=digest,
        dvc=dvc,
        code_digest=code_digest(),
        checkpoints=report["checkpoints"],
        run_id=run_id,
        started=started,
        finished=_now(),
        processes=report["processes"],
    )


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _verified(data: Path | str, digest: str, storage: StorageConfig) -> str:
    """The digest of packed data, computed anew; on S3 from the index: images are checked when read."""
    if is_s3(str(data)):
        with open_packed(data, storage) as files:
            found = verify_index(files).digest
    else:
        found = verify(Path(data)).digest
    if digest not in ("", found):
        raise IntegrityError(
            f"the packed data have the digest {found[:12]}, not {digest[:12]}",
            where=str(data),
            fix="pack again: megl pipeline run --no-cache",
        )
    return found


def evaluate_tracked(
    model: Path,
    data: Path,
    output: Path,
    config: Config,
    workspace: Path,
    *,
    run_id: str,
    model_digest: str,
    digest: str,
) -> Evaluation:
    """Evaluate the very model that was trained on the very data that were packed; log to the model's run.

    Raises:
        IntegrityError: the model or the data no longer have their digests.
    """
    _verified(data, digest, config.storage)
    if sha256_tree(model) != model_digest:
        raise IntegrityError(
            "the model's files are not those that were trained",
            where=str(model),
            fix="train again: megl pipeline run --no-cache",
        )
    evaluation = evaluate(model, data, config.evaluation, output)
    if run_id:
        with start_run(config.registry, workspace, run_id=run_id, system_metrics=False) as tracker:
            for split, metrics in evaluation.metrics.items():
                tracker.log_metrics({f"{split}.{name}": value for name, value in metrics.items()})
            tracker.log_artifacts(output, "evaluation")
    return evaluation


def gate_against_champion(
    evaluated: Path, data: Path, output: Path, config: Config, workspace: Path
) -> tuple[GateResult, str]:
    """Judge an evaluation against the champion on the same bytes; write gate.json and what it stands on.

    Returns:
        The verdict, and the champion's version ("" where there is none).
    """
    uri = resolve_tracking_uri(config.registry, workspace)
    current = champion(config.registry.model_name, uri)
    challenger = evaluated / EVALUATION_FILE
    with tempfile.TemporaryDirectory() as folder:
        theirs = None
        if current is not None:
            theirs = champion_on(read_json(challenger), current, config, uri, data, Path(folder))
        result = compare(challenger, theirs / EVALUATION_FILE if theirs else None, config.gate)
        if theirs is not None:
            _keep_evidence(theirs, output / CHAMPION_FOLDER)
    write_json(output / GATE_FILE, result.to_json())
    verdict = "passed" if result.passed else "not passed"
    against = f"against version {current.version}" if current else "no champion yet"
    get_reporter().message(f"{verdict}, {against}")
    return result, str(current.version) if current else ""


def _keep_evidence(evaluated: Path, target: Path) -> None:
    """What the champion was judged by goes with the verdict."""
    for name in (EVALUATION_FILE, PREDICTIONS_FILE):
        if (evaluated / name).is_file():
            write_bytes(target / name, (evaluated / name).read_bytes())


def register_tracked(
    model: Path,
    evaluated: Path,
    verdict: Path,
    validated: Path,
    config: RegistryConfig,
    workspace: Path,
    *,
    provenance: Path,
    manifest: Path,
    run_id: str,
    digests: Mapping[str, str],
) -> RegisteredVersion:
    """Register a model with its reports and its provenance; the same bytes get the same version again."""
    version = register(
        model,
        _reports(evaluated, verdict, validated),
        config.model_name,
        resolve_tracking_uri(config, workspace),
        run_id,
        statement=provenance,
        manifest=manifest,
        signer=find_signer(config),
        tags={f"megl.{name}_digest": value for name, value in digests.items() if value},
        licence=config.licence,
    )
    get_reporter().message(f"{version.name} version {version.version}")
    return version


def _reports(evaluated: Path, verdict: Path, validated: Path) -> dict[str, Path]:
    """What is stored with a version, by its name there."""
    reports = {
        EVALUATION_FILE: evaluated / EVALUATION_FILE,
        PREDICTIONS_FILE: evaluated / PREDICTIONS_FILE,
        GATE_FILE: verdict / GATE_FILE,
        VALIDATION_FILE: validated / VALIDATION_FILE,
    }
    for name in (EVALUATION_FILE, PREDICTIONS_FILE):
        if (path := verdict / CHAMPION_FOLDER / name).is_file():
            reports[f"{CHAMPION_FOLDER}/{name}"] = path
    return reports


def promote_if_passed(
    config: Config, workspace: Path, version: int, stage: str, *, passed: bool, reason: str
) -> str:
    """Move a version that passes all gates up to a stage; returns its stage afterwards.

    A version in a higher stage stays there, and so does one that somebody archived. Where the approval of
    people is demanded, it is requested.
    """
    name, uri = config.registry.model_name, resolve_tracking_uri(config.registry, workspace)
    reporter = get_reporter()
    current = show_version(name, version, uri)
    target = Stage(stage)
    if passed and current.stage in _BELOW[target]:
        try:
            current = promote_judged(name, version, target, config, uri, reason=reason)
        except ApprovalMissingError as error:
            _ask_for_approval(name, version, target, uri, reason)
            reporter.message(f"waiting: {error.what}")
        except GateError as error:
            reporter.message(f"not promoted: {error.what}")
    reporter.message(f"version {version} is in stage {current.stage}")
    return current.stage.value


def promote_or_fail(
    config: Config, workspace: Path, reference: str, stage: str, *, reason: str
) -> dict[str, Any]:
    """Move a version (number or alias) to a stage; its approval is requested where people must give it.

    A version that is in the stage already stays there. Returns the run's result: model, version, stage.

    Raises:
        GateError: the gates do not pass, or an approval is missing.
        ConfigError: there is no such version.
    """
    name, uri = config.registry.model_name, resolve_tracking_uri(config.registry, workspace)
    current = show_version(name, reference, uri)
    target = Stage(stage)
    if current.stage is not target:
        try:
            current = promote_judged(name, current.version, target, config, uri, reason=reason)
        except ApprovalMissingError:
            _ask_for_approval(name, current.version, target, uri, reason)
            raise
    get_reporter().message(f"version {current.version} is in stage {current.stage}")
    return {
        "model_name": name,
        "model_digest": current.model_digest,
        "version": current.version,
        "stage": current.stage.value,
        "tracking_uri": redact(uri),
    }


def _ask_for_approval(name: str, version: int, stage: Stage, tracking_uri: str, reason: str) -> None:
    with contextlib.suppress(ConfigError):  # it was asked for already
        request(name, version, stage, tracking_uri, reason=reason)


def promote_judged(
    name: str,
    version: int,
    stage: Stage,
    config: Config,
    tracking_uri: str,
    *,
    reason: str,
    data: Path | None = None,
    force: bool = False,
    show: Callable[[Verdict], None] | None = None,
) -> RegisteredVersion:
    """Look at the gates where the stage has some, and promote; the errors are those of `stages.promote`.

    Where another version goes into Production in between, the gates are looked at once more, against that.

    Args:
        data: packed test data to compare both on, where their registered evaluations do not compare.
        force: promote whatever the gates say, even where they cannot be looked at.
        show: is given each verdict before it counts.
    """

    def attempt() -> RegisteredVersion:
        verdict = _verdict(name, version, config, tracking_uri, data, force=force) if stage in GATED else None
        if verdict and show:
            show(verdict)
        return promote(
            name,
            version,
            stage,
            tracking_uri,
            reason=reason,
            verdict=verdict,
            approvals=approvals_needed(config.promotion, stage),
            force=force,
        )

    try:
        return attempt()
    except ProductionChangedError as error:
        get_reporter().message(f"{error.what}; judging once more")
        return attempt()


def _verdict(
    name: str, version: int, config: Config, tracking_uri: str, data: Path | None, *, force: bool
) -> Verdict | None:
    try:
        return judge(name, version, config, tracking_uri, data)
    except MeglError as error:
        if not force:
            raise
        get_reporter().message(f"the gates could not be looked at: {error.what}")
        return None


def report_run(
    model: Path,
    evaluated: Path,
    validated: Path,
    verdict: Path,
    output: Path,
    config: RegistryConfig,
    workspace: Path,
    *,
    version: int,
    stage: str,
    sources: Mapping[str, str],
) -> str:
    """Write the run's page; returns the run's result as JSON, for whoever started the pipeline."""
    evaluation = read_json(evaluated / EVALUATION_FILE)
    gate = read_json(verdict / GATE_FILE)
    validation = read_json(validated / VALIDATION_FILE)
    registered = {"name": config.model_name, "version": version, "stage": stage}
    write_report(
        output,
        evaluation=evaluated,
        training=model,
        validation=validated / VALIDATION_FILE,
        gate=verdict / GATE_FILE,
        version=registered,
        provenance=dict(sources),
    )
    return json.dumps(
        {
            "data_digest": evaluation["data_digest"],
            "gate": gate,
            "gate_passed": gate["passed"],
            "main_splits": [evaluation["primary_split"], evaluation["shifted_split"]],
            "metrics": evaluation["metrics"],
            "model": str(model),
            "model_digest": evaluation["model_digest"],
            "model_name": config.model_name,
            "num_samples": validation["num_rows"],
            "report": str(output),
            "run_id": sources["run"],
            "stage": stage,
            "tracking_uri": redact(resolve_tracking_uri(config, workspace)),
            "version": version,
        }
    )
