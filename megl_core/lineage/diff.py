"""What changed between two versions: data, parameters, code, environment, metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from megl_core.data.manifest import read_manifest
from megl_core.lineage.record import Recorded, fetch_manifest
from megl_core.provenance.statement import Statement, data_digest, dependency, parameters
from megl_core.registry.connection import connect, mlflow_errors
from megl_core.registry.history import find_history
from megl_core.registry.tracking import flatten

_PARTS = {
    "image": "image_sha256",
    "mask": "mask_sha256",
    "label": "label",
    "text": "text_sha256",
    "split": "split",
    "columns": "extra",
}
_DEPENDENCIES = ("dataset", "code", "megl_core", "lock", "image", "environment")


@dataclass(frozen=True)
class DataDiff:
    """Rows by id.

    Attributes:
        changed: `{id: what of it differs}`.
    """

    added: list[str]
    removed: list[str]
    changed: dict[str, list[str]]


@dataclass(frozen=True)
class Diff:
    """What differs; each pair is (of the first, of the second), None where there is none.

    Attributes:
        data: None where the data are the same, or a manifest is missing, as `trouble` says.
        dependencies: digests of data, code, packages.
    """

    data: DataDiff | None
    parameters: dict[str, tuple[Any, Any]]
    dependencies: dict[str, tuple[str | None, str | None]]
    metrics: dict[str, tuple[float | None, float | None]]
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diff(first: Recorded, second: Recorded, tracking_uri: str, cache: Path) -> Diff:
    """Compare two versions, of one model or of two.

    Args:
        cache: the workspace, whose manifests are looked at first.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    one, other = first.statement, second.statement
    data, trouble = None, ""
    if one is None or other is None:
        trouble = "a version without provenance: data, parameters and code cannot be compared"
    elif data_digest(one) != data_digest(other):
        data, trouble = _data(first, second, tracking_uri, cache)
    return Diff(
        data=data,
        parameters=_changed(_parameters(one), _parameters(other)),
        dependencies=_changed(_digests(one), _digests(other)),
        metrics=_changed(flatten(first.metrics), flatten(second.metrics)),
        trouble=trouble,
    )


def compare_manifests(one: pa.Table, other: pa.Table) -> DataDiff:
    """Rows that were added, removed or changed, by id, in the order of their ids."""
    ours, theirs = (
        dict(zip(table["id"].to_pylist(), table["row_sha256"].to_pylist(), strict=True))
        for table in (one, other)
    )
    touched = {sample for sample in ours.keys() & theirs.keys() if ours[sample] != theirs[sample]}
    before, after = (_parts(table, touched) for table in (one, other))
    return DataDiff(
        added=sorted(theirs.keys() - ours.keys()),
        removed=sorted(ours.keys() - theirs.keys()),
        changed={
            sample: [part for part in _PARTS if before[sample][part] != after[sample][part]]
            for sample in sorted(touched)
        },
    )


def _data(first: Recorded, second: Recorded, tracking_uri: str, cache: Path) -> tuple[DataDiff | None, str]:
    tables = []
    for recorded in (first, second):
        table = _manifest(recorded, tracking_uri, cache)
        if table is None:
            version = f"{recorded.version.name} version {recorded.version.version}"
            return None, f"the manifest of the data of {version} is gone"
        tables.append(table)
    return compare_manifests(*tables), ""


def _manifest(recorded: Recorded, tracking_uri: str, cache: Path) -> pa.Table | None:
    client = connect(tracking_uri)
    with mlflow_errors(tracking_uri, "read the record"):
        history = find_history(client, recorded.version.name)
    if history is None or recorded.statement is None:
        return None
    path = fetch_manifest(client, history.run_id, data_digest(recorded.statement), cache)
    return read_manifest(path) if path else None


def _parts(table: pa.Table, wanted: set[str]) -> dict[str, dict[str, Any]]:
    columns = {part: table[column].to_pylist() for part, column in _PARTS.items()}
    return {
        sample: {part: values[place] for part, values in columns.items()}
        for place, sample in enumerate(table["id"].to_pylist())
        if sample in wanted
    }


def _parameters(statement: Statement | None) -> dict[str, Any]:
    return flatten(parameters(statement)) if statement else {}


def _digests(statement: Statement | None) -> dict[str, str]:
    """Of the dependencies that both statements may name."""
    found = {name: dependency(statement, name) for name in _DEPENDENCIES} if statement else {}
    return {
        name: str(item["digest"].get("sha256") or item["digest"].get("gitCommit", ""))
        for name, item in found.items()
        if item
    }


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(one.keys() | other.keys())
    pairs = {name: (one.get(name), other.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
