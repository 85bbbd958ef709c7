"""The pipelines by name: what they are, and what they are called with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megl_core.config import Config, PodsConfig
from megl_core.errors import ConfigError
from megl_core.files import canonical_json
from pipelines import promotion, retraining, training


@dataclass(frozen=True)
class Pipeline:
    """One pipeline.

    Attributes:
        steps: names of its steps, in the order in which they run.
        build: makes it for pods with such settings, or for this machine (None).
        stage: where a model goes that passes the gates, unless another stage is asked for.
        options: what a run may be told beside settings and stage.
    """

    name: str
    steps: tuple[str, ...]
    build: Callable[[PodsConfig | None], Any]
    stage: str
    options: frozenset[str] = frozenset()


PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline("training", training.STEPS, training.build, "Staging"),
        Pipeline("retraining", retraining.STEPS, retraining.build, "Staging"),
        Pipeline(
            "promotion",
            promotion.STEPS,
            promotion.build,
            "Production",
            frozenset({"version", "reason"}),
        ),
    )
}


def find_pipeline(name: str) -> Pipeline:
    """A pipeline by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PIPELINES:
        raise ConfigError(f"no pipeline {name!r}", fix=f"choose one of {', '.join(PIPELINES)}")
    return PIPELINES[name]


def arguments(
    pipeline: Pipeline, config: Config, workspace: Path, *, stage: str | None = None, **options: str | None
) -> dict[str, Any]:
    """A run's parameters, its sections as JSON: KFP's mappings hold no null and make floats of integers.

    Args:
        stage: None: the pipeline's own.
        options: None: the default of the pipeline.

    Raises:
        ConfigError: the pipeline knows no such option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(given) - pipeline.options):
        raise ConfigError(
            f"the pipeline {pipeline.name!r} takes no --{unknown[0]}", fix="only promotion does: leave it out"
        )
    sections = config.model_dump(mode="json", exclude={"pods"})
    wanted = pipeline.build(None).pipeline_spec.root.input_definitions.parameters
    known = {
        "workspace": str(workspace),
        "stage": stage or pipeline.stage,
        **given,
        **{name: canonical_json(section).decode() for name, section in sections.items()},
    }
    return {name: value for name, value in known.items() if name in wanted}
