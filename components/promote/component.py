"""Move a version to a stage."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    version: str,
    passed: bool,
    stage: str,
    workspace: str,
    registry: str,
    evaluation: str,
    gate: str,
    promotion: str,
) -> str:
    """Promote a version that passes all gates; leave one that does not where it is.

    Args:
        version: The version's number.
        passed: The gate's verdict.
        stage: Stage to promote to: Staging or Production.
        workspace: Folder of the local registry.
        registry: The `registry` section of the configuration, as JSON.
        evaluation: The `evaluation` section of the configuration, as JSON.
        gate: The `gate` section of the configuration, as JSON.
        promotion: The `promotion` section of the configuration, as JSON.

    Returns:
        The version's stage afterwards.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.provenance import source
    from megl_core.registry.steps import promote_if_passed

    with progress.step("promote"):
        settings = config.read_sections(
            registry=registry, evaluation=evaluation, gate=gate, promotion=promotion
        )
        return promote_if_passed(
            settings,
            Path(workspace),
            int(version),
            stage,
            passed=passed,
            reason=f"the gates passed in the pipeline run {source.pipeline_run() or 'without a name'}",
        )
