"""What a promotion needs: rules that hold on the same bytes, validated data, verified provenance."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megl_core.config import Config
from megl_core.data.packed import verify
from megl_core.errors import DataError, GateError, IntegrityError, MeglError
from megl_core.evaluation import EVALUATION_FILE, PREDICTIONS_FILE, evaluate
from megl_core.files import read_json
from megl_core.provenance.signing import find_verifier, open_envelope
from megl_core.provenance.statement import byproducts, data_digest, missing_parts
from megl_core.registry.fetching import fetch_envelope, fetch_evaluated, fetch_model, fetch_report
from megl_core.registry.gate import GateRow, compare
from megl_core.registry.versions import RegisteredVersion, champion

VALIDATION_ARTIFACT = "validation.json"
CHAMPION_FOLDER = "champion"
_OLD = "an older MEGL registered it; train a model with this one, or promote with --force"


@dataclass(frozen=True)
class Verdict:
    """What the gates say of a version.

    Attributes:
        rows: each bound, and one row each for the data's validation and the provenance.
        champion: the version in Production when it was judged; None: there was none.
        compared: digests of the data, the models and the evaluations that were compared; empty where that
            was not possible.
    """

    name: str
    version: int
    passed: bool
    rows: list[GateRow]
    champion: int | None
    compared: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def failed(self) -> str:
        """The rows that did not pass, in one line."""
        return "; ".join(f"{row.metric}: {row.note or row.bound}" for row in self.rows if not row.passed)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rows": [row.to_json() for row in self.rows]}


def judge(name: str, version: int, config: Config, tracking_uri: str, data: Path | None = None) -> Verdict:
    """Look at every gate of a registered version, against the version that is in Production now.

    Args:
        data: packed test data to evaluate both on, where their registered evaluations are not of these or
            do not compare.

    Raises:
        ConfigError: there is no such version.
        DataError: `data` are no packed data.
        IntegrityError: `data` are not what their digest says.
        UnavailableError: MLflow does not answer.
    """
    in_production = champion(name, tracking_uri)
    rival = in_production
    if rival is not None and rival.version == version:
        rival = None  # it is measured by the absolute bounds alone
    digest = verify(data).digest if data else None
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        candidate = _Candidate(name, version, config, tracking_uri, scratch)
        try:
            own, theirs = _evaluations(candidate, rival, data, digest)
            result = compare(own / EVALUATION_FILE, theirs / EVALUATION_FILE if theirs else None, config.gate)
            rows, compared = result.rows, result.compared
        except (GateError, IntegrityError) as error:
            rows, compared = [_row("comparison", "on the same test bytes", _said(error))], {}
        rows = [*rows, _validated(candidate), _proven(candidate)]
    return Verdict(
        name,
        version,
        all(row.passed for row in rows),
        rows,
        in_production.version if in_production else None,
        compared,
    )


def comparable(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two evaluations are of the same bytes, made in the same way."""
    return all(one.get(name) == other.get(name) for name in ("data_digest", "method_digest"))


def champion_on(
    challenger: dict[str, Any],
    current: RegisteredVersion,
    config: Config,
    tracking_uri: str,
    data: Path | None,
    folder: Path,
) -> Path | None:
    """The champion's evaluation on the challenger's bytes: the registered one, or one made on `data`.

    An evaluation without predictions gives no intervals, so that it is made anew where there are data. None
    where the registered one does not compare and there are none.
    """
    registered = fetch_evaluated(current.name, current.version, tracking_uri, folder / "registered")
    if comparable(read_json(registered / EVALUATION_FILE), challenger) and (
        data is None or (registered / PREDICTIONS_FILE).is_file()
    ):
        return registered
    if data is None:
        return None
    candidate = _Candidate(current.name, current.version, config, tracking_uri, folder)
    return candidate.evaluate(data)


@dataclass(frozen=True)
class _Candidate:
    """A registered version that is looked at, and a folder for what is fetched."""

    name: str
    version: int
    config: Config
    tracking_uri: str
    scratch: Path

    def fetch(self, artifact: str) -> Path | None:
        """A report that is stored with it; None where there is none."""
        return fetch_report(
            self.name, self.version, self.tracking_uri, artifact, self.scratch / "reports" / artifact
        )

    def evaluate(self, data: Path) -> Path:
        """Measure it anew."""
        verifier = find_verifier(self.config.registry)
        model = fetch_model(self.name, self.version, self.tracking_uri, self.scratch / "model", verifier)
        return evaluate(model, data, self.config.evaluation, self.scratch / "evaluated").folder


def _evaluations(
    candidate: _Candidate, rival: RegisteredVersion | None, data: Path | None, digest: str | None
) -> tuple[Path, Path | None]:
    """Folders of the candidate's evaluation and of its rival's, which compare.

    Raises:
        GateError: there are none that do, and no data to make them on.
    """
    name, uri = candidate.name, candidate.tracking_uri
    own = fetch_evaluated(name, candidate.version, uri, candidate.scratch / "own")
    report = read_json(own / EVALUATION_FILE)
    if data is not None and digest != report.get("data_digest"):
        own = candidate.evaluate(data)
        report = read_json(own / EVALUATION_FILE)
    if rival is None:
        return own, None
    theirs = _evidence(candidate, rival, report) or champion_on(
        report, rival, candidate.config, uri, data, candidate.scratch / "champion"
    )
    if theirs is None:
        raise GateError(
            f"version {rival.version} in Production was evaluated on other data or in another way",
            fix="give the test data with --data",
        )
    if data is not None and not comparable(read_json(theirs / EVALUATION_FILE), report):
        own = candidate.evaluate(data)  # its registered evaluation was made in another way
    return own, theirs


def _evidence(candidate: _Candidate, rival: RegisteredVersion, report: dict[str, Any]) -> Path | None:
    """The champion's evaluation that was stored with the version, if it is of this champion and compares."""
    files = [candidate.fetch(f"{CHAMPION_FOLDER}/{name}") for name in (EVALUATION_FILE, PREDICTIONS_FILE)]
    folders = [path.parent for path in files if path is not None]
    if len(folders) < len(files):
        return None
    stored = read_json(folders[0] / EVALUATION_FILE)
    same = stored.get("model_digest") == rival.model_digest and comparable(stored, report)
    return folders[0] if same else None


def _validated(candidate: _Candidate) -> GateRow:
    """The report of the training data's validation that is stored with the version."""
    bound = "the training data passed"
    try:
        path = candidate.fetch(VALIDATION_ARTIFACT)
        if path is None:
            return _row("validation", bound, f"no report is stored with the version: {_OLD}")
        envelope = fetch_envelope(candidate.name, candidate.version, candidate.tracking_uri)
        digest = data_digest(open_envelope(envelope, None, VALIDATION_ARTIFACT))
        report = read_json(path)
    except (DataError, IntegrityError) as error:
        return _row("validation", bound, _said(error))
    if report.get("digest") != digest:
        return _row("validation", bound, "the report is about other data than the model was trained on")
    return _row("validation", bound, "" if report.get("passed") is True else "the validation failed")


def _proven(candidate: _Candidate) -> GateRow:
    """The provenance: there, complete, of the very model and reports, and signed where that is demanded."""
    bound = "complete and verified"
    config, name, version, uri = (
        candidate.config,
        candidate.name,
        candidate.version,
        candidate.tracking_uri,
    )
    verifier = find_verifier(config.registry)
    if config.promotion.require_signature and verifier is None:
        return _row(
            "provenance", bound, "a signature is demanded, and no key to check it by: registry.public_key"
        )
    try:
        envelope = fetch_envelope(name, version, uri)
        if envelope is None:
            return _row("provenance", bound, f"the version was registered without: {_OLD}")
        statement = open_envelope(envelope, verifier, f"provenance.json of version {version} of {name!r}")
        fetch_model(name, version, uri, candidate.scratch / "proven", verifier)
        for report in byproducts(statement):
            candidate.fetch(report)
    except (DataError, IntegrityError) as error:
        return _row("provenance", bound, _said(error))
    if missing := missing_parts(statement):
        return _row("provenance", bound, f"missing: {', '.join(missing)}")
    return GateRow("provenance", None, None, bound, True, "" if verifier else "no signature was checked")


def _row(gate: str, bound: str, problem: str) -> GateRow:
    """A gate without numbers; it passes where there is no problem."""
    return GateRow(gate, None, None, bound, not problem, problem)


def _said(error: MeglError) -> str:
    """An error in one line."""
    return ": ".join(filter(None, (error.where, error.what, error.fix)))
