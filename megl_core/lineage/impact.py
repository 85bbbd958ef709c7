"""Where did this image go? The versions that were trained, selected or evaluated on it.

The question that a request for deletion asks. Datasets are searched once each, however many versions were made
of them: two columns of a manifest, as Parquet holds them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from megl_core.data.contract import TRAIN, VAL
from megl_core.errors import ConfigError
from megl_core.lineage.record import fetch_manifest
from megl_core.registry.connection import connect, mlflow_errors
from megl_core.registry.history import find_history
from megl_core.registry.state import state_of
from megl_core.registry.versions import list_models

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SHA256 = re.compile(r"[0-9a-f]{12,64}")
_COLUMNS = ("id", "split", "image_sha256", "mask_sha256")


@dataclass(frozen=True)
class Use:
    """A version that a dataset was used for.

    Attributes:
        stage: where the version stands now.
        digest: root digest of the dataset.
        how: `trained`, `selected` (the validation split, which decides about settings) or `evaluated`.
        sample: the id; "" where a whole dataset was asked for.
        split: that the sample is in.
    """

    name: str
    version: int
    stage: str
    digest: str
    how: str
    sample: str = ""
    split: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Impact:
    """Uses, and datasets whose manifest is nowhere to be found, so that nobody can say."""

    uses: list[Use]
    unknown: list[str]


@dataclass(frozen=True)
class _Version:
    name: str
    number: int
    stage: str
    trained_on: str
    evaluated_on: str
    record: str


def impact_of_sample(sample: str, tracking_uri: str, cache: Path) -> Impact:
    """The uses of a sample: its id, or the SHA-256 of its image or mask (12 characters of it at least).

    Args:
        cache: the workspace, whose manifests are searched; others are fetched into it.

    Raises:
        IntegrityError: a record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    client = connect(tracking_uri)
    versions = list(_versions(client, tracking_uri))
    found: dict[str, list[dict[str, Any]]] = {}
    unknown = []
    for digest, record in _datasets(versions).items():
        path = fetch_manifest(client, record, digest, cache)
        if path is None:
            unknown.append(digest)
        else:
            found[digest] = _rows(path, sample)
    uses = [
        Use(version.name, version.number, version.stage, digest, how, row["id"], row["split"])
        for version in versions
        for digest, how, row in _uses_of(version, found)
    ]
    return Impact(uses, unknown)


def impact_of_dataset(digest: str, tracking_uri: str) -> Impact:
    """The uses of a dataset, by its root digest (12 characters of it at least).

    Raises:
        ConfigError: this is no digest.
        IntegrityError: a record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    if not _SHA256.fullmatch(digest):
        raise ConfigError(f"{digest!r} is no digest", fix="give 12 to 64 hexadecimal characters")
    uses = []
    for version in _versions(connect(tracking_uri), tracking_uri):
        for known, how in ((version.trained_on, "trained"), (version.evaluated_on, "evaluated")):
            if known.startswith(digest):
                uses.append(Use(version.name, version.number, version.stage, known, how))
    return Impact(uses, [])


def _versions(client: "MlflowClient", tracking_uri: str) -> Iterator[_Version]:
    """Every registered version of every model: a single request for each model."""
    for name in list_models(tracking_uri):
        with mlflow_errors(tracking_uri, "read the record"):
            history = find_history(client, name)
        if history is None:
            continue
        state = state_of(history.entries)
        for number, entry in sorted(state.registered.items()):
            yield _Version(
                name,
                number,
                str(state.stage_of(number)),
                entry.details["data_digest"],
                entry.details["evaluated_digest"],
                history.run_id,
            )


def _datasets(versions: Iterable[_Version]) -> dict[str, str]:
    """`{root digest: a record's run that may hold its manifest}`."""
    datasets: dict[str, str] = {}
    for version in versions:
        for digest in (version.trained_on, version.evaluated_on):
            if digest:
                datasets.setdefault(digest, version.record)
    return datasets


def _uses_of(
    version: _Version, found: dict[str, list[dict[str, Any]]]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for row in found.get(version.trained_on, []):
        if row["split"] in (TRAIN, VAL):
            yield version.trained_on, "trained" if row["split"] == TRAIN else "selected", row
    for row in found.get(version.evaluated_on, []):
        if row["split"] != TRAIN:
            yield version.evaluated_on, "evaluated", row


def _rows(manifest: Path, sample: str) -> list[dict[str, Any]]:
    """The rows of a manifest with that id or those bytes."""
    table = pq.read_table(manifest, columns=list(_COLUMNS), memory_map=True)
    mask = pc.equal(table["id"], sample)
    if _SHA256.fullmatch(sample):
        for column in ("image_sha256", "mask_sha256"):
            mask = pc.or_(mask, pc.fill_null(pc.starts_with(table[column], sample), fill_value=False))
    rows: list[dict[str, Any]] = table.filter(mask).to_pylist()
    return rows
