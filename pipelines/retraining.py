"""The retraining pipeline: trains if there is anything new, and else ends early and says so.

What is new is measured against the data of the champion, which stand in the registry by their manifest.
"""

from typing import Any

from kfp import dsl

from megl_core.config import PodsConfig
from pipelines.parts import LEARNING, Parts

STEPS = ("prerequisites", "ingest", "novelty", *LEARNING, "notify")


def build(pods: PodsConfig | None) -> Any:
    """The pipeline, for pods with these settings; None: for this machine."""

    @dsl.pipeline(
        name="megl-retraining",
        description="Train, judge and register a model if the data are other than the champion's.",
    )
    def retraining(
        workspace: str,
        data: str,
        validation: str,
        pack: str,
        model: str,
        objective: str,
        train: str,
        evaluation: str,
        gate: str,
        promotion: str,
        retraining: str,
        registry: str,
        storage: str,
        cluster: str,
        stage: str = "Staging",
    ) -> None:
        """Train again where that may change anything.

        Args:
            workspace: Folder of datasets, tracking store and reports.
            data: Section of the configuration, as JSON.
            validation: Section of the configuration, as JSON.
            pack: Section of the configuration, as JSON.
            model: Section of the configuration, as JSON.
            objective: Section of the configuration, as JSON.
            train: Section of the configuration, as JSON.
            evaluation: Section of the configuration, as JSON.
            gate: Section of the configuration, as JSON.
            promotion: Section of the configuration, as JSON.
            retraining: Section of the configuration, as JSON.
            registry: Section of the configuration, as JSON.
            storage: Section of the configuration, as JSON.
            cluster: Section of the configuration, as JSON.
            stage: Stage for a model that passes the gate.
        """
        parts = Parts(pods, locals())
        with parts.run() as checked:
            digest = parts.ingest(checked).outputs["digest"]
            found = parts.task("novelty", digest=digest, steps=list(LEARNING))
            with dsl.If(found.outputs["Output"] == True, name="anything-new"):  # noqa: E712 (KFP's condition)
                parts.learn(
                    digest,
                    reference=found.outputs["reference"],
                    reference_digest=found.outputs["reference_digest"],
                )

    return retraining
