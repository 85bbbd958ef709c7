"""The training pipeline: from a source of images to a registered, promoted, reported model.

Digests travel as parameters beside the artifacts, so that a cached step is reused for the same bytes
and for them only. Steps that look at the world outside the pipeline (the source, the registry) are
never cached; they are cheap, and what they return decides about the rest.
"""

from kfp import dsl

from components.evaluate.component import evaluate as evaluate_step
from components.gate.component import gate as gate_step
from components.ingest.component import ingest as ingest_step
from components.pack.component import pack as pack_step
from components.promote.component import promote as promote_step
from components.register.component import register as register_step
from components.report.component import report as report_step
from components.train.component import train as train_step
from components.validate.component import validate as validate_step

STEPS = ("ingest", "validate", "pack", "train", "evaluate", "gate", "register", "promote", "report")
NEVER_CACHED = ("ingest", "gate", "register", "promote", "report")


@dsl.pipeline(
    name="megl-training",
    description="From a source of images to a registered, promoted and reported model.",
)
def training(
    workspace: str,
    code: str,
    store: str,
    data: str,
    validation: str,
    pack: str,
    model: str,
    objective: str,
    train: str,
    evaluation: str,
    gate: str,
    promotion: str,
    registry: str,
    cluster: str,
    storage: str,
    stage: str = "Staging",
) -> str:
    """Train, judge and register a model.

    Args:
        workspace: Folder of datasets, tracking store and reports.
        code: Digest of the code, so that changed code is not served old results.
        store: Digest of the tracking server's address, because a run lives in one server only.
        data: Section of the configuration, as JSON.
        validation: Section of the configuration, as JSON.
        pack: Section of the configuration, as JSON.
        model: Section of the configuration, as JSON.
        objective: Section of the configuration, as JSON.
        train: Section of the configuration, as JSON.
        evaluation: Section of the configuration, as JSON.
        gate: Section of the configuration, as JSON.
        promotion: Section of the configuration, as JSON.
        registry: Section of the configuration, as JSON.
        cluster: Section of the configuration, as JSON.
        storage: Section of the configuration, as JSON.
        stage: Stage for a model that passes the gate.

    Returns:
        The run's result as JSON.
    """
    ingested = ingest_step(workspace=workspace, data=data)
    digest = ingested.outputs["digest"]
    dataset = {
        "dataset": ingested.outputs["dataset"],
        "manifest": ingested.outputs["manifest"],
        "digest": digest,
        "code": code,
        "labels": ingested.outputs["labels"],
    }
    validated = validate_step(**dataset, validation=validation)
    packed = pack_step(**dataset, pack=pack).after(validated)
    trained = train_step(
        packed=packed.outputs["packed"],
        digest=packed.outputs["Output"],
        code=code,
        dvc=ingested.outputs["dvc"],
        store=store,
        workspace=workspace,
        registry=registry,
        model=model,
        objective=objective,
        train=train,
        cluster=cluster,
        storage=storage,
    )
    evaluated = evaluate_step(
        trained=trained.outputs["trained"],
        packed=packed.outputs["packed"],
        model_digest=trained.outputs["model_digest"],
        digest=packed.outputs["Output"],
        code=code,
        run_id=trained.outputs["run_id"],
        store=store,
        workspace=workspace,
        registry=registry,
        evaluation=evaluation,
    )
    gated = gate_step(
        evaluated=evaluated.outputs["evaluated"],
        packed=packed.outputs["packed"],
        workspace=workspace,
        registry=registry,
        evaluation=evaluation,
        gate=gate,
    )
    registered = register_step(
        trained=trained.outputs["trained"],
        evaluated=evaluated.outputs["evaluated"],
        verdict=gated.outputs["verdict"],
        validated=validated.outputs["report"],
        provenance=trained.outputs["provenance"],
        manifest=ingested.outputs["manifest"],
        model_digest=trained.outputs["model_digest"],
        digest=digest,
        code=code,
        dvc=ingested.outputs["dvc"],
        run_id=trained.outputs["run_id"],
        workspace=workspace,
        registry=registry,
    )
    promoted = promote_step(
        version=registered.output,
        passed=gated.outputs["passed"],
        stage=stage,
        workspace=workspace,
        registry=registry,
        evaluation=evaluation,
        gate=gate,
        promotion=promotion,
    )
    reported = report_step(
        trained=trained.outputs["trained"],
        evaluated=evaluated.outputs["evaluated"],
        validated=validated.outputs["report"],
        verdict=gated.outputs["verdict"],
        dvc=ingested.outputs["dvc"],
        code=code,
        run_id=trained.outputs["run_id"],
        version=registered.output,
        stage=promoted.output,
        workspace=workspace,
        registry=registry,
    )
    for task in (ingested, gated, registered, promoted, reported):
        task.set_caching_options(enable_caching=False)
    return reported.outputs["Output"]
