"""Does everything that is recorded of a version still hold? Each link is looked at anew, in bytes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from megl_core.data.manifest import read_manifest, root_digest
from megl_core.errors import IntegrityError, MeglError, UnavailableError
from megl_core.files import read_json
from megl_core.lineage.record import MANIFESTS, fetch_manifest
from megl_core.provenance.signing import Verifier, open_envelope, signed_by
from megl_core.provenance.statement import (
    DATASET,
    PROVENANCE_FILE,
    Statement,
    byproducts,
    check_subjects,
    data_digest,
    dependency,
)
from megl_core.registry.connection import connect, error_code, mlflow_errors
from megl_core.registry.fetching import Stored
from megl_core.registry.history import Entry, History, find_history, record_runs
from megl_core.registry.packaging import GATE_ARTIFACT, MODEL_ARTIFACT
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
from megl_core.storage.objects import stored_files

if TYPE_CHECKING:
    from mlflow import MlflowClient

DataCheck = Literal["all", "list", "none"]
Outcome = Literal["ok", "broken", "not checked"]
_SHOWN = 5


@dataclass(frozen=True)
class Check:
    """One link of the chain: what was looked at, how it stands, and what was seen."""

    name: str
    outcome: Outcome
    note: str


class _Skip(Exception):  # noqa: N818 (no error: there is nothing to check)
    """There is nothing to check, or what it needs is broken already."""


class _Audit:
    """A version under examination; what one check finds, later ones use."""

    def __init__(
        self,
        client: "MlflowClient",
        name: str,
        number: int,
        verifier: Verifier | None,
        scratch: Path,
        cache: Path,
    ) -> None:
        self.client = client
        self.name = name
        self.number = number
        self.verifier = verifier
        self.scratch = scratch
        self.cache = cache
        self.stored = Stored(client, client.get_model_version(name, str(number)))
        self.history: History | None = None
        self.registered: Entry | None = None
        self.envelope: dict[str, Any] | None = None
        self.statement: Statement | None = None
        self.manifest: Any = None

    # --- the checks, in the order of the chain ---

    def check_history(self) -> str:
        """One record, whole."""
        runs = [run.info.run_id for run in record_runs(self.client, self.name)]
        self.history = find_history(self.client, self.name)
        if self.history is None:
            raise IntegrityError(
                "the model names no record" + (f"; runs {runs} say to be one" if runs else "")
            )
        if others := [run for run in runs if run != self.history.run_id]:
            raise IntegrityError(f"there is another record of this model: run {others[0]}")
        self._check_reports_of_gates()
        return f"{len(self.history.entries)} entries, head {self.history.head[:12]}"

    def check_version(self) -> str:
        """Registered once, as the record says."""
        history = self._need(self.history, "the record")
        entries = [
            entry for entry in history.entries if entry.action == "register" and entry.version == self.number
        ]
        if not entries:
            raise IntegrityError(f"no entry of the record registers version {self.number}")
        self.registered = entries[0]
        if len(entries) > 1:
            numbers = ", ".join(str(entry.number) for entry in entries)
            raise IntegrityError(f"version {self.number} was registered more than once: entries {numbers}")
        version, details = self.stored.version, entries[0].details
        found = {
            "model_digest": version.tags.get(MODEL_DIGEST_TAG, ""),
            "provenance_digest": version.tags.get(PROVENANCE_DIGEST_TAG, ""),
            "run_id": version.run_id or "",
            "logged_model": str(version.source).removeprefix("models:/"),
        }
        for key, value in found.items():
            if value != details[key]:
                raise IntegrityError(
                    f"version {self.number} is not the one that was registered: its {key.replace('_', ' ')} "
                    f"is {value[:12] or 'missing'}, not {details[key][:12]}"
                )
        return f"registered {entries[0].time[:19]} by {entries[0].actor}"

    def check_run(self) -> str:
        """The training run."""
        from mlflow.exceptions import MlflowException

        run_id = self._need(self.registered, "the registration").details["run_id"]
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error_code(error) != MISSING:
                raise
            raise IntegrityError(f"the training run {run_id} is gone") from None
        if run.info.lifecycle_stage != "active":
            raise IntegrityError(f"the training run {run_id} was deleted")
        return f"run {run_id}"

    def check_provenance(self) -> str:
        """The statement's bytes are those that were registered."""
        details = self._need(self.registered, "the registration").details
        if not details["provenance_digest"]:
            raise IntegrityError("the version was registered without provenance")
        path = self.stored.download(PROVENANCE_FILE, self.scratch, details["provenance_digest"])
        self.envelope = dict(read_json(path))
        self.statement = open_envelope(self.envelope, None, PROVENANCE_FILE)
        return f"statement {details['provenance_digest'][:12]}"

    def check_signature(self) -> str:
        """Who vouches for it."""
        envelope = self._need(self.envelope, "the provenance")
        if self.verifier is None:
            keys = signed_by(envelope)
            raise _Skip(f"signed by {keys[0][:12]}; no public key is configured" if keys else "not signed")
        open_envelope(envelope, self.verifier, PROVENANCE_FILE)
        return f"signed by {self.verifier.key_id[:12]}"

    def check_model(self) -> str:
        """Every file of the model, from the artifact store."""
        statement = self._need(self.statement, "the provenance")
        digest = self._need(self.registered, "the registration").details["model_digest"]
        folder = self._downloaded(MODEL_ARTIFACT)
        check_subjects(statement, folder, self.stored.where(MODEL_ARTIFACT))
        return f"{len(statement['subject'])} files, digest {digest[:12]}"

    def check_reports(self) -> str:
        """Validation, evaluation and gate are those that the statement names."""
        reports = byproducts(self._need(self.statement, "the provenance"))
        for name, digest in sorted(reports.items()):
            self.stored.download(name, self.scratch, digest)
        self._check_gate(reports)
        return ", ".join(sorted(reports))

    def check_manifest(self) -> str:
        """The list of the training data's bytes has the digest that the statement names."""
        digest = data_digest(self._need(self.statement, "the provenance"))
        history = self._need(self.history, "the record")
        path = fetch_manifest(self.client, history.run_id, digest, self.cache)
        if path is None:
            raise IntegrityError(f"the manifest of the data {digest[:12]} is gone from {MANIFESTS}")
        table = read_manifest(path)
        if (found := root_digest(table)) != digest:
            raise IntegrityError(
                f"the manifest has the digest {found[:12]}, not {digest[:12]}", where=str(path)
            )
        self.manifest = table
        return f"{table.num_rows} rows, digest {digest[:12]}"

    def check_data(self, how: DataCheck) -> str:
        """The images and masks at the DVC remote are still those of the manifest."""
        dataset = dependency(self._need(self.statement, "the provenance"), DATASET)
        table = self._need(self.manifest, "the manifest")
        if how == "none":
            raise _Skip("not asked for")
        if not dataset or not dataset["digest"].get("dvcMd5"):
            raise _Skip("DVC does not know the data")
        wanted = _digests_by_path(table)
        repository, _, _ = str(dataset["uri"]).removeprefix("dvc+").rpartition("#")
        problems, seen = [], set()
        annotations = dataset.get("annotations", {})
        for file in stored_files(
            repository, annotations.get("revision"), dataset["digest"]["dvcMd5"], read=how == "all"
        ):
            seen.add(file.path)
            changed = file.path in wanted and file.sha256 not in (None, wanted[file.path])
            if file.problem or changed:
                problems.append(f"{file.path} ({file.problem or 'other bytes than in the manifest'})")
        problems += [f"{path} (not in the DVC version)" for path in sorted(wanted.keys() - seen)]
        if problems:
            more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise IntegrityError(f"{len(problems)} files changed: {', '.join(problems[:_SHOWN])}{more}")
        done = "hashed" if how == "all" else "listed"
        return f"{len(wanted)} images and masks {done}, DVC {dataset['digest']['dvcMd5'][:12]}"

    def check_stages(self) -> str:
        """MLflow says what the record says."""
        state = state_of(self._need(self.history, "the record").entries)
        for version in search(self.client, self.name):
            stage = state.stage_of(int(version.version))
            for said, name in (
                (version.tags.get(STAGE_TAG, Stage.NONE), "tag"),
                (version.current_stage or Stage.NONE, "stage"),
            ):
                if said != stage:
                    raise IntegrityError(
                        f"MLflow's {name} of version {version.version} is {said}; by the record it is {stage}"
                    )
        aliases = read_aliases(self.client, self.name)
        for alias in (alias for names in ALIASES.values() for alias in names):
            holder = state.staging if alias == "staging" else state.production
            if aliases.get(alias) != (str(holder) if holder else None):
                raise IntegrityError(
                    f"the alias {alias!r} is of version {aliases.get(alias)}; by the record of {holder}"
                )
        return f"{state.stage_of(self.number)}; {CHAMPION}: {state.production or 'none'}"

    # --- helpers ---

    def _need(self, value: Any, what: str) -> Any:
        if value is None:
            raise _Skip(f"{what} is broken")
        return value

    def _downloaded(self, artifact: str) -> Path:
        """An artifact as it is in the store; what it should be is compared by the caller, file by file."""
        try:
            return self.stored.download(artifact, self.scratch)
        except IntegrityError:
            path = self.scratch / artifact
            if path.is_dir():
                return path
            raise

    def _check_reports_of_gates(self) -> None:
        """The reports that promotions were decided by are kept with the record under their digests."""
        history = self._need(self.history, "the record")
        for entry in history.entries:
            digest = entry.details.get("gate", {}).get("digest") if entry.action == "promote" else ""
            if not digest or entry.version != self.number:
                continue
            path = Path(
                self.client.download_artifacts(history.run_id, f"gates/{digest}.json", str(self.scratch))
            )
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise IntegrityError(f"the gates' report of entry {entry.number} was changed")

    def _check_gate(self, reports: dict[str, str]) -> None:
        if GATE_ARTIFACT not in reports:
            return
        verdict = read_json(self.scratch / GATE_ARTIFACT)
        for report, key in (
            ("evaluation.json", "evaluation_digest"),
            ("champion/evaluation.json", "champion_evaluation_digest"),
        ):
            if report in reports and verdict.get(key) != reports[report]:
                raise IntegrityError(f"{GATE_ARTIFACT} judged another {report}")


def verify(
    name: str,
    reference: int | str,
    tracking_uri: str,
    cache: Path,
    *,
    data: DataCheck = "all",
    verifier: Verifier | None = None,
) -> list[Check]:
    """Look at every link between a version and the bytes that made it.

    Args:
        cache: the workspace; manifests are looked for there first.
        data: hash every image at the DVC remote, or only look whether its object is there, or neither.
        verifier: the key that must have signed the provenance.

    Raises:
        ConfigError: there is no such version.
        UnavailableError: MLflow or the DVC remote does not answer.
    """
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "verify the version"), TemporaryDirectory() as scratch:
        number = int(find(client, name, reference, tracking_uri).version)
        audit = _Audit(client, name, number, verifier, Path(scratch), cache)
        links: dict[str, Callable[[], str]] = {
            "record": audit.check_history,
            "version": audit.check_version,
            "training run": audit.check_run,
            "provenance": audit.check_provenance,
            "signature": audit.check_signature,
            "model files": audit.check_model,
            "reports": audit.check_reports,
            "manifest": audit.check_manifest,
            "data": lambda: audit.check_data(data),
            "stages": audit.check_stages,
        }
        return [_outcome(link, look) for link, look in links.items()]


def first_broken(checks: list[Check]) -> Check | None:
    return next((check for check in checks if check.outcome == "broken"), None)


def _outcome(link: str, look: Callable[[], str]) -> Check:
    try:
        return Check(link, "ok", look())
    except _Skip as skip:
        return Check(link, "not checked", str(skip))
    except UnavailableError:
        raise
    except MeglError as error:
        return Check(link, "broken", f"{error.what} ({error.where})" if error.where else error.what)


def _digests_by_path(table: Any) -> dict[str, str]:
    """`{path in the dataset: SHA-256}` of images and masks."""
    pairs: dict[str, str] = {}
    for kind in ("image", "mask"):
        paths, digests = (table[column].to_pylist() for column in (kind, f"{kind}_sha256"))
        pairs |= {path: digest for path, digest in zip(paths, digests, strict=True) if path and digest}
    return pairs
