"""Does everything that is recorded of a version still hold? Each link is looked at anew, in bytes."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from megl_core.data.manifest import read_manifest, require_rows, root_digest
from megl_core.errors import ConfigError, IntegrityError, MeglError, UnavailableError
from megl_core.files import read_json, sha256_file
from megl_core.lineage.record import MANIFESTS, fetch_manifest
from megl_core.lineage.stored_data import check_stored_data
from megl_core.provenance.signing import Verifier, open_envelope, signed_by
from megl_core.provenance.statement import (
    DATASET,
    PROVENANCE_FILE,
    Statement,
    byproducts,
    check_subjects,
    data_digest,
    dependency,
    subjects,
)
from megl_core.registry.connection import connect, error_code, mlflow_errors
from megl_core.registry.fetching import Stored
from megl_core.registry.history import HEAD_TAG, Entry, History, find_history, record_runs
from megl_core.registry.packaging import EVALUATION_ARTIFACT, GATE_ARTIFACT, MODEL_ARTIFACT
from megl_core.registry.state import state_of
from megl_core.registry.versions import find, read_aliases, search
from megl_core.registry.vocabulary import (
    ALIASES,
    CHAMPION,
    MISSING,
    MODEL_DIGEST_TAG,
    PROVENANCE_DIGEST_TAG,
    STAGE_TAG,
    Stage,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

DataCheck = Literal["all", "list", "none"]
Outcome = Literal["ok", "broken", "not checked"]

_JUDGED = {EVALUATION_ARTIFACT: "evaluation_digest", "champion/evaluation.json": "champion_evaluation_digest"}

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One link of the chain: what was looked at, how it stands, and what was seen."""

    name: str
    outcome: Outcome
    note: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    name: str,
    reference: int | str,
    tracking_uri: str,
    *,
    data: DataCheck = "all",
    verifier: Verifier | None = None,
) -> list[Check]:
    """Look at every link between a version and the bytes that made it, from the record outwards.

    Args:
        data: hash every image at the DVC remote, or only look whether its object is there, or neither.
        verifier: the key that must have signed the provenance.

    Raises:
        ConfigError: there is no such version, and the record knows of none.
        UnavailableError: MLflow or the DVC remote does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "verify the version"), TemporaryDirectory() as scratch:
        number = _number(client, name, reference, tracking_uri)
        audit = _Audit(client, name, number, verifier, Path(scratch))
        links: dict[str, Callable[[], str]] = {
            "record": audit.check_record,
            "version": audit.check_version,
            "training run": audit.check_run,
            "provenance": audit.check_provenance,
            "signature": audit.check_signature,
            "model files": audit.check_model,
            "reports": audit.check_reports,
            "gates": audit.check_gates,
            "manifest": audit.check_manifest,
            "data": lambda: audit.check_data(data),
            "stages": audit.check_stages,
        }
        return [_outcome(link, look) for link, look in links.items()]


def first_broken(checks: list[Check]) -> Check | None:
    return next((check for check in checks if check.outcome == "broken"), None)


class _Skip(Exception):  # noqa: N818 (no error: there is nothing to check)
    """There is nothing to check, or what it needs is broken already."""


@dataclass
class _Audit:
    """A version under examination; what one check finds, later ones use."""

    client: "MlflowClient"
    name: str
    number: int
    verifier: Verifier | None
    scratch: Path
    history: History | None = None
    registered: Entry | None = None
    stored: Stored | None = None
    envelope: dict[str, Any] | None = None
    statement: Statement | None = None
    manifest: Any = None

    def check_record(self) -> str:
        """There is one record, and it is whole."""
        runs = [run.info.run_id for run in record_runs(self.client, self.name)]
        history = find_history(self.client, self.name)
        if history is None:
            known = f"; its record was run {runs[0]}" if runs else ""
            raise IntegrityError(f"the registered model names no record: it was made anew{known}")
        if others := [run for run in runs if run != history.run_id]:
            raise IntegrityError(f"there is another record of this model: run {others[0]}")
        if not runs:
            raise IntegrityError(f"the run that is the record, {history.run_id}, was deleted")
        self._check_head(history)
        self.history = history
        return f"{len(history.entries)} entries, head {history.head[:12]}"

    def check_version(self) -> str:
        """It is registered once, and is the one that the record tells of."""
        entries = [
            entry
            for entry in _needed(self.history, "the record").entries
            if entry.action == "register" and entry.version == self.number
        ]
        if not entries:
            raise IntegrityError(f"no entry of the record registers version {self.number}")
        if len(entries) > 1:
            numbers = " and ".join(str(entry.number) for entry in entries)
            raise IntegrityError(f"version {self.number} was registered more than once: entries {numbers}")
        self.registered = entries[0]
        stored = Stored(self.client, self._version())
        version, details = stored.version, entries[0].details
        found = {
            "logged model": (str(version.source).removeprefix("models:/"), details["logged_model"]),
            "run": (version.run_id or "", details["run_id"]),
            "model digest": (version.tags.get(MODEL_DIGEST_TAG, ""), details["model_digest"]),
            "provenance digest": (version.tags.get(PROVENANCE_DIGEST_TAG, ""), details["provenance_digest"]),
        }
        self.stored = stored
        for what, (value, recorded) in found.items():
            if value != recorded:
                raise IntegrityError(
                    f"version {self.number} is not the one that was registered: its {what} is "
                    f"{value[:14] or 'missing'}, by the record {recorded[:14] or 'none'}"
                )
        return f"registered {entries[0].time[:19]} by {entries[0].actor}"

    def check_run(self) -> str:
        """The training run and the logged model are still there."""
        details = _needed(self.registered, "the version").details
        run_id, model_id = details["run_id"], details["logged_model"]
        run = _or_gone(lambda: self.client.get_run(run_id), f"the training run {run_id}")
        if run.info.lifecycle_stage != "active":
            raise IntegrityError(f"the training run {run_id} was deleted")
        _or_gone(lambda: self.client.get_logged_model(model_id), f"the logged model {model_id}")
        return f"run {run_id}, {model_id}"

    def check_provenance(self) -> str:
        """The statement's bytes are those that were registered, and it speaks of the registered data."""
        details, stored = _needed(self.registered, "the version").details, _needed(self.stored, "the version")
        if not details["provenance_digest"]:
            raise IntegrityError("the version was registered without provenance")
        path = stored.download(PROVENANCE_FILE, self.scratch, details["provenance_digest"])
        self.envelope = dict(read_json(path))
        statement = open_envelope(self.envelope, None, PROVENANCE_FILE)
        if data_digest(statement) != details["data_digest"]:
            raise IntegrityError("it speaks of other data than the record")
        self.statement = statement
        return f"statement {details['provenance_digest'][:12]}, {len(subjects(statement))} subjects"

    def check_signature(self) -> str:
        """Who vouches for the statement."""
        envelope = _needed(self.envelope, "the provenance")
        if self.verifier is None:
            keys = signed_by(envelope)
            raise _Skip(f"signed by {keys[0][:12]}, but no public key is set" if keys else "not signed")
        open_envelope(envelope, self.verifier, PROVENANCE_FILE)
        return f"signed by {self.verifier.key_id[:12]}"

    def check_model(self) -> str:
        """Every file of the model in the artifact store is the one that was trained."""
        statement, stored = _needed(self.statement, "the provenance"), _needed(self.stored, "the version")
        folder = self._model_folder(stored)
        check_subjects(statement, folder, stored.where(MODEL_ARTIFACT))
        return f"{len(subjects(statement))} files hashed"

    def check_reports(self) -> str:
        """Validation, evaluation and gate are those that the statement names, and belong together."""
        reports = byproducts(_needed(self.statement, "the provenance"))
        for name, digest in sorted(reports.items()):
            _needed(self.stored, "the version").download(name, self.scratch, digest)
        if GATE_ARTIFACT in reports:
            verdict = read_json(self.scratch / GATE_ARTIFACT)
            for report, key in _JUDGED.items():
                if report in reports and verdict.get(key) != reports[report]:
                    raise IntegrityError(f"{GATE_ARTIFACT} judged another {report}")
        return ", ".join(sorted(reports))

    def check_gates(self) -> str:
        """The reports that promotions were decided by are kept with the record, unchanged."""
        history = _needed(self.history, "the record")
        seen = []
        for entry in history.entries:
            gate = entry.details.get("gate", {}) if entry.version == self.number else {}
            if gate.get("digest"):
                self._check_gate(history, entry, gate)
                seen.append(f"{'passed' if gate['passed'] else 'NOT PASSED'} (entry {entry.number})")
        if not seen:
            raise _Skip("no gate was looked at for a promotion")
        return ", ".join(seen)

    def check_manifest(self) -> str:
        """The list of the training data's bytes is the registered one, and its digest the statement's."""
        digest = data_digest(_needed(self.statement, "the provenance"))
        run_id = _needed(self.history, "the record").run_id
        path = fetch_manifest(self.client, run_id, digest, self.scratch / "manifest.parquet")
        if path is None:
            raise IntegrityError(f"the manifest of the data {digest[:12]} is gone", where=f"run {run_id}")
        where = f"{MANIFESTS}/{digest}.parquet of run {run_id}"
        recorded = _needed(self.registered, "the version").details.get("manifest_digest")
        if recorded and sha256_file(path) != recorded:
            raise IntegrityError("the manifest's bytes have changed since it was registered", where=where)
        table = read_manifest(path)
        require_rows(table, where)
        if (found := root_digest(table)) != digest:
            raise IntegrityError(f"the manifest has the digest {found[:12]}, not {digest[:12]}", where=where)
        self.manifest = table
        return f"{table.num_rows} rows, digest {digest[:12]}"

    def check_data(self, how: DataCheck) -> str:
        """The data at the DVC remote are still those of the manifest."""
        dataset = dependency(_needed(self.statement, "the provenance"), DATASET)
        table = _needed(self.manifest, "the manifest")
        if how == "none":
            raise _Skip("not asked for")
        if not dataset or not dataset["digest"].get("dvcMd5"):
            raise _Skip("DVC does not know the data")
        return check_stored_data(dataset, table, read=how == "all")

    def check_stages(self) -> str:
        """MLflow's stages, tags and aliases say what the record says."""
        state = state_of(_needed(self.history, "the record").entries)
        for version in search(self.client, self.name):
            stage = state.stage_of(int(version.version))
            said = {"tag": version.tags.get(STAGE_TAG), "stage": version.current_stage}
            for what, value in said.items():
                if (value or Stage.NONE) != stage:
                    raise IntegrityError(
                        f"MLflow's {what} of version {version.version} is {value}, by the record {stage}"
                    )
        aliases = read_aliases(self.client, self.name)
        holders = {Stage.STAGING: state.staging, Stage.PRODUCTION: state.production}
        for stage, names in ALIASES.items():
            for alias in names:
                if aliases.get(alias) != (str(holders[stage]) if holders[stage] else None):
                    raise IntegrityError(
                        f"the alias {alias!r} belongs to version {aliases.get(alias, 'none')}; "
                        f"by the record to {holders[stage] or 'none'}"
                    )
        return f"{state.stage_of(self.number)}; {CHAMPION}: version {state.production or 'none'}"

    def _check_head(self, history: History) -> None:
        """The registered model names the last entry, for a chain does not show that its end was cut off."""
        anchor = self.client.get_registered_model(self.name).tags.get(HEAD_TAG)
        if anchor is None:
            return
        number, _, digest = anchor.partition(" ")
        if int(number) > len(history.entries):
            raise IntegrityError(f"entry {number} of the record was removed")
        if history.entries[int(number) - 1].digest != digest:
            raise IntegrityError(f"entry {number} of the record is not the one that was written")

    def _version(self) -> Any:
        what = f"version {self.number}, which the record tells of,"
        return _or_gone(lambda: self.client.get_model_version(self.name, str(self.number)), what)

    def _model_folder(self, stored: Stored) -> Path:
        """The model as it is in the store, whatever its digest: its files are compared one by one."""
        try:
            return stored.download(MODEL_ARTIFACT, self.scratch)
        except IntegrityError:
            path = self.scratch / MODEL_ARTIFACT
            if path.is_dir():
                return path
            raise

    def _check_gate(self, history: History, entry: Entry, gate: dict[str, Any]) -> None:
        name = f"gates/{gate['digest']}.json"
        where = f"{name} of run {history.run_id}"
        if name not in [file.path for file in self.client.list_artifacts(history.run_id, "gates")]:
            raise IntegrityError(f"the gates' report of entry {entry.number} is gone", where=where)
        path = Path(self.client.download_artifacts(history.run_id, name, str(self.scratch)))
        if sha256_file(path) != gate["digest"]:
            raise IntegrityError(f"the gates' report of entry {entry.number} was changed", where=where)


def _number(client: "MlflowClient", name: str, reference: int | str, tracking_uri: str) -> int:
    """The number of a version; also of one that is gone, if a record of the model registers it.

    Where the record cannot be trusted, MLflow says whose alias it is.
    """
    try:
        return int(find(client, name, reference, tracking_uri).version)
    except IntegrityError:
        number = read_aliases(client, name).get(str(reference), str(reference))
        if number.isdigit():
            return int(number)
        raise
    except ConfigError:
        if str(reference).isdigit() and int(reference) in _recorded_numbers(client, name):
            return int(reference)
        raise


def _recorded_numbers(client: "MlflowClient", name: str) -> Iterator[int]:
    for run in record_runs(client, name):
        yield from state_of(History(client, name, run.info.run_id).entries).registered


def _outcome(link: str, look: Callable[[], str]) -> Check:
    try:
        return Check(link, "ok", look())
    except _Skip as skip:
        return Check(link, "not checked", str(skip))
    except UnavailableError:
        raise
    except MeglError as error:
        return Check(link, "broken", f"{error.what} ({error.where})" if error.where else error.what)


def _needed(value: T | None, what: str) -> T:
    if value is None:
        raise _Skip(f"needs {what}")
    return value


def _or_gone(get: Callable[[], T], what: str) -> T:
    """What MLflow answers.

    Raises:
        IntegrityError: it has no such thing.
    """
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as error:
        if error_code(error) != MISSING:
            raise
        raise IntegrityError(f"{what} is gone") from None
