"""What is to be trained, as the pipeline's step writes it down for whoever trains."""

import json
from typing import Any

from megl_core.config import (
    Config,
    ModelConfig,
    ObjectiveConfig,
    RegistryConfig,
    Section,
    TrainConfig,
    parse,
)
from megl_core.errors import DataError
from megl_core.files import canonical_json, sha256_json
from megl_core.remote.exchange import Exchange

ORDER, RESULT = "order.json", "result.json"
_ABOUT_THE_TRY = {"run_id", "pipeline_run"}


class Order(Section):
    """One training. It holds no secrets: machines have theirs in their environment."""

    model: ModelConfig
    objective: ObjectiveConfig
    train: TrainConfig
    registry: RegistryConfig
    """With the address of the tracking server."""
    digest: str
    """Of the packed data."""
    code: str
    """Digest of the code."""
    dvc: dict[str, Any] | None = None
    run_id: str | None = None
    """The MLflow run to log to. None: a new one."""
    pipeline_run: str = ""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the training, however often it is tried."""
        return sha256_json(self.model_dump(mode="json", exclude=_ABOUT_THE_TRY))[:16]

    @property
    def settings(self) -> Config:
        return Config(model=self.model, objective=self.objective, train=self.train, registry=self.registry)


class Result(Section):
    """What came of a training, beside its model folder."""

    model_digest: str
    provenance_digest: str
    """SHA-256 of the statement's file."""
    metrics: dict[str, float]
    run_id: str


def read_order(training: Exchange) -> Order | None:
    """The order in a training's part of the exchange; None where there is none.

    Raises:
        DataError, ConfigError: it is no order.
    """
    tree = read_tree(training, ORDER)
    return None if tree is None else parse(Order, tree, where=f"{training.address}/{ORDER}")


def read_result(training: Exchange) -> Result | None:
    """The result in a training's part of the exchange; None where it has not ended.

    Raises:
        DataError, ConfigError: it is no result.
    """
    tree = read_tree(training, RESULT)
    return None if tree is None else parse(Result, tree, where=f"{training.address}/{RESULT}")


def write_section(training: Exchange, name: str, section: Section) -> None:
    training.write(name, canonical_json(section.model_dump(mode="json")) + b"\n")


def read_tree(training: Exchange, name: str) -> dict[str, Any] | None:
    """A JSON object as it stands there; None where there is none.

    Raises:
        DataError: the file holds something else.
    """
    content = training.read(name)
    if content is None:
        return None
    try:
        tree = json.loads(content)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise DataError(f"{name} is not a JSON object", where=f"{training.address}/{name}")
    return tree
