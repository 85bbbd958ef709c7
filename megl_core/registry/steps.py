"""The pipeline's steps with tracking and registry around them, as commands and components call them."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megl_core.code import code_digest
from megl_core.config import Config, RegistryConfig
from megl_core.data.packed import verify
from megl_core.errors import IntegrityError
from megl_core.evaluation import EVALUATION_FILE, Evaluation, evaluate
from megl_core.evaluation.report import write_report
from megl_core.files import read_json, sha256_tree, write_json
from megl_core.progress import get_reporter
from megl_core.redaction import redact
from megl_core.registry.fetching import fetch_evaluation, fetch_model
from megl_core.registry.gate import GateResult, compare
from megl_core.registry.registration import register
from megl_core.registry.stages import promote
from megl_core.registry.tracking import resolve_tracking_uri, start_run
from megl_core.registry.versions import (
    RegisteredVersion,
    Stage,
    champion,
    show_version,
)

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
    data: Path,
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
) -> Trained | None:
    """Train on the very data that were validated, and log the run to MLflow.

    Returns:
        None on all but the main process of several.

    Raises:
        IntegrityError: the packed bytes are not those with this digest ("": with the recorded one).
    """
    from megl_core.training import train

    sections = (config.model, config.objective, config.train)
    code = code or code_digest()
    options: dict[str, Any] = {"resume": resume, "checkpoints": checkpoints, "code": code}
    is_main = os.environ.get("RANK", "0") == "0"
    if is_main:
        digest = _verified(data, digest)
    if not track or not is_main:
        result = train(data, output, *sections, **options)
        return Trained(result.model, result.model_digest, result.metrics, "") if result else None
    with start_run(config.registry, workspace, tags={"megl.code_digest": code}) as tracker:
        dvc_hash = str(dvc["md5"]) if dvc else None
        source = f"{dvc['repository']}/{dvc['path']}" if dvc else str(data)
        tracker.log_dataset(Path(source).name, digest, source, dvc_hash)
        result = train(data, output, *sections, tracker=tracker, **options)
        if result is None:
            return None
        tracker.set_tags({"megl.model_digest": result.model_digest})
        return Trained(result.model, result.model_digest, result.metrics, tracker.run_id)


def _verified(data: Path, digest: str) -> str:
    """The digest of packed data, computed anew."""
    found = verify(data).digest
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
    _verified(data, digest)
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
    """Judge an evaluation against the champion on the same bytes; write gate.json.

    Returns:
        The verdict, and the champion's version ("" where there is none).
    """
    uri = resolve_tracking_uri(config.registry, workspace)
    current = champion(config.registry.model_name, uri)
    challenger = evaluated / EVALUATION_FILE
    with tempfile.TemporaryDirectory() as folder:
        theirs = None
        if current is not None:
            theirs = _champion_on(read_json(challenger), current, data, config, uri, Path(folder))
        result = compare(challenger, theirs, config.gate)
    write_json(output / GATE_FILE, result.to_json())
    verdict = "passed" if result.passed else "not passed"
    against = f"against version {current.version}" if current else "no champion yet"
    get_reporter().message(f"{verdict}, {against}")
    return result, str(current.version) if current else ""


def _champion_on(
    challenger: Mapping[str, Any],
    current: RegisteredVersion,
    data: Path,
    config: Config,
    uri: str,
    folder: Path,
) -> Path:
    """The champion's evaluation on the challenger's data in the challenger's way, made now if need be."""
    registered = fetch_evaluation(current.name, current.version, uri, folder / "registered.json")
    theirs = read_json(registered)
    if all(theirs.get(name) == challenger[name] for name in ("data_digest", "method_digest")):
        return registered
    model = fetch_model(current.name, current.version, uri, folder / "model")
    return evaluate(model, data, config.evaluation, folder / "evaluated").folder / EVALUATION_FILE


def register_tracked(
    model: Path,
    evaluated: Path,
    verdict: Path,
    config: RegistryConfig,
    workspace: Path,
    *,
    run_id: str,
    digests: Mapping[str, str],
) -> RegisteredVersion:
    """Register a model with its reports; the same bytes get the same version again."""
    tags = {f"megl.{name}_digest": value for name, value in digests.items() if value}
    version = register(
        model,
        evaluated / EVALUATION_FILE,
        verdict / GATE_FILE,
        config.model_name,
        resolve_tracking_uri(config, workspace),
        run_id,
        tags,
        config.licence,
    )
    get_reporter().message(f"{version.name} version {version.version}")
    return version


def promote_if_passed(
    config: RegistryConfig, workspace: Path, version: int, stage: str, *, passed: bool
) -> str:
    """Move a version that passed the gate up to a stage; returns its stage afterwards.

    A version in a higher stage stays there, and so does one that somebody archived.
    """
    uri = resolve_tracking_uri(config, workspace)
    current = show_version(config.model_name, version, uri)
    if passed and current.stage in _BELOW[Stage(stage)]:
        current = promote(config.model_name, version, Stage(stage), uri)
    get_reporter().message(f"version {version} is in stage {current.stage.value}")
    return current.stage.value


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
