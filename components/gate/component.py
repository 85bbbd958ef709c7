"""Compare a new model with the champion."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    evaluated: dsl.Input[dsl.Artifact],
    model_digest: str,
    workspace: str,
    registry: dict,
    gate: dict,
    verdict: dsl.Output[dsl.Artifact],
) -> NamedTuple("Gated", [("passed", bool), ("champion", str)]):
    """Apply the promotion rules to a model and the champion of this moment.

    Args:
        evaluated: Evaluation of the new model.
        model_digest: Digest of the new model.
        workspace: Folder of the local registry.
        registry: The `registry` section of the configuration.
        gate: The `gate` section of the configuration.
        verdict: Folder with gate.json.

    Returns:
        passed: whether every rule holds, champion: the version compared with, or an empty string.
    """
    from pathlib import Path

    from megl_core.registry.tracked import gate_against_champion

    from megl_core import config, progress

    with progress.step("gate"):
        settings = config.parse(config.Config, {"registry": registry, "gate": gate}, where="gate")
        result, champion = gate_against_champion(
            Path(evaluated.path), Path(verdict.path), settings, Path(workspace)
        )
    return (result.passed, champion)
