"""Beginning a record: what stood in which stage before there was one is its first entry."""

from typing import TYPE_CHECKING

from megl_core.registry.history import Draft, History, open_history
from megl_core.registry.versions import found_stages, read_aliases, search
from megl_core.registry.vocabulary import Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_VERSIONS = 500  # of a stage; an entry holds no more


def open_record(client: "MlflowClient", name: str) -> History:
    """The record of a model for writing. A new one begins with the stages that MLflow shows.

    Raises:
        IntegrityError: the record was tampered with.
    """
    history = open_history(client, name)
    history.append(lambda history: None if history.entries else _found(client, name))
    return history


def _found(client: "MlflowClient", name: str) -> Draft | None:
    stages = found_stages(search(client, name), read_aliases(client, name))
    if not stages:
        return None
    holder = stages.get(Stage.PRODUCTION, [0])[-1]
    details = {"stages": {stage: numbers[-_MAX_VERSIONS:] for stage, numbers in stages.items()}}
    return Draft("adopt", holder, "so it was when the record began", details)
