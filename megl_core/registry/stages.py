"""Moving versions between stages: promotions, approvals and rollbacks, all of them entries of the record.

The record (`history.py`) decides; MLflow's stages, tags and aliases follow it. `reconcile` makes them agree,
and every command that writes ends with it, so that what a killed one left undone the next one does.
"""

import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from megl_core.config import PromotionConfig
from megl_core.errors import ConfigError, GateError
from megl_core.files import canonical_json
from megl_core.progress import get_reporter
from megl_core.provenance.signing import Verifier
from megl_core.redaction import redact
from megl_core.registry.adoption import open_record
from megl_core.registry.connection import connect, error_code, mlflow_errors, overwrite
from megl_core.registry.fetching import fetch_model
from megl_core.registry.history import Draft, Entry, History, current_actor, find_history
from megl_core.registry.state import RegistryState, entries_until, state_of
from megl_core.registry.versions import RegisteredVersion, find, read_aliases, search, show_version
from megl_core.registry.vocabulary import ALIASES, FORCED_TAG, STAGE_TAG, Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from megl_core.registry.promotion import Verdict

GATED = (Stage.STAGING, Stage.PRODUCTION)
_ROUNDS = 20
_MAX_NAMED = 20  # failed rows that an entry names


class ProductionChangedError(GateError):
    """Another version went into Production after the gates were looked at."""


class ApprovalMissingError(GateError):
    """The gates passed; others have to approve yet."""


def promote(
    name: str,
    version: int,
    stage: Stage,
    tracking_uri: str,
    *,
    reason: str,
    verdict: "Verdict | None" = None,
    approvals: int = 0,
    force: bool = False,
) -> RegisteredVersion:
    """Move a version to a stage; a version that stands there already stays, and nothing is recorded.

    Into Staging and Production leads a passed verdict and, where it is demanded, the approval of others.
    A version in Production archives the one before it. None and Archived are open to every version.

    Args:
        reason: why, in words; part of the record.
        verdict: of the gates (`promotion.judge`), against the version that is in Production now.
        approvals: how many people beside the requester must have approved the request for this.
        force: do without verdict and approvals; the record says so for ever.

    Raises:
        ConfigError: there is no such version, or no reason.
        GateError: the gates did not pass.
        ProductionChangedError: the verdict is about another champion: judge again.
        ApprovalMissingError: others must approve.
        UnavailableError: MLflow does not answer.
    """
    _require_reason(reason)
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, f"move the version to {stage}"):
        find(client, name, version, tracking_uri)
        history = open_record(client, name)
        reconcile(client, history)
        digest = _keep_report(client, history, verdict)

        def decide(history: History) -> Draft | None:
            state = state_of(history.entries)
            if state.stage_of(version) is stage:
                return None
            approvers = _approvers(state, version, stage)
            if stage in GATED and not force:
                _require_verdict(verdict, state, version)
                _require_approvals(approvers, approvals, name, version, stage)
            return Draft(
                "promote",
                version,
                reason,
                {
                    "from": state.stage_of(version),
                    "to": stage,
                    "gate": _gate_details(verdict, digest),
                    "forced": force and stage in GATED,
                    "approvals": list(approvers),
                    "champion": state.production,
                },
            )

        history.append(decide)
        reconcile(client, history)
    return show_version(name, version, tracking_uri)


def approvals_needed(config: PromotionConfig, stage: Stage) -> int:
    """How many people must approve a promotion to a stage."""
    needed = {Stage.STAGING: config.staging_approvals, Stage.PRODUCTION: config.production_approvals}
    return needed.get(stage, 0)


def rollback(
    name: str, tracking_uri: str, *, reason: str, verifier: Verifier | None = None
) -> RegisteredVersion:
    """Put the version back into Production that was there before, once its bytes are found to be intact.

    One that was interrupted after it was recorded is completed, and not repeated.

    Args:
        verifier: the key that must have signed the version. None: `MEGL_PUBLIC_KEY`, if that is set.

    Raises:
        ConfigError: none was, or there is no reason.
        GateError: somebody else moved a version meanwhile.
        IntegrityError: its stored bytes are not those that were registered.
        UnavailableError: MLflow does not answer.
    """
    _require_reason(reason)
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "roll back"):
        history = _existing(client, name, tracking_uri)
        behind = reconcile(client, history)
        before = state_of(history.entries)
        if behind and history.entries[-1].action == "rollback":
            get_reporter().message(f"completed the rollback of {history.entries[-1].actor}")
            return show_version(name, history.entries[-1].version, tracking_uri)
        if not before.earlier:
            raise ConfigError(
                f"no version of {name!r} was in Production before the present one",
                where=redact(tracking_uri),
                fix=f"megl models history {name} shows what was",
            )
        target = before.earlier[-1]
        with TemporaryDirectory() as folder:
            fetch_model(name, target, tracking_uri, Path(folder) / "model", verifier)

        def decide(history: History) -> Draft:
            state = state_of(history.entries)
            if (state.production, state.earlier) != (before.production, before.earlier):
                raise GateError("somebody else moved a version meanwhile", fix="look, and try again")
            return Draft("rollback", target, reason, {"from": state.production, "to": target})

        history.append(decide)
        reconcile(client, history)
    return show_version(name, target, tracking_uri)


def request(name: str, version: int, stage: Stage, tracking_uri: str, *, reason: str) -> Entry:
    """Ask for a promotion, for others to approve.

    Raises:
        ConfigError: no such version, no reason, or it was asked for already.
    """
    _require_reason(reason)
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "record the request"):
        find(client, name, version, tracking_uri)

        def decide(history: History) -> Draft:
            if known := state_of(history.entries).request_for(version, stage):
                raise ConfigError(f"{known.requester} asked for this already", fix="approve or reject it")
            return Draft("request", version, reason, {"to": stage})

        return _recorded(open_record(client, name), decide)


def approve(name: str, version: int, stage: Stage, tracking_uri: str, *, reason: str) -> Entry:
    """Approve a request of somebody else.

    Raises:
        ConfigError: there is no such request, or no reason.
        GateError: the approver is the requester, or has approved already.
    """

    def decide(history: History, actor: str) -> Draft:
        asked = _requested(history, version, stage)
        if actor == asked.requester:
            raise GateError(
                f"{actor} asked for this promotion and cannot approve it", fix="somebody else must"
            )
        if actor in asked.approvers:
            raise GateError(f"{actor} has approved this already")
        return Draft("approve", version, reason, {"to": stage, "request": asked.number})

    return _answer(name, tracking_uri, reason, decide)


def reject(name: str, version: int, stage: Stage, tracking_uri: str, *, reason: str) -> Entry:
    """Reject a request; it may be made anew.

    Raises:
        ConfigError: there is no such request, or no reason.
    """

    def decide(history: History, actor: str) -> Draft:  # noqa: ARG001 (the requester may take it back)
        asked = _requested(history, version, stage)
        return Draft("reject", version, reason, {"to": stage, "request": asked.number})

    return _answer(name, tracking_uri, reason, decide)


def read_history(name: str, tracking_uri: str) -> Sequence[Entry]:
    """The record of a model, oldest entry first.

    Raises:
        ConfigError: it has none.
        IntegrityError: it was tampered with.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "read the record"):
        return _existing(client, name, tracking_uri).entries


def state_at(name: str, moment: datetime, tracking_uri: str) -> RegistryState:
    """Where the versions of a model stood at a moment, which has a time zone.

    Raises:
        ConfigError: the model has no record, or it begins later.
        IntegrityError: it was tampered with.
    """
    time = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    entries = read_history(name, tracking_uri)
    known = entries_until(entries, time)
    if not known:
        begins = f"it begins at {entries[0].time}" if entries else "it is empty"
        raise ConfigError(f"the record of {name!r} says nothing of {time}: {begins}")
    return state_of(known)


def reconcile(client: "MlflowClient", history: History) -> bool:
    """Make MLflow's stages, tags and aliases say what the record says; returns whether they did not.

    What was written is compared with the record again: of several processes that do this at the same time
    the last one leaves what the last entry says.
    """
    behind = False
    for _ in range(_ROUNDS):
        head = history.head
        behind |= _project(client, history.name, history.entries)
        history.reload()
        if history.head == head:
            break
    return behind


def _project(client: "MlflowClient", name: str, entries: Sequence[Entry]) -> bool:
    state = state_of(entries)
    forced = {entry.version: entry.reason for entry in entries if entry.details.get("forced")}
    versions = {int(version.version): version for version in search(client, name)}
    behind = False
    # The version in Production first: MLflow archives the one before it in the same transaction.
    for number in sorted(versions, key=lambda number: number != state.production):
        behind |= _set_stage(client, versions[number], state.stage_of(number))
        if number in forced and versions[number].tags.get(FORCED_TAG) != forced[number]:
            overwrite(client.set_model_version_tag, name, str(number), FORCED_TAG, forced[number])
    return _set_aliases(client, name, state, set(versions)) or behind


def _set_stage(client: "MlflowClient", version: "ModelVersion", stage: Stage) -> bool:
    """Set MLflow's deprecated stage where the server has it, and our tag; whether the tag was another."""
    from mlflow.exceptions import MlflowException

    if version.current_stage != stage and hasattr(client, "transition_model_version_stage"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            try:
                client.transition_model_version_stage(
                    version.name, version.version, stage, archive_existing_versions=stage is Stage.PRODUCTION
                )
            except MlflowException as error:
                if error_code(error) != "ENDPOINT_NOT_FOUND":
                    raise
    if version.tags.get(STAGE_TAG, Stage.NONE) == stage:
        return False
    overwrite(client.set_model_version_tag, version.name, version.version, STAGE_TAG, stage)
    return True


def _set_aliases(client: "MlflowClient", name: str, state: RegistryState, existing: set[int]) -> bool:
    """Whether one was of another version."""
    current = read_aliases(client, name)
    behind = False
    for stage, aliases in ALIASES.items():
        holder = state.holder_of(stage)
        for alias in aliases:
            if holder in existing and current.get(alias) != str(holder):
                overwrite(client.set_registered_model_alias, name, alias, str(holder))
                behind = True
            elif holder is None and alias in current:
                client.delete_registered_model_alias(name, alias)
                behind = True
    return behind


def _keep_report(client: "MlflowClient", history: History, verdict: "Verdict | None") -> str:
    """Store the gates' report with the record, under its digest; returns that, or "" without one."""
    import hashlib

    if verdict is None:
        return ""
    text = canonical_json(verdict.to_json()).decode()
    digest = hashlib.sha256(text.encode()).hexdigest()
    client.log_text(history.run_id, text, f"gates/{digest}.json")
    return digest


def _gate_details(verdict: "Verdict | None", digest: str) -> dict[str, Any]:
    failed = [f"{row.metric} {row.bound}" for row in verdict.rows if not row.passed] if verdict else []
    return {
        "passed": verdict is not None and verdict.passed,
        "digest": digest,
        "failed": failed[:_MAX_NAMED],
    }


def _require_verdict(verdict: "Verdict | None", state: RegistryState, version: int) -> None:
    if verdict is None:
        raise GateError("no gate was looked at", fix="megl models promote judges before it promotes")
    if state.production not in (verdict.champion, version):
        raise ProductionChangedError(
            f"Production changed since the gates were looked at: version {state.production} is there now",
            fix="promote again, to judge against that one",
        )
    if not verdict.passed:
        raise GateError(
            f"the gates did not pass: {verdict.failed}", fix="mend it; --force records that you did not"
        )


def _approvers(state: RegistryState, version: int, stage: Stage) -> tuple[str, ...]:
    asked = state.request_for(version, stage)
    return asked.approvers if asked else ()


def _require_approvals(
    approvers: tuple[str, ...], needed: int, name: str, version: int, stage: Stage
) -> None:
    if len(approvers) >= needed:
        return
    command = f"{name} {version} --to {stage.lower()}"
    raise ApprovalMissingError(
        f"approvals needed: {needed}, given: {len(approvers)}",
        fix=f"megl models request {command}, then others: megl models approve {command}",
    )


def _requested(history: History, version: int, stage: Stage) -> Any:
    asked = state_of(history.entries).request_for(version, stage)
    if asked is None:
        raise ConfigError(
            f"nobody asked to move version {version} of {history.name!r} to {stage}",
            fix=f"megl models request {history.name} {version} --to {stage.lower()}",
        )
    return asked


def _answer(name: str, tracking_uri: str, reason: str, decide: Callable[[History, str], Draft]) -> Entry:
    _require_reason(reason)
    actor = current_actor()
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "record the answer"):
        return _recorded(_existing(client, name, tracking_uri), lambda history: decide(history, actor))


def _recorded(history: History, decide: Callable[[History], Draft]) -> Entry:
    entry = history.append(decide)
    if entry is None:
        raise RuntimeError("a decision without an entry")
    return entry


def _existing(client: "MlflowClient", name: str, tracking_uri: str) -> History:
    history = find_history(client, name)
    if history is None:
        raise ConfigError(
            f"the model {name!r} has no record", where=redact(tracking_uri), fix="megl models list"
        )
    return history


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise ConfigError("a reason is needed", fix="--reason 'why'")
