"""Models by MLflow's URIs: `models:/name@alias`, `models:/name/3`, `runs:/<run>/name`."""

import re
from pathlib import Path

from megl_core.errors import ConfigError
from megl_core.registry.connection import connect, mlflow_errors
from megl_core.registry.fetching import fetch_model
from megl_core.registry.versions import search_run

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/|@)(?P<reference>[^/@]+)")
_OF_A_RUN = re.compile(r"runs:/(?P<run>[^/]+)/(?P<name>[^/@]+)")


def fetch(uri: str, target: Path) -> Path:
    """Download the model folder that an MLflow URI names to `target`, and check its digest.

    The server is MLflow's own choice: `mlflow.set_tracking_uri`, else MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: no such form of URI, no server chosen, or no such model there.
        IntegrityError: the bytes are not those that were registered, or are gone.
        UnavailableError: MLflow does not answer.
    """
    server = _tracking_uri(uri)
    if match := _REGISTERED.fullmatch(uri):
        return fetch_model(match["name"], match["reference"], server, target)
    if match := _OF_A_RUN.fullmatch(uri):
        client = connect(server)
        with mlflow_errors(server, "look for the run's model"):
            version = search_run(client, match["name"], match["run"], server)
        return fetch_model(match["name"], version, server, target)
    raise ConfigError(
        "not a URI of a registered model",
        where=uri,
        fix="write models:/name@alias, models:/name/3 or runs:/<run id>/name",
    )


def _tracking_uri(uri: str) -> str:
    """MLflow's; without one it would make an empty database in the working directory."""
    import mlflow

    if not mlflow.is_tracking_uri_set():
        raise ConfigError(
            "no MLflow server to ask",
            where=uri,
            fix="set MLFLOW_TRACKING_URI, such as sqlite:///workspace/mlflow.db, or call "
            "mlflow.set_tracking_uri",
        )
    return str(mlflow.get_tracking_uri())
