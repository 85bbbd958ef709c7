"""Evaluate a model: accuracy, heat maps, rationales."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    trained: dsl.Input[dsl.Model],
    packed: dsl.Input[dsl.Dataset],
    model_digest: str,
    digest: str,
    code: str,
    run_id: str,
    store: str,
    workspace: str,
    registry: str,
    evaluation: str,
    evaluated: dsl.Output[dsl.Artifact],
) -> dict:
    """Evaluate a model on every held-out split.

    Args:
        trained: The model folder.
        packed: Packed data.
        model_digest: Digest of the model.
        digest: Digest of the data.
        code: Digest of the code.
        run_id: MLflow run that made the model; it receives the metrics.
        store: Digest of the tracking server's address.
        workspace: Folder of the local tracking store.
        registry: The `registry` section of the configuration, as JSON.
        evaluation: The `evaluation` section of the configuration, as JSON.
        evaluated: Folder with evaluation.json, predictions.parquet and the gallery.

    Returns:
        Metrics of each split.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.registry.steps import evaluate_tracked

    with progress.step("evaluate"):
        settings = config.read_sections(registry=registry, evaluation=evaluation)
        return evaluate_tracked(
            Path(trained.path),
            Path(packed.path),
            Path(evaluated.path),
            settings,
            Path(workspace),
            run_id=run_id,
            model_digest=model_digest,
            digest=digest,
        ).metrics
