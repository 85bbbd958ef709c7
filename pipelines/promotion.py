"""The promotion pipeline: moves a registered version to a stage if its gates pass, and fails if not."""

from typing import Any

from kfp import dsl

from megl_core.config import PodsConfig
from pipelines.parts import Parts

STEPS = ("prerequisites", "promote", "notify")
_NOTHING = "{}"


def build(pods: PodsConfig | None) -> Any:
    """The pipeline, for pods with these settings; None: for this machine."""
    others = {step: own for step, own in pods.steps.items() if step != "train"} if pods else {}
    modest = pods and pods.model_copy(update={"steps": others})  # the prerequisites ask for no GPU then

    @dsl.pipeline(name="megl-promotion", description="Move a registered version to a stage.")
    def promotion(
        workspace: str,
        evaluation: str,
        gate: str,
        promotion: str,
        registry: str,
        version: str = "staging",
        stage: str = "Production",
        reason: str = "",
    ) -> None:
        """Promote a version, or ask for the approvals that it lacks.

        Args:
            workspace: Folder of the local registry.
            evaluation: Section of the configuration, as JSON.
            gate: Section of the configuration, as JSON.
            promotion: Section of the configuration, as JSON.
            registry: Section of the configuration, as JSON.
            version: Number or alias.
            stage: Where to.
            reason: Why, for the record.
        """
        # Nothing is read, trained or stored elsewhere: those prerequisites are none.
        given = locals() | dict.fromkeys(("data", "train", "cluster", "storage"), _NOTHING)
        parts = Parts(modest, given)
        with parts.run() as checked:
            parts.task("promote", required=True).after(checked)

    return promotion
