"""What pipelines are put together from: tasks that find their inputs by name, and shared parts."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kfp import dsl
from kfp.dsl import PipelineTask

from megl_core.config import PodsConfig
from pipelines.tasks import gpus, settle

LEARNING = ("validate", "pack", "train", "evaluate", "gate", "register", "promote", "report")
"""The steps of `Parts.learn`, in order."""


class Parts:
    """Makes the tasks of one pipeline.

    A component's input that has the name of something shared (a section of the configuration, the
    workspace, an output of an earlier step) gets it; a task names the others only.
    """

    def __init__(self, pods: PodsConfig | None, shared: Mapping[str, Any]) -> None:
        """Begin a pipeline.

        Args:
            pods: settings of the pods; None: the pipeline runs on this machine.
            shared: the pipeline's parameters.
        """
        self.pods = pods
        self.shared = dict(shared)

    def task(self, step: str, **inputs: Any) -> PipelineTask:
        """The step's task, with its limits, retries and pod."""
        component = getattr(importlib.import_module(f"components.{step}.component"), step)
        known = component.component_spec.inputs or {}
        given = {name: value for name, value in self.shared.items() if name in known}
        task = component(**{**given, **inputs})
        settle(task, step, self.pods)
        return task

    @contextmanager
    def run(self) -> Iterator[PipelineTask]:
        """All of a run: prerequisites first, and at every end the notification. Yields the prerequisites."""
        end = self.task("notify")
        with dsl.ExitHandler(end, name="run"):
            num_gpus = gpus(self.pods) if self.pods else 0
            checked = self.task("prerequisites", gpus=num_gpus)
            self._share(checked, "code", "store")
            yield checked

    def ingest(self, after: PipelineTask) -> PipelineTask:
        """The dataset, as it is now."""
        ingested = self.task("ingest").after(after)
        self._share(ingested, "dvc", "labels", "manifest", "dataset")
        return ingested

    def learn(self, digest: Any, **reference: Any) -> None:
        """Everything between a dataset and a reported model.

        Args:
            digest: root digest of the dataset.
            reference: inputs of the validation: a manifest to measure drift against.
        """
        validated = self.task("validate", digest=digest, **reference)
        packed = self.task("pack", digest=digest).after(validated)
        of_packed = packed.outputs["Output"]
        self._share(packed, "packed")
        self._share(self.task("train", digest=of_packed), "trained", "model_digest", "run_id", "provenance")
        self._share(self.task("evaluate", digest=of_packed), "evaluated")
        gated = self.task("gate")
        self._share(gated, "verdict")
        self.shared["validated"] = validated.outputs["report"]
        registered = self.task("register", digest=digest)
        promoted = self.task("promote", version=registered.output, passed=gated.outputs["passed"])
        self.task("report", version=registered.output, stage=promoted.output)

    def _share(self, task: PipelineTask, *outputs: str) -> None:
        """Let later tasks have outputs of this one by their names."""
        self.shared |= {name: task.outputs[name] for name in outputs}
