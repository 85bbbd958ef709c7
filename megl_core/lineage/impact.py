"""Which versions learned from a sample, were selected by it, or were measured on it?

The question that a request to delete data asks. Each manifest is scanned once, however many versions stand
on it, and only in the columns that the question needs.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.data.contract import TRAIN, VAL
from megl_core.data.manifest import read_manifest
from megl_core.errors import ConfigError
from megl_core.lineage.record import find_manifest
from megl_core.registry.connection import connect, mlflow_errors
from megl_core.registry.history import Entry, find_history
from megl_core.registry.state import state_of
from megl_core.registry.versions import list_models

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINED, SELECTED, EVALUATED = "trained on it", "selected by it", "evaluated on it"

_MIN_PREFIX = 12
_HASH = re.compile(r"[0-9a-f]{12,64}")
_FULL = 64


@dataclass(frozen=True)
class Use:
    """A version that has to do with the data in question.

    Attributes:
        uses: of `TRAINED`, `SELECTED` and `EVALUATED` those that hold.
        samples: ids of the samples; none where the question is a whole dataset.
        data_digest: of the data that it was trained on.
    """

    name: str
    version: int
    stage: str
    uses: tuple[str, ...]
    samples: tuple[str, ...]
    data_digest: str


@dataclass(frozen=True)
class Impact:
    """The answer.

    Attributes:
        uses: by model and version.
        unanswered: why the answer may not be whole.
    """

    question: str
    uses: tuple[Use, ...]
    unanswered: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Registered:
    """A registered version, its stage, and the record's run that keeps its manifest."""

    entry: Entry
    name: str
    stage: str
    run_id: str

    @property
    def trained(self) -> str:
        return str(self.entry.details["data_digest"])

    @property
    def evaluated(self) -> str:
        return str(self.entry.details["evaluated_digest"])

    def use(self, uses: Iterable[str], samples: Iterable[str] = ()) -> Use:
        known, ids = set(uses), tuple(sorted(set(samples)))
        order = tuple(one for one in (TRAINED, SELECTED, EVALUATED) if one in known)
        return Use(self.name, self.entry.version, self.stage, order, ids, self.trained)


def impact_of_sample(sample: str, tracking_uri: str, workspace: Path) -> Impact:
    """The versions of all models that a sample had a part in.

    Args:
        sample: its id, or the SHA-256 of its image or mask, or the first 12 or more digits of that.
        workspace: its manifests are used where they are there, and others are kept there.

    Raises:
        ConfigError: different files have a hash that begins so.
        IntegrityError: a record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    versions, unanswered = _registered(client, tracking_uri)
    manifests = {digest: version.run_id for version in versions for digest in _data(version)}
    found: dict[str, list[dict[str, str]]] = {}
    for digest, run_id in manifests.items():
        path = find_manifest(client, run_id, digest, workspace)
        if path is None:
            unanswered.append(f"the manifest of the data {digest[:12]} is not kept")
            continue
        found[digest] = find_samples(path, sample)
    _require_one_hash(found.values())
    uses = []
    for version in versions:
        rows = list(_rows(version, found))
        if rows:
            uses.append(version.use((use for use, _ in rows), (id_ for _, id_ in rows)))
    return Impact(sample, tuple(uses), tuple(unanswered))


def impact_of_dataset(digest: str, tracking_uri: str) -> Impact:
    """The versions of all models that were trained or evaluated on a dataset.

    Args:
        digest: its root digest, or the first 12 or more digits.

    Raises:
        ConfigError: it is no digest, or several datasets have one that begins so.
        IntegrityError: a record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    if not _HASH.fullmatch(digest):
        raise ConfigError(f"{digest!r} is no digest", fix=f"give at least {_MIN_PREFIX} of its hex digits")
    versions, unanswered = _registered(connect(tracking_uri), tracking_uri)
    known = {one for version in versions for one in _data(version) if one.startswith(digest)}
    if len(known) > 1:
        raise ConfigError(f"several datasets begin with {digest}: {', '.join(sorted(known))}")
    uses = []
    for version in versions:
        parts = {TRAINED: version.trained, EVALUATED: version.evaluated}
        if own := [use for use, one in parts.items() if one in known]:
            uses.append(version.use(own))
    return Impact(digest, tuple(uses), tuple(unanswered))


def find_samples(manifest: Path, sample: str) -> list[dict[str, str]]:
    """`id`, `split` and `hash` of the rows that a text means: an id, or a hash of image or mask.

    Raises:
        DataError: this is no manifest.
    """
    import pyarrow.compute as pc

    columns, means = ["id", "split"], pc.field("id") == sample
    if _HASH.fullmatch(sample):
        hashes = ["image_sha256", "mask_sha256"]
        columns += hashes
        for column in hashes:
            means |= _begins(pc.field(column), sample)
    rows = read_manifest(manifest, columns, means).to_pylist()
    return [{"id": row["id"], "split": row["split"], "hash": _matched(row, sample)} for row in rows]


def _begins(column: Any, text: str) -> Any:
    import pyarrow.compute as pc

    return column == text if len(text) == _FULL else pc.starts_with(column, text)


def _matched(row: dict[str, Any], sample: str) -> str:
    """The hash by which a row was found; "" by its id."""
    if row["id"] == sample:
        return ""
    hashes = (row["image_sha256"], row["mask_sha256"])
    return next(one for one in hashes if one and one.startswith(sample))


def _require_one_hash(found: Iterable[list[dict[str, str]]]) -> None:
    hashes = sorted({row["hash"] for rows in found for row in rows if row["hash"]})
    if len(hashes) > 1:
        shown = ", ".join(hashes[:3])
        raise ConfigError(
            f"{len(hashes)} files have a SHA-256 that begins so: {shown}", fix="give more digits"
        )


def _rows(version: _Registered, found: dict[str, list[dict[str, str]]]) -> Iterator[tuple[str, str]]:
    """What a version did with each of the samples, and the sample's id."""
    for row in found.get(version.trained, ()):
        if row["split"] in (TRAIN, VAL):
            yield (TRAINED if row["split"] == TRAIN else SELECTED), row["id"]
    for row in found.get(version.evaluated, ()):
        if row["split"] not in (TRAIN, VAL):
            yield EVALUATED, row["id"]


def _registered(client: "MlflowClient", tracking_uri: str) -> tuple[list[_Registered], list[str]]:
    """Every version that a record tells of, and the models that have none."""
    versions, unanswered = [], []
    with mlflow_errors(tracking_uri, "read the records"):
        for name in list_models(tracking_uri):
            history = find_history(client, name)
            if history is None:
                unanswered.append(f"the model {name!r} has no record")
                continue
            state = state_of(history.entries)
            versions += [
                _Registered(entry, name, str(state.stage_of(number)), history.run_id)
                for number, entry in sorted(state.registered.items())
            ]
    return versions, unanswered


def _data(version: _Registered) -> set[str]:
    return {version.trained, version.evaluated} - {""}
