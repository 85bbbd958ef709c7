"""Compare a new model with the champion."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    evaluated: dsl.Input[dsl.Artifact],
    packed: dsl.Input[dsl.Dataset],
    workspace: str,
    registry: str,
    evaluation: str,
    gate: str,
    verdict: dsl.Output[dsl.Artifact],
) -> NamedTuple("Gated", [("passed", bool), ("champion", str)]):
    """Apply the promotion rules to a model and the champion of this moment.

    Args:
        evaluated: Evaluation of the new model.
        packed: Packed data; a champion that was evaluated on other data is evaluated on these.
        workspace: Folder of the local registry.
        registry: The `registry` section of the configuration, as JSON.
        evaluation: The `evaluation` section of the configuration, as JSON.
        gate: The `gate` section of the configuration, as JSON.
        verdict: Folder with gate.json.

    Returns:
        passed: whether every rule holds, champion: the version compared with, or an empty string.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.registry.steps import gate_against_champion

    with progress.step("gate"):
        settings = config.read_sections(registry=registry, evaluation=evaluation, gate=gate)
        result, champion = gate_against_champion(
            Path(evaluated.path), Path(packed.path), Path(verdict.path), settings, Path(workspace)
        )
    return (result.passed, champion)
