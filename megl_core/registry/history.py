"""The record of a registered model: who did what to which version, append-only and hash-chained.

The record is an MLflow run, and each entry one of its parameters, `000001`, `000002`, ... MLflow never lets
anybody change a parameter, and its store keeps their names unique, so that of two processes which write the
same number exactly one succeeds: appending is an atomic compare-and-set on any MLflow server. What stages,
aliases and tags say is derived from the record (`stages.py`), and can be derived anew at any time.
"""

import getpass
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from megl_core.errors import ConfigError, IntegrityError, UnavailableError
from megl_core.files import canonical_json
from megl_core.redaction import redact
from megl_core.registry.connection import artifact_root, error_code, overwrite
from megl_core.registry.vocabulary import EXISTS, MISSING, parse_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "megl-registry"
"""The MLflow experiment of all records."""
HISTORY_TAG = "megl.history"
"""Of a registered model: the run that is its record."""
MODEL_TAG = "megl.history_of"
"""Of a record's run: the registered model."""
HEAD_TAG = "megl.history_head"
"""Of a registered model: number and digest of the last entry, or of one shortly before it."""
ACTOR_VARIABLE = "MEGL_ACTOR"

GENESIS = "0" * 64
"""What the first entry names as its predecessor."""

_ENTRY = re.compile(r"\d{6}")
_MAX_LENGTH = 6000  # of a parameter; MLflow silently cuts longer ones
_MAX_REASON = 1000
_ATTEMPTS = 20


@dataclass(frozen=True)
class Entry:
    """One thing that was done.

    Attributes:
        number: from 1, without gaps.
        time: ISO 8601, UTC; never before that of its predecessor.
        actor: who says to have done it.
        action: `adopt`, `register`, `request`, `approve`, `reject`, `promote`, `rollback`.
        version: of the model; 0 where none is meant.
        reason: in the actor's words.
        details: what else belongs to the action; JSON.
        previous: SHA-256 of the predecessor, or `GENESIS`.
        digest: SHA-256 of this entry as it is stored.
    """

    number: int
    time: str
    actor: str
    action: str
    version: int
    reason: str
    previous: str
    digest: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Draft:
    """What an entry says before it has a number, a time and a predecessor."""

    action: str
    version: int
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


class History:
    """The record of one model. Made by `open_history`; `entries` are read and checked when it is made.

    Attributes:
        run_id: the MLflow run that holds it.
        entries: in order.
    """

    def __init__(self, client: "MlflowClient", name: str, run_id: str) -> None:
        self.name = name
        self.run_id = run_id
        self._client = client
        self.entries: tuple[Entry, ...] = ()
        self.reload()

    @property
    def head(self) -> str:
        """The digest of the last entry."""
        return self.entries[-1].digest if self.entries else GENESIS

    def reload(self) -> None:
        """Read the entries again.

        Raises:
            IntegrityError: an entry was changed or removed.
        """
        self.entries = check_chain(stored_entries(self._client.get_run(self.run_id)), self.name)

    def append(self, decide: Callable[["History"], Draft | None], actor: str | None = None) -> Entry | None:
        """Add one entry.

        Args:
            decide: is given the record as it stands, and says what is to be added; None: nothing. It is asked
                again when somebody else was faster. What it raises ends the attempt.
            actor: None: `current_actor()`.

        Raises:
            UnavailableError: others were faster twenty times.
        """
        for _ in range(_ATTEMPTS):
            draft = decide(self)
            if draft is None:
                return None
            content = self._content(draft, actor or current_actor())
            if self._write(len(self.entries) + 1, content):
                self.reload()
                self._anchor()
                return self.entries[-1]
            self.reload()
        raise UnavailableError(f"the record of {self.name!r} is too busy", fix="try again")

    def _anchor(self) -> None:
        """Name the last entry elsewhere, for a chain does not show that its end was cut off."""
        tag = f"{len(self.entries)} {self.head}"
        overwrite(self._client.set_registered_model_tag, self.name, HEAD_TAG, tag)

    def _content(self, draft: Draft, actor: str) -> str:
        if len(draft.reason) > _MAX_REASON:
            raise ConfigError(f"a reason has at most {_MAX_REASON} characters, not {len(draft.reason)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": max(now, self.entries[-1].time) if self.entries else now,
            "actor": actor,
            "action": draft.action,
            "version": draft.version,
            "reason": draft.reason,
            "details": dict(draft.details),
            "previous": self.head,
        }
        content = canonical_json(fields).decode()
        if len(content) > _MAX_LENGTH:
            raise ConfigError(f"an entry of the record has at most {_MAX_LENGTH} characters")
        return content

    def _write(self, number: int, content: str) -> bool:
        """Whether this was the first to write that number, or had written the very same before."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_param(self.run_id, f"{number:06d}", content, synchronous=True)
        except MlflowException as error:
            if error_code(error) == "INVALID_PARAMETER_VALUE":
                return False
            raise
        return True


def open_history(client: "MlflowClient", name: str) -> History:
    """The record of a model, made with the registered model itself where there is none yet.

    A record outlives its registered model: one that was deleted and made again goes on with it.

    Raises:
        IntegrityError: the record was tampered with.
    """
    from mlflow.exceptions import MlflowException

    run_id = recorded_run(client, name)
    if run_id is None:
        earlier = record_runs(client, name)
        run_id = earlier[0].info.run_id if earlier else _create_run(client, name)
        try:
            client.create_registered_model(name, tags={HISTORY_TAG: run_id})
        except MlflowException as error:
            if error_code(error) != EXISTS:
                raise
            mine = run_id
            run_id = recorded_run(client, name) or _adopt(client, name, mine)
            if run_id != mine and not earlier:
                client.delete_run(mine)
    return History(client, name, run_id)


def find_history(client: "MlflowClient", name: str) -> History | None:
    """The record of a model if it has one; writes nothing."""
    run_id = recorded_run(client, name)
    return History(client, name, run_id) if run_id else None


def recorded_run(client: "MlflowClient", name: str) -> str | None:
    """The run that a registered model names as its record."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_registered_model(parse_name(name)).tags
    except MlflowException as error:
        if error_code(error) == MISSING:
            return None
        raise
    run_id = tags.get(HISTORY_TAG)
    return str(run_id) if run_id else None


def record_runs(client: "MlflowClient", name: str) -> "list[Run]":
    """All runs that say to be the record of a model, oldest first; more than one is suspicious."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    query = f"tags.`{MODEL_TAG}` = '{parse_name(name)}'"
    return list(client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def stored_entries(run: "Run") -> dict[int, str]:
    """`{number: content}` as MLflow holds it."""
    params = run.data.params
    return {int(name): content for name, content in params.items() if _ENTRY.fullmatch(name)}


def check_chain(stored: Mapping[int, str], name: str) -> tuple[Entry, ...]:
    """The entries in order, each of which names its predecessor's digest.

    Raises:
        IntegrityError: one is missing, was changed or cannot be read; the message names the first such.
    """
    entries: list[Entry] = []
    previous = GENESIS
    for expected, number in enumerate(sorted(stored), start=1):
        where = f"entry {expected} of the record of {name!r}"
        if number != expected:
            raise IntegrityError("an entry was removed", where=where, fix=_TAMPERED)
        entry = _parse(number, stored[number], where)
        if entry.previous != previous:
            raise IntegrityError(
                "it does not follow from the entry before it: one of the two was changed",
                where=where,
                fix=_TAMPERED,
            )
        previous = entry.digest
        entries.append(entry)
    return tuple(entries)


def current_actor() -> str:
    """Who is at work: `MEGL_ACTOR`, MLflow's user name, or the user of this machine."""
    named = os.environ.get(ACTOR_VARIABLE) or os.environ.get("MLFLOW_TRACKING_USERNAME")
    return named or f"{getpass.getuser()}@{socket.gethostname()}"


_TAMPERED = "find out who changed the tracking store's database; megl lineage verify says what else is wrong"


def _parse(number: int, content: str, where: str) -> Entry:
    try:
        fields = json.loads(content)
        return Entry(number=number, digest=hashlib.sha256(content.encode()).hexdigest(), **fields)
    except (TypeError, ValueError):
        raise IntegrityError("this is no entry of a record", where=where, fix=_TAMPERED) from None


def _create_run(client: "MlflowClient", name: str) -> str:
    tags = {MODEL_TAG: name, "mlflow.note.content": "The record of a registered model. Do not delete it."}
    run = client.create_run(_experiment(client), run_name=name, tags=tags)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _adopt(client: "MlflowClient", name: str, run_id: str) -> str:
    """Give a model that others registered its record; returns the run that became it.

    Of several processes that begin a record at once one wins: the name of an experiment can be taken only
    once, and its tags come with it.
    """
    from mlflow.exceptions import MlflowException

    claim = f"{EXPERIMENT}/{name}"
    try:
        root = artifact_root(client.tracking_uri)
        client.create_experiment(claim, artifact_location=root, tags={HISTORY_TAG: run_id})
    except MlflowException as error:
        if error_code(error) != EXISTS:
            raise
        run_id = client.get_experiment_by_name(claim).tags[HISTORY_TAG]
    overwrite(client.set_registered_model_tag, name, HISTORY_TAG, run_id)
    return run_id


def _experiment(client: "MlflowClient") -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            root = artifact_root(client.tracking_uri)
            return str(client.create_experiment(EXPERIMENT, artifact_location=root))
        except MlflowException as error:
            if error_code(error) != EXISTS:
                raise
            experiment = client.get_experiment_by_name(EXPERIMENT)  # another process was faster
    if experiment.lifecycle_stage == "deleted":
        raise IntegrityError(
            f"the MLflow experiment {EXPERIMENT!r}, which holds the records of all models, was deleted",
            where=redact(client.tracking_uri),
            fix=f"mlflow experiments restore --experiment-id {experiment.experiment_id}",
        )
    return str(experiment.experiment_id)
