"""Is there anything to learn that the registry's models have not been trained on?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megl_core.config import Config, RetrainingConfig
from megl_core.files import sha256_file, write_bytes
from megl_core.lineage.diff import compare_manifests
from megl_core.lineage.record import kept_manifest
from megl_core.progress import get_reporter
from megl_core.registry.tracking import resolve_tracking_uri
from megl_core.registry.versions import RegisteredVersion, list_versions
from megl_core.registry.vocabulary import TRAINING_DATA_TAG, Stage

REFERENCE_FILE = "manifest.parquet"
_CHAMPIONS = (Stage.PRODUCTION, Stage.STAGING, Stage.NONE)


@dataclass(frozen=True)
class Novelty:
    """What was found.

    Attributes:
        train: whether to train.
        why: in words.
        version: what the data were compared with; None: there is no model yet.
        reference: the manifest of that version's data; None: there is none, or it is not kept.
        changed: samples that were added, changed or removed; 0 where nothing could be compared.
        drift: population stability index by distribution.
    """

    train: bool
    why: str
    version: int | None = None
    reference: Path | None = None
    changed: int = 0
    drift: dict[str, float] = field(default_factory=dict)

    @property
    def reference_digest(self) -> str:
        """SHA-256 of the reference's bytes; empty without one."""
        return sha256_file(self.reference) if self.reference else ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"reference": self.reference.name if self.reference else None}


def look(manifest: Path, digest: str, config: Config, workspace: Path, reference: Path) -> Novelty:
    """The step: `find_novelty`, with the manifest of the champion's data, if any, put into `reference`.

    Raises:
        DataError, IntegrityError, UnavailableError: as `find_novelty`.
    """
    uri = resolve_tracking_uri(config.registry, workspace)
    found = find_novelty(manifest, digest, config.retraining, config.registry.model_name, uri, workspace)
    get_reporter().message(found.why)
    reference.mkdir(parents=True, exist_ok=True)
    if found.reference:
        write_bytes(reference / REFERENCE_FILE, found.reference.read_bytes())
    return found


def find_novelty(
    manifest: Path, digest: str, config: RetrainingConfig, name: str, tracking_uri: str, workspace: Path
) -> Novelty:
    """Compare a dataset with the champion's: of the version in Production, else in Staging, else the newest.

    Data that any version was trained on are not new, whatever became of that version: to train on them
    again would give the same model. Archived versions count for that alone.

    Args:
        manifest: of the dataset as it is now.
        digest: its root digest.
        workspace: keeps manifests by digest; that of the champion is fetched to it.

    Raises:
        DataError: a manifest cannot be read.
        IntegrityError: the registry's record was tampered with.
        UnavailableError: MLflow does not answer.
    """
    versions = list_versions(name, tracking_uri)
    for version in versions:
        if version.tags.get(TRAINING_DATA_TAG) == digest:
            return Novelty(False, f"version {version.version} was trained on these data", version.version)
    reference = _champion(versions)
    if reference is None:
        return Novelty(True, "there is no model yet")
    theirs = kept_manifest(name, reference.tags.get(TRAINING_DATA_TAG, ""), tracking_uri, workspace)
    if theirs is None:
        why = f"the data are not those of version {reference.version}, whose manifest is not kept"
        return Novelty(True, why, reference.version)
    change = compare_manifests(theirs, manifest)
    changed = len(change.added) + len(change.changed) + len(change.removed)
    drift = _drift(manifest, theirs)
    reasons = list(_reasons(changed, drift, config))
    found = f"{changed} samples differ from version {reference.version}, {_words(drift)}"
    why = "; ".join([found, *reasons]) if reasons else f"{found}: too little to train again"
    return Novelty(bool(reasons), why, reference.version, theirs, changed, drift)


def _champion(versions: list[RegisteredVersion]) -> RegisteredVersion | None:
    standing = [version for version in versions if version.stage in _CHAMPIONS]
    return min(standing, key=lambda one: (_CHAMPIONS.index(one.stage), -one.version), default=None)


def _drift(manifest: Path, reference: Path) -> dict[str, float]:
    from megl_core.validation.tables import measure_drift  # it loads pandas

    return measure_drift(manifest, reference)


def _reasons(changed: int, drift: dict[str, float], config: RetrainingConfig) -> Iterator[str]:
    if changed >= config.min_changed:
        yield f"retraining.min_changed is {config.min_changed}"
    if config.max_drift is not None and max(drift.values(), default=0.0) > config.max_drift:
        yield f"drift is above {config.max_drift:g}"


def _words(drift: dict[str, float]) -> str:
    if not drift:
        return "drift not measured"
    name, value = max(drift.items(), key=lambda item: item[1])
    return f"drift at most {value:.3f} ({name})"
