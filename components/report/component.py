"""Write the run's report."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    trained: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    validated: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    provenance: dict,
    version: str,
    stage: str,
    workspace: str,
    registry: dict,
    page: dsl.Output[dsl.HTML],
) -> str:
    """Write one self-contained HTML page about the run.

    Args:
        trained: The model folder.
        evaluated: Its evaluation.
        validated: The data's validation report.
        verdict: The gate's verdict.
        provenance: Digests of what went in.
        version: The registered version.
        stage: Its stage.
        workspace: Folder of reports.
        registry: The `registry` section of the configuration.
        page: The page.

    Returns:
        The run's result as JSON, for the command line.
    """
    from pathlib import Path

    from megl_core.registry.tracked import report_run

    from megl_core import config, progress

    settings = config.parse(config.RegistryConfig, registry, where="registry")
    target = Path(workspace) / "reports" / f"{settings.model_name}-v{version}.html"
    page.uri = str(target)
    with progress.step("report"):
        return report_run(
            Path(trained.path),
            Path(evaluated.path),
            Path(validated.path),
            Path(verdict.path),
            target,
            settings,
            Path(workspace),
            version=version,
            stage=stage,
            provenance=provenance,
        )
