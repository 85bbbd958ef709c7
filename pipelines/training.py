"""The training pipeline: from a source of images to a registered, promoted, reported model.

Digests travel as parameters beside the artifacts, so that a cached step is reused for the same bytes
and for them only. Steps that look at the world outside the pipeline (the source, the registry) are
never cached; they are cheap, and what they return decides about the rest.
"""

from typing import Any

from kfp import dsl

from megl_core.config import PodsConfig
from pipelines.parts import LEARNING, Parts

STEPS = ("prerequisites", "ingest", *LEARNING, "notify")


def build(pods: PodsConfig | None) -> Any:
    """The pipeline, for pods with these settings; None: for this machine."""

    @dsl.pipeline(
        name="megl-training",
        description="From a source of images to a registered, promoted and reported model.",
    )
    def training(
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
        registry: str,
        storage: str,
        cluster: str,
        stage: str = "Staging",
    ) -> None:
        """Train, judge and register a model.

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
            registry: Section of the configuration, as JSON.
            storage: Section of the configuration, as JSON.
            cluster: Section of the configuration, as JSON.
            stage: Stage for a model that passes the gate.
        """
        parts = Parts(pods, locals())
        with parts.run() as checked:
            ingested = parts.ingest(checked)
            parts.learn(ingested.outputs["digest"])

    return training
