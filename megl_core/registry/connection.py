"""Reaching MLflow: a client, its errors as ours, and no password in any message.

mlflow takes seconds to import and reads its settings from the environment while it does, so it is
imported here, after the defaults below are set, and in functions only.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from megl_core.errors import DataError, MeglError, UnavailableError
from megl_core.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Used where the environment does not say otherwise. mlflow's own 7 tries mean four minutes of silence
# before an unreachable server is an error; 3 mean a quarter of a minute.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results
}
_TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"
_PACKAGES = frozenset({"mlflow", "requests", "urllib3", "sqlalchemy", "boto3", "botocore"})
_POOL = re.compile(r"HTTPS?ConnectionPool\(.*?Max retries exceeded with url: \S+ ")  # noise before the cause
_FASTER = re.compile(r"IntegrityError|UniqueViolation")  # as SQLite, MySQL and PostgreSQL say it
_MAX_MESSAGE = 300
_ATTEMPTS = 5


def connect(uri: str) -> "MlflowClient":
    """A client of the tracking server and registry at `uri`; the folder of a SQLite file is made."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if database := sqlite_file(uri):
        database.parent.mkdir(parents=True, exist_ok=True)
    with mlflow_errors(uri, "open the tracking store"):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, or None."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def require_database(uri: str) -> None:
    """Refuse a SQLite file that is not there, before a client that only reads makes one.

    Raises:
        DataError: there is none.
    """
    if (database := sqlite_file(uri)) and not database.is_file():
        raise DataError(
            "there is no MLflow database here",
            where=str(database),
            fix="name its folder with --workspace, or --tracking-uri; `megl pipeline run` makes one",
        )


def artifact_root(uri: str) -> str | None:
    """Where artifacts go: `mlartifacts` beside a SQLite file; None: the server knows."""
    database = sqlite_file(uri)
    return (database.parent / "mlartifacts").as_uri() if database else None


def is_mlflow_failure(error: BaseException) -> bool:
    """Whether MLflow, or what it stands on, raised this; our own mistakes are not meant."""
    return type(error).__module__.partition(".")[0] in _PACKAGES


def error_code(error: BaseException) -> str:
    """MLflow's name of an error, such as RESOURCE_DOES_NOT_EXIST; empty for other errors."""
    return str(getattr(error, "error_code", ""))


def describe(error: BaseException) -> str:
    """An error of MLflow in one line, short and without credentials."""
    text = _POOL.sub("", " ".join(redact(str(error)).split()))
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "..."


def overwrite(write: Callable[..., None], *arguments: str) -> None:
    """Set a tag or an alias that others may be setting, too: the last one counts.

    MLflow looks whether there is one and adds it if not; of two that do so at once the slower gets an error
    of the database, and finds the other's when it tries again.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            write(*arguments)
            break
        except MlflowException as error:
            if attempt == _ATTEMPTS or not _FASTER.search(str(error)):
                raise


@contextlib.contextmanager
def mlflow_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn failures of MLflow into `UnavailableError`, without the traceback that may hold a password."""
    try:
        yield
    except MeglError:
        raise
    except Exception as error:
        if not is_mlflow_failure(error):
            raise
        raise UnavailableError(
            f"MLflow could not {doing}: {describe(error)}", where=redact(uri), fix=_advice(uri)
        ) from None


@contextlib.contextmanager
def global_uri(uri: str) -> Iterator[None]:
    """Point MLflow's global tracking URI at `uri`, and put it back.

    A SQL registry resolves `models:/m-...` through the global URI, whatever the client's own is.
    """
    import mlflow

    before = os.environ.get(_TRACKING_VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # this also deletes the variable
        if before is not None:
            os.environ[_TRACKING_VARIABLE] = before


def _advice(uri: str) -> str:
    if urlsplit(uri).scheme in ("http", "https"):
        return (
            "check that the server runs and that the URI and credentials are right (registry.tracking_uri "
            "or MLFLOW_TRACKING_URI); without a URI, MEGL uses a SQLite file in the workspace"
        )
    return "check the URI, and that its folder can be written to"
