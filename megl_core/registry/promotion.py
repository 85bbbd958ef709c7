"""What a promotion needs: rules that hold on the same bytes, validated data, verified provenance."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megl_core.config import Config
from megl_core.data.packed import read_info
from megl_core.errors import GateError, MeglError
from megl_core.evaluation import EVALUATION_FILE, evaluate
from megl_core.files import read_json
from megl_core.provenance.signing import find_verifier, open_envelope
from megl_core.provenance.statement import data_digest, missing_parts
from megl_core.registry.fetching import fetch_envelope, fetch_evaluated, fetch_model, fetch_report
from megl_core.registry.gate import GateResult, GateRow, compare
from megl_core.registry.versions import RegisteredVersion, champion

VALIDATION_ARTIFACT = "validation.json"
CHAMPION_FOLDER = "champion"


@dataclass(frozen=True)
class Verdict:
    """What the gates say of a version.

    Attributes:
        rows: each bound, and one row each for the data's validation and the provenance.
        champion: the version in Production that it was compared with; None: there was none.
    """

    name: str
    version: int
    passed: bool
    rows: list[GateRow]
    champion: int | None

    @property
    def failed(self) -> str:
        """The rows that did not pass, in one line."""
        return "; ".join(f"{row.metric}: {row.note or row.bound}" for row in self.rows if not row.passed)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rows": [row.to_json() for row in self.rows]}


def judge(name: str, version: int, config: Config, tracking_uri: str, data: Path | None = None) -> Verdict:
    """Look at every gate of a registered version, against the version that is in Production now.

    Args:
        data: packed test data to evaluate both on, where their registered evaluations do not compare.

    Raises:
        ConfigError: there is no such version.
        UnavailableError: MLflow does not answer.
    """
    current = champion(name, tracking_uri)
    if current is not None and current.version == version:
        current = None  # it is measured by the absolute bounds alone
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            *_compared(name, version, current, config, tracking_uri, data, Path(scratch)),
            _validated(name, version, tracking_uri, Path(scratch)),
            _proven(name, version, config, tracking_uri),
        ]
    in_production = champion(name, tracking_uri)
    return Verdict(
        name,
        version,
        all(row.passed for row in rows),
        rows,
        in_production.version if in_production else None,
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

    None where the registered one does not compare and there are no data.
    """
    registered = fetch_evaluated(current.name, current.version, tracking_uri, folder / "registered")
    if comparable(read_json(registered / EVALUATION_FILE), challenger):
        return registered
    if data is None:
        return None
    model = fetch_model(current.name, current.version, tracking_uri, folder / "model")
    return evaluate(model, data, config.evaluation, folder / "evaluated").folder


def _compared(
    name: str,
    version: int,
    current: RegisteredVersion | None,
    config: Config,
    tracking_uri: str,
    data: Path | None,
    scratch: Path,
) -> list[GateRow]:
    try:
        own = _own_evaluation(name, version, config, tracking_uri, data, scratch)
        theirs = None
        if current is not None:
            report = read_json(own / EVALUATION_FILE)
            theirs = _evidence(name, version, current, report, tracking_uri, scratch) or champion_on(
                report, current, config, tracking_uri, data, scratch / "champion"
            )
            if theirs is None:
                return [_not_comparable(current)]
        result: GateResult = compare(
            own / EVALUATION_FILE, theirs / EVALUATION_FILE if theirs else None, config.gate
        )
    except GateError as error:
        return [_row("comparison", "on the same test bytes", passed=False, note=error.what)]
    return result.rows


def _own_evaluation(
    name: str, version: int, config: Config, tracking_uri: str, data: Path | None, scratch: Path
) -> Path:
    """The version's evaluation: the registered one, unless other data are given."""
    own = fetch_evaluated(name, version, tracking_uri, scratch / "own")
    if data is None or read_info(data).digest == read_json(own / EVALUATION_FILE).get("data_digest"):
        return own
    model = fetch_model(name, version, tracking_uri, scratch / "own-model")
    return evaluate(model, data, config.evaluation, scratch / "own-evaluated").folder


def _evidence(
    name: str,
    version: int,
    current: RegisteredVersion,
    report: dict[str, Any],
    tracking_uri: str,
    scratch: Path,
) -> Path | None:
    """The champion's evaluation that was stored with the version, if it is of this champion and compares."""
    folder = scratch / "evidence"
    for file in ("evaluation.json", "predictions.parquet"):
        if fetch_report(name, version, tracking_uri, f"{CHAMPION_FOLDER}/{file}", folder / file) is None:
            return None
    stored = read_json(folder / EVALUATION_FILE)
    same = stored.get("model_digest") == current.model_digest and comparable(stored, report)
    return folder if same else None


def _not_comparable(current: RegisteredVersion) -> GateRow:
    note = (
        f"version {current.version} in Production was evaluated on other data or in another way: give --data"
    )
    return _row("comparison", "on the same test bytes", passed=False, note=note)


def _validated(name: str, version: int, tracking_uri: str, scratch: Path) -> GateRow:
    """The report of the training data's validation that is stored with the version."""
    bound = "the training data passed"
    try:
        path = fetch_report(name, version, tracking_uri, VALIDATION_ARTIFACT, scratch / VALIDATION_ARTIFACT)
        if path is None:
            return _row("validation", bound, passed=False, note="no report is stored with the version")
        envelope = fetch_envelope(name, version, tracking_uri)
        digest = data_digest(open_envelope(envelope, None, VALIDATION_ARTIFACT))
    except MeglError as error:
        return _row("validation", bound, passed=False, note=error.what)
    report = read_json(path)
    if report.get("digest") != digest:
        return _row("validation", bound, passed=False, note="the report is about other data")
    return _row("validation", bound, passed=report.get("passed") is True, note="")


def _proven(name: str, version: int, config: Config, tracking_uri: str) -> GateRow:
    """The provenance: there, complete, of the very bytes, and signed where that is demanded."""
    bound = "complete and verified"
    verifier = find_verifier(config.registry)
    if config.promotion.require_signature and verifier is None:
        return _row("provenance", bound, passed=False, note="no public key is set to check it by")
    try:
        envelope = fetch_envelope(name, version, tracking_uri)
        if envelope is None:
            return _row("provenance", bound, passed=False, note="the version was registered without")
        statement = open_envelope(envelope, verifier, "provenance.json")
        with tempfile.TemporaryDirectory() as scratch:
            fetch_model(name, version, tracking_uri, Path(scratch) / "model", verifier)
    except MeglError as error:
        return _row("provenance", bound, passed=False, note=error.what)
    missing = missing_parts(statement)
    note = f"missing: {', '.join(missing)}" if missing else "" if verifier else "not signed or not checked"
    return _row("provenance", bound, passed=not missing, note=note)


def _row(metric: str, bound: str, *, passed: bool, note: str) -> GateRow:
    return GateRow(metric, None, None, bound, passed, note)
