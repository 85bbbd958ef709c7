"""Move a version to a stage."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(version: str, passed: bool, stage: str, workspace: str, registry: str) -> str:
    """Promote a version that passed the gate; leave one that did not where it is.

    Args:
        version: The version's number.
        passed: The gate's verdict.
        stage: Stage to promote to: Staging or Production.
        workspace: Folder of the local registry.
        registry: The `registry` section of the configuration, as JSON.

    Returns:
        The version's stage afterwards.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.registry.steps import promote_if_passed

    with progress.step("promote"):
        settings = config.read_sections(registry=registry).registry
        return promote_if_passed(settings, Path(workspace), int(version), stage, passed=passed)
