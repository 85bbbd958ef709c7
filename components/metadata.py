"""What each component says of itself in its metadata.yaml: inputs, outputs, and what its pod needs."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from megl_core.config import Amount, Section, parse, read_yaml

FOLDER = Path(__file__).resolve().parent
_SYSTEM_TYPE = re.compile(r"system\.(\w+)@.*")


class Quantity(Section):
    """What is reserved, and what it may use at most."""

    request: Amount
    limit: Amount


class Resources(Section):
    cpu: Quantity
    """Cores."""
    memory: Quantity
    gpus: int = Field(0, ge=0)


class Retries(Section):
    """Tries after one that failed; the pauses between them grow."""

    count: int = Field(ge=0)
    pause_seconds: int = Field(30, ge=1)
    """Before the first."""
    factor: float = Field(2.0, ge=1)
    """By which each pause is longer than the one before."""
    max_pause_seconds: int = Field(600, ge=1)


class Metadata(Section):
    """One component."""

    name: str
    """The step's name: its folder, its function."""
    title: str
    """What is shown for it."""
    stability: Literal["alpha", "beta", "stable"]
    inputs: dict[str, str]
    """Name to type."""
    outputs: dict[str, str]
    resources: Resources
    retries: Retries
    timeout_minutes: float = Field(gt=0)
    """Of each try."""
    network: list[Literal["mlflow", "s3", "source", "kubernetes", "webhook"]]
    """Whom it talks to; nobody else need be reachable."""
    cached: bool
    """Whether the result for the same inputs may be used again."""


def steps() -> list[str]:
    """The names of all components."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def read_metadata(step: str) -> Metadata:
    """What a component says of itself.

    Raises:
        ConfigError: there is no such component, or its metadata.yaml does not fit.
    """
    file = FOLDER / step / "metadata.yaml"
    return parse(Metadata, read_yaml(file), where=str(file))


def interface(component: Any) -> dict[str, dict[str, str]]:
    """The inputs and outputs of a KFP component as metadata.yaml writes them: `{name: type}`."""
    spec = component.component_spec
    return {
        "inputs": {name: _plain(item.type) for name, item in (spec.inputs or {}).items()},
        "outputs": {name: _plain(item.type) for name, item in (spec.outputs or {}).items()},
    }


def _plain(name: str) -> str:
    """`Dataset` for system.Dataset@0.0.1."""
    return _SYSTEM_TYPE.sub(r"\1", name)
