"""What a search may try: ranges and choices for settings of the configuration, and what it looks for.

score: {val_accuracy: 1, val_energy_in_mask: 1}
parameters:
  objective.visual: {low: 0.1, high: 10, log: true}
  train.epochs: {low: 4, high: 16, step: 4}
  model.saliency: {choices: [centered, plain]}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from megl_core.config import Config, Section, changed, parse, read_yaml
from megl_core.errors import ConfigError

SECTIONS = ("model", "objective", "train")
"""Sections of the configuration that a search may change: what a training run reads."""
METRICS = ("val_accuracy", "val_energy_in_mask")
"""What every epoch measures on the validation split, in [0, 1]."""

Value = bool | int | float | str | None


class Range(Section):
    """Numbers from `low` to `high`, both included; whole numbers where all three are whole."""

    low: int | float
    high: int | float
    step: int | float | None = Field(None, gt=0)
    log: bool = False
    """Equal shares of the trials for equal ratios."""

    @model_validator(mode="after")
    def _be_a_range(self) -> "Range":
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a logarithmic range begins above 0 and has no step")
        if self.step is not None and not is_near_whole((self.high - self.low) / self.step):
            raise ValueError("steps from low do not end at high")
        return self

    @property
    def is_whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def examples(self) -> tuple[Value, ...]:
        return self.low, self.high


class Choices(Section):
    """One of several values."""

    choices: list[Value] = Field(min_length=2)

    @property
    def examples(self) -> tuple[Value, ...]:
        return tuple(self.choices)


def _kind(values: Any) -> str:
    """The tag of a range or of choices; in brackets, so that messages leave it out."""
    has_choices = "choices" in values if isinstance(values, Mapping) else isinstance(values, Choices)
    return "(choices)" if has_choices else "(range)"


Values = Annotated[
    Annotated[Range, Tag("(range)")] | Annotated[Choices, Tag("(choices)")], Discriminator(_kind)
]


class Space(Section):
    """Settings by dotted name, and the weights of the metrics that are to be maximised."""

    parameters: dict[str, Values] = Field(min_length=1)
    score: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(METRICS, 1.0))

    @model_validator(mode="after")
    def _look_at_known_metrics(self) -> "Space":
        if unknown := sorted(set(self.score) - set(METRICS)):
            raise ValueError(f"score: unknown metric {unknown[0]!r}; choose of {', '.join(METRICS)}")
        if not self.score:
            raise ValueError("score: name a metric")
        return self

    def score_of(self, metrics: Mapping[str, float]) -> float:
        """The weighted sum of an epoch's metrics.

        Raises:
            ConfigError: a metric was not measured.
        """
        if missing := [name for name in self.score if name not in metrics]:
            raise ConfigError(
                f"the training measures no {missing[0]}",
                fix="the data need a validation split, with masks for val_energy_in_mask; or change `score`",
            )
        return sum(weight * metrics[name] for name, weight in self.score.items())


def is_near_whole(value: float) -> bool:
    """Whether a quotient of decimal fractions was meant to be a whole number."""
    return abs(value - round(value)) < 1e-9


def read_space(path: Path, config: Config) -> Space:
    """Read a search space and try its ends on the configuration, before anything is trained.

    Raises:
        ConfigError: the file is no space, names a setting that does not exist or that a training does not
            read, or a value that the setting does not take.
    """
    space = parse(Space, read_yaml(path), where=str(path))
    for name, values in space.parameters.items():
        if name.partition(".")[0] not in SECTIONS:
            raise ConfigError(
                f"{name!r} cannot be searched", where=str(path), fix=f"settings of {', '.join(SECTIONS)} can"
            )
        for value in values.examples:
            changed(config, overrides({name: value}), where=str(path))
    return space


def overrides(values: Mapping[str, Value]) -> list[str]:
    """`section.key=value` for each setting, as `--set` takes it."""
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]
