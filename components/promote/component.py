"""Move a version to a stage."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    version: str,
    stage: str,
    workspace: str,
    registry: str,
    evaluation: str,
    gate: str,
    promotion: str,
    passed: bool = True,
    reason: str = "",
    required: bool = False,
) -> str:
    """Promote a version that passes all gates; leave one that does not where it is, or fail.

    Args:
        version: The version's number, or one of its aliases.
        stage: Stage to promote to: Staging or Production.
        workspace: Folder of the local registry.
        registry: The `registry` section of the configuration, as JSON.
        evaluation: The `evaluation` section of the configuration, as JSON.
        gate: The `gate` section of the configuration, as JSON.
        promotion: The `promotion` section of the configuration, as JSON.
        passed: The verdict of the gate on what was just trained; every promotion looks at the gates itself.
        reason: Why, for the record. Empty: that the gates passed in this run.
        required: Fail where the version is not in the stage afterwards, and leave the run's result.

    Returns:
        The version's stage afterwards.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.operations.outcome import write_result
    from megl_core.provenance import source
    from megl_core.registry.steps import promote_if_passed, promote_or_fail

    with progress.step("promote"):
        settings = config.read_sections(
            registry=registry, evaluation=evaluation, gate=gate, promotion=promotion
        )
        run = source.pipeline_run()
        reason = reason or f"the gates passed in the pipeline run {run or 'without a name'}"
        if required:
            result = promote_or_fail(settings, Path(workspace), version, stage, reason=reason)
            write_result(Path(workspace), run, result)
            return result["stage"]
        return promote_if_passed(settings, Path(workspace), int(version), stage, passed=passed, reason=reason)
