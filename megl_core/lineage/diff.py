"""What changed between two versions: data, parameters, code, environment, metrics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megl_core.data.manifest import read_manifest
from megl_core.errors import DataError
from megl_core.files import canonical_json
from megl_core.lineage.record import Recorded, kept_manifest, read_record
from megl_core.provenance.statement import CODE, DATASET, Statement, data_digest, parameters
from megl_core.registry.tracking import flatten

# What makes a sample another one, in the user's words.
_PARTS = {
    "label": "label",
    "split": "split",
    "group": "group",
    "image": "image_sha256",
    "mask": "mask_sha256",
    "text": "text_sha256",
    "columns": "extra",
}


@dataclass(frozen=True)
class DataChange:
    """How two datasets differ, by ids of samples.

    Attributes:
        added: only in the second.
        removed: only in the first.
        changed: `{id: parts}` of those in both.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Pair:
    """A value in the first and in the second version; None where one has none."""

    first: Any
    second: Any

    @property
    def difference(self) -> float | None:
        """Second minus first, of numbers."""
        if isinstance(self.first, int | float) and isinstance(self.second, int | float):
            return self.second - self.first
        return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | ({} if self.difference is None else {"difference": self.difference})


@dataclass(frozen=True)
class Difference:
    """What is not the same in two versions.

    Attributes:
        data: None where a manifest is not kept; `trouble` says which.
        parameters: by `section.key`.
        sources: code, packages, image, pretrained parts: their digests.
        metrics: by `split.metric`, also those that agree.
    """

    first: str
    second: str
    data: DataChange | None
    parameters: Mapping[str, Pair]
    sources: Mapping[str, Pair]
    metrics: Mapping[str, Pair]
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        pairs = {
            name: {key: pair.to_json() for key, pair in getattr(self, name).items()}
            for name in ("parameters", "sources", "metrics")
        }
        return {
            "first": self.first,
            "second": self.second,
            "data": None if self.data is None else asdict(self.data),
            "trouble": self.trouble,
            **pairs,
        }


def compare_versions(
    first: tuple[str, str], second: tuple[str, str], tracking_uri: str, workspace: Path
) -> Difference:
    """Compare two versions, given by model and number or alias; they may be of different models.

    Raises:
        ConfigError: there is no such version.
        DataError: one has no provenance.
        IntegrityError: a record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    one, other = (read_record(name, reference, tracking_uri) for name, reference in (first, second))
    said, says = _statement(one), _statement(other)
    manifests = [
        kept_manifest(recorded.version.name, data_digest(statement), tracking_uri, workspace)
        for recorded, statement in ((one, said), (other, says))
    ]
    missing = [_title(each) for each, path in zip((one, other), manifests, strict=True) if path is None]
    return Difference(
        first=_title(one),
        second=_title(other),
        data=None if missing else compare_manifests(*filter(None, manifests)),
        parameters=_pairs(flatten(parameters(said)), flatten(parameters(says))),
        sources=_pairs(_sources(said), _sources(says)),
        metrics=_pairs(flatten(one.metrics), flatten(other.metrics), equal_too=True),
        trouble=f"the manifest is not kept: {', '.join(missing)}" if missing else "",
    )


def compare_manifests(first: Path, second: Path) -> DataChange:
    """Which samples differ, by their ids; the names of files do not count.

    Raises:
        DataError: a file is no manifest.
    """
    if first == second:
        return DataChange((), (), {})
    before, after = _row_digests(first), _row_digests(second)
    differing = sorted(id_ for id_ in before.keys() & after.keys() if before[id_] != after[id_])
    one, other = (_rows(path, differing) for path in (first, second))
    changed = {
        id_: tuple(part for part, column in _PARTS.items() if one[id_][column] != other[id_][column])
        for id_ in differing
    }
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    return DataChange(tuple(sorted(added)), tuple(sorted(removed)), changed)


def _row_digests(manifest: Path) -> dict[str, str]:
    table = read_manifest(manifest, ["id", "row_sha256"])
    return dict(zip(table["id"].to_pylist(), table["row_sha256"].to_pylist(), strict=True))


def _rows(manifest: Path, ids: list[str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    import pyarrow.compute as pc

    table = read_manifest(manifest, ["id", *_PARTS.values()], pc.field("id").isin(ids))
    return {row["id"]: row for row in table.to_pylist()}


def _statement(recorded: Recorded) -> Statement:
    if recorded.statement is None:
        raise DataError(
            "nobody can say what this version was made of",
            where=_title(recorded),
            fix=recorded.trouble or "it was registered without provenance",
        )
    return recorded.statement


def _title(recorded: Recorded) -> str:
    return f"{recorded.version.name}/{recorded.version.version}"


def _sources(statement: Statement) -> dict[str, str]:
    """`{name: digest}` of all but the data; code that differs from its commit says so."""
    sources = {}
    for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if item["name"] != DATASET:
            digest = next(iter(item["digest"].values()))
            is_dirty = item["name"] == CODE and item.get("annotations", {}).get("dirty")
            sources[item["name"]] = f"{digest} with changes" if is_dirty else digest
    return sources


def _pairs(
    first: Mapping[str, Any], second: Mapping[str, Any], *, equal_too: bool = False
) -> dict[str, Pair]:
    pairs = {key: Pair(first.get(key), second.get(key)) for key in sorted(first.keys() | second.keys())}
    return {key: pair for key, pair in pairs.items() if equal_too or not _same(pair)}


def _same(pair: Pair) -> bool:
    return canonical_json(pair.first) == canonical_json(pair.second)
