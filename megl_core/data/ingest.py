"""The first step: a dataset folder in the workspace, its manifest, and its version in DVC.

<workspace>/datasets/<name>/          the dataset, tracked by DVC
<workspace>/datasets/<name>.json      what it was imported from, and its last digest
<workspace>/manifests/<digest>.parquet
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megl_core.config import DataConfig
from megl_core.data.importers import import_dataset
from megl_core.data.manifest import root_digest, scan, write_manifest
from megl_core.files import read_json, sha256_file, sha256_json, sha256_tree, write_json
from megl_core.progress import Reporter, get_reporter
from megl_core.storage.dvc import DvcVersion, ensure_repository, track


@dataclass(frozen=True)
class Ingested:
    """A dataset ready for validation.

    Attributes:
        digest: root digest of the manifest: what the data is, wherever it lies.
    """

    dataset: Path
    manifest: Path
    digest: str
    num_samples: int
    dvc: DvcVersion

    @property
    def version(self) -> dict[str, Any]:
        """The DVC version for the record: the same for the same bytes, whether they were new or not."""
        version = asdict(self.dvc)
        del version["changed"]
        return version


def ingest(config: DataConfig, workspace: Path, reporter: Reporter | None = None) -> Ingested:
    """Import the source unless its import is here already, measure every file, and track it with DVC.

    The dataset is imported anew when the source's bytes or the importer's settings have changed. A
    dataset that was edited in the workspace is kept as it is: its digest tells it apart.
    """
    reporter = reporter or get_reporter()
    dataset = workspace / "datasets" / config.name
    record = dataset.with_name(f"{config.name}.json")
    known = read_json(record) if record.is_file() else {}
    source = _source_digest(config)
    if not dataset.is_dir() or known.get("source") != source:
        import_dataset(
            config.importer, Path(config.source) if config.source else None, dataset, config, reporter
        )
    table = scan(dataset, config.split, reporter, _known_manifest(workspace, known.get("digest")))
    digest = root_digest(table)
    manifest = _manifest_path(workspace, digest)
    write_manifest(table, manifest)
    if known.get("digest") not in (None, digest) and known.get("source") == source:
        reporter.message(f"the data changed since the last run: {known['digest'][:12]} -> {digest[:12]}")
    ensure_repository(workspace)
    version = track(dataset)
    write_json(record, {"source": source, "digest": digest})
    return Ingested(dataset, manifest, digest, table.num_rows, version)


def _source_digest(config: DataConfig) -> str:
    """What an import depends on: the importers' code and settings, and the source's bytes."""
    here = Path(__file__).parent
    code = [here / "scenes.py", *sorted((here / "importers").glob("*.py"))]
    settings: dict[str, Any] = {
        "importer": config.importer,
        "name": config.name,
        "code": [sha256_file(file) for file in code],
    }
    if config.importer == "procedural":
        settings["scenes"] = config.scenes.model_dump(mode="json")
    elif config.source and Path(config.source).is_dir():
        settings["files"] = sha256_tree(Path(config.source))
    return sha256_json(settings)


def _known_manifest(workspace: Path, digest: str | None) -> Path | None:
    path = _manifest_path(workspace, digest) if digest else None
    return path if path and path.is_file() else None


def _manifest_path(workspace: Path, digest: str) -> Path:
    return workspace / "manifests" / f"{digest}.parquet"
