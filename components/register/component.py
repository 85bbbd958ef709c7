"""Register a model with MLflow."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    trained: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    validated: dsl.Input[dsl.Artifact],
    provenance: dsl.Input[dsl.Artifact],
    manifest: dsl.Input[dsl.Dataset],
    model_digest: str,
    digest: str,
    code: str,
    dvc: str,
    run_id: str,
    workspace: str,
    registry: str,
) -> str:
    """Register the model as a new version, or find the version that these very bytes have already.

    Args:
        trained: The model folder.
        evaluated: Its evaluation.
        verdict: The gate's verdict.
        validated: The data's validation report.
        provenance: The statement of what the model was made of.
        manifest: The data's manifest.
        model_digest: Digest of the model.
        digest: Digest of the data.
        code: Digest of the code.
        dvc: DVC version of the dataset, as JSON.
        run_id: MLflow run that made the model.
        workspace: Folder of the local registry.
        registry: The `registry` section of the configuration, as JSON.

    Returns:
        The version's number.
    """
    import json
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.registry.steps import register_tracked

    with progress.step("register"):
        version = register_tracked(
            Path(trained.path),
            Path(evaluated.path),
            Path(verdict.path),
            Path(validated.path),
            config.read_sections(registry=registry).registry,
            Path(workspace),
            provenance=Path(provenance.path),
            manifest=Path(manifest.path),
            run_id=run_id,
            digests={"model": model_digest, "data": digest, "code": code, "dvc": json.loads(dvc)["md5"]},
        )
    return str(version.version)
