"""Write the run's report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    trained: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    validated: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    dvc: str,
    code: str,
    run_id: str,
    version: str,
    stage: str,
    workspace: str,
    registry: str,
    page: dsl.Output[dsl.HTML],
) -> str:
    """Write one self-contained HTML page about the run.

    Args:
        trained: The model folder.
        evaluated: Its evaluation.
        validated: The data's validation report.
        verdict: The gate's verdict.
        dvc: DVC version of the dataset, as JSON.
        code: Digest of the code.
        run_id: MLflow run that made the model.
        version: The registered version.
        stage: Its stage.
        workspace: Folder of reports.
        registry: The `registry` section of the configuration, as JSON.
        page: The page.

    Returns:
        The run's result as JSON, for the command line.
    """
    import json
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.operations.outcome import write_result
    from megl_core.provenance import source
    from megl_core.registry.steps import report_run

    settings = config.read_sections(registry=registry).registry
    target = Path(workspace) / "reports" / f"{settings.model_name}-v{version}.html"
    page.uri = str(target)
    with progress.step("report"):
        result = report_run(
            Path(trained.path),
            Path(evaluated.path),
            Path(validated.path),
            Path(verdict.path),
            target,
            settings,
            Path(workspace),
            version=int(version),
            stage=stage,
            sources={"run": run_id, "code": code, "dvc": json.loads(dvc)["md5"]},
        )
        write_result(Path(workspace), source.pipeline_run(), json.loads(result))
    return result
