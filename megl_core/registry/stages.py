"""Where a version stands: its stage, and the aliases and tags that say so."""

import warnings
from typing import TYPE_CHECKING

from megl_core.registry.connection import connect, error_code, mlflow_errors
from megl_core.registry.versions import (
    CHAMPION,
    STAGE_TAG,
    RegisteredVersion,
    Stage,
    find,
    read_aliases,
    search,
    show_version,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIASES = {Stage.STAGING: ("staging",), Stage.PRODUCTION: ("production", CHAMPION)}


def promote(name: str, version: int, stage: Stage, tracking_uri: str) -> RegisteredVersion:
    """Move a version to a stage.

    Sets our tag `megl.stage`, the aliases (`staging`; `production` and `champion`), and MLflow's own
    stage where the server still has stages. A version in Production archives the one before it.

    Raises:
        ConfigError: there is no such version.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, f"move the version to {stage}"):
        target = find(client, name, version, tracking_uri)
        _set_aliases(client, target, stage)
        _set_stage(client, target, stage)
        if stage is Stage.PRODUCTION:
            for other in search(client, name, (STAGE_TAG, Stage.PRODUCTION)):
                if other.version != target.version:
                    _set_stage(client, other, Stage.ARCHIVED)
    return show_version(name, version, tracking_uri)


def _set_aliases(client: "MlflowClient", version: "ModelVersion", stage: Stage) -> None:
    """Point the stage's aliases to the version, and take away those of other stages."""
    current = read_aliases(client, version.name)
    wanted = ALIASES.get(stage, ())
    for alias in wanted:
        client.set_registered_model_alias(version.name, alias, version.version)
    for alias in (alias for aliases in ALIASES.values() for alias in aliases if alias not in wanted):
        if current.get(alias) == str(version.version):
            client.delete_registered_model_alias(version.name, alias)


def _set_stage(client: "MlflowClient", version: "ModelVersion", stage: Stage) -> None:
    """Set our tag, and MLflow's deprecated stage where the server has it."""
    from mlflow.exceptions import MlflowException

    client.set_model_version_tag(version.name, version.version, STAGE_TAG, stage)
    if not hasattr(client, "transition_model_version_stage"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            client.transition_model_version_stage(
                version.name, version.version, stage, archive_existing_versions=stage is Stage.PRODUCTION
            )
        except MlflowException as error:
            if error_code(error) != "ENDPOINT_NOT_FOUND":
                raise
