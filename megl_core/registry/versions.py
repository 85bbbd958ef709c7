"""Registered versions: what they are, and finding them.

Stages and the aliases that stand for them are read from the record (`history.py`), whatever MLflow says.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from megl_core.errors import ConfigError, IntegrityError
from megl_core.redaction import redact
from megl_core.registry.connection import connect, error_code, mlflow_errors
from megl_core.registry.history import find_history
from megl_core.registry.state import RegistryState, state_of, state_without_record
from megl_core.registry.vocabulary import (
    ALIASES,
    MISSING,
    MODEL_DIGEST_TAG,
    STAGE_ALIASES,
    STAGE_TAG,
    Stage,
    parse_name,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model.

    Attributes:
        name: the registered model.
        version: its number, from 1.
        model_digest: SHA-256 over the model folder's files; empty if MEGL did not register it.
        run_id: the run that trained it.
        uri: what `mlflow.pyfunc.load_model` takes.
        stage: None, Staging, Production or Archived.
        aliases: the names that point to this version, sorted.
        created: ISO 8601, UTC.
        tags: all of its tags.
    """

    name: str
    version: int
    model_digest: str
    run_id: str
    uri: str
    stage: Stage
    aliases: tuple[str, ...]
    created: str
    tags: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def list_models(tracking_uri: str) -> list[str]:
    """The names of all registered models.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "list the models"):
        return [model.name for model in _pages(client.search_registered_models)]


def list_versions(name: str, tracking_uri: str) -> list[RegisteredVersion]:
    """All versions of a model, newest first; none if there is no such model.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "list the versions"):
        state = read_state(client, name)
        aliases = _aliases(client, name, state)
        found = [_describe(version, aliases, state) for version in search(client, name)]
    return sorted(found, key=lambda version: -version.version)


def show_version(name: str, reference: int | str, tracking_uri: str) -> RegisteredVersion:
    """The version with a number or an alias.

    Raises:
        ConfigError: there is none.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "read the version"):
        version = find(client, name, reference, tracking_uri)
        state = read_state(client, name)
        return _describe(version, _aliases(client, name, state), state)


def champion(name: str, tracking_uri: str) -> RegisteredVersion | None:
    """The version in Production; None if there is none yet.

    Raises:
        IntegrityError: it was deleted.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "look for the champion"):
        state = read_state(client, name)
        if state.production is None:
            return None
        aliases = _aliases(client, name, state)
        for version in search(client, name):
            if int(version.version) == state.production:
                return _describe(version, aliases, state)
    raise IntegrityError(
        f"version {state.production} of {name!r}, which is in Production, was deleted",
        where=redact(tracking_uri),
        fix=f"megl models rollback {name}, or promote another version with --force",
    )


def search(client: "MlflowClient", name: str, tag: tuple[str, str] | None = None) -> "list[ModelVersion]":
    """The versions of a model, those with a tag and value if one is given, in no particular order."""
    query = f"name = '{parse_name(name)}'" + (f" and tags.`{tag[0]}` = '{tag[1]}'" if tag else "")
    return _pages(lambda **page: client.search_model_versions(query, **page))


def find(client: "MlflowClient", name: str, reference: int | str, tracking_uri: str) -> "ModelVersion":
    """The version with a number or an alias.

    Raises:
        ConfigError: there is none; the message names those that exist.
    """
    numbers = sorted(int(version.version) for version in search(client, name))
    aliases = _aliases(client, name, read_state(client, name))
    number = aliases.get(str(reference), str(reference))
    if number in map(str, numbers):
        return client.get_model_version(name, number)
    known = ", ".join([*map(str, numbers), *sorted(aliases)])
    stage = next((stage for stage, names in ALIASES.items() if reference in names), None)
    if numbers and stage:
        raise ConfigError(
            f"no version of {name!r} is in {stage}",
            where=redact(tracking_uri),
            fix=f"name one of {known}; of megl pipeline run, with --version",
        )
    raise ConfigError(
        f"the model {name!r} has no version {reference!r}",
        where=redact(tracking_uri),
        fix=f"choose one of {known}" if known else "register one, or give the tracking URI where it is",
    )


def search_run(client: "MlflowClient", name: str, run_id: str, tracking_uri: str) -> int:
    """The newest version of a model that a run trained.

    Raises:
        ConfigError: the run has none.
    """
    found = [int(version.version) for version in search(client, name) if version.run_id == run_id]
    if not found:
        raise ConfigError(f"no version of {name!r} comes from run {run_id}", where=redact(tracking_uri))
    return max(found)


def read_aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """`{alias: version}` of a model as MLflow says; empty if there is no such model.

    Versions do not always carry them.
    """
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(parse_name(name))
    except MlflowException as error:
        if error_code(error) == MISSING:
            return {}
        raise
    return {alias: str(number) for alias, number in model.aliases.items()}  # SQL stores give numbers


def read_state(client: "MlflowClient", name: str) -> RegistryState:
    """Where the versions of a model stand: by its record, or by MLflow where it has none yet."""
    history = find_history(client, name)
    if history and history.entries:
        return state_of(history.entries)
    return state_without_record(found_stages(search(client, name), read_aliases(client, name)))


def found_stages(versions: "Iterable[ModelVersion]", aliases: Mapping[str, str]) -> dict[str, list[int]]:
    """The versions of each stage by aliases, our tag and MLflow's stage, in this order; its holder last.

    MLflow lets several versions be in Production; all but one count as archived.
    """
    stages = {
        int(version.version): Stage(version.tags.get(STAGE_TAG) or version.current_stage or Stage.NONE)
        for version in sorted(versions, key=lambda version: int(version.version))
    }
    for stage, names in ALIASES.items():
        for number in (int(aliases[alias]) for alias in names if alias in aliases):
            if stages.pop(number, None) is not None:
                stages[number] = stage
    *others, _ = [number for number, stage in stages.items() if stage is Stage.PRODUCTION] or [0]
    stages |= dict.fromkeys(others, Stage.ARCHIVED)
    return {
        stage: held
        for stage in Stage
        if stage is not Stage.NONE
        and (held := [number for number, where in stages.items() if where is stage])
    }


def _aliases(client: "MlflowClient", name: str, state: RegistryState) -> dict[str, str]:
    """The aliases of a model, of which those for stages are what the record says."""
    others = {
        alias: number for alias, number in read_aliases(client, name).items() if alias not in STAGE_ALIASES
    }
    holders = {alias: state.holder_of(stage) for stage, names in ALIASES.items() for alias in names}
    return others | {alias: str(number) for alias, number in holders.items() if number is not None}


def _describe(version: "ModelVersion", aliases: Mapping[str, str], state: RegistryState) -> RegisteredVersion:
    return RegisteredVersion(
        name=version.name,
        version=int(version.version),
        model_digest=version.tags.get(MODEL_DIGEST_TAG, ""),
        run_id=version.run_id or "",
        uri=f"models:/{version.name}/{version.version}",
        stage=state.stage_of(int(version.version)),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == str(version.version))),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        tags=dict(version.tags),
    )


def _pages(request: Callable[..., Any]) -> list[Any]:
    """All results of a search that answers page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = request(page_token=token)
        found += page
        token = page.token
        if not token:
            return found
