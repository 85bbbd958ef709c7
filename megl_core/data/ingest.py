"""The first step: a dataset folder in the workspace, its manifest, and its version in DVC.

<workspace>/datasets/<name>/          the dataset, tracked by DVC
<workspace>/datasets/<name>.json      what it was imported from, its bytes then, its last digest
<workspace>/datasets/.<name>.new/     an import, until it takes the dataset's place
<workspace>/datasets/.<name>.source/  what was fetched, until it is imported
<workspace>/manifests/<digest>.parquet
"""

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megl_core.config import DataConfig, StorageConfig
from megl_core.data import contract, images
from megl_core.data.importers import IMPORTERS, base, import_dataset, writer
from megl_core.data.manifest import (
    known_labels,
    measuring_code,
    read_manifest,
    root_digest,
    scan,
    write_manifest,
)
from megl_core.data.sources import Source, fetched, find_source
from megl_core.errors import DataError
from megl_core.files import (
    end_of_links,
    read_json,
    replace_directory,
    sha256_file,
    sha256_json,
    sha256_tree,
    write_json,
)
from megl_core.progress import Reporter, get_reporter
from megl_core.storage.dvc import DvcVersion, ensure_repository, track
from megl_core.storage.remote import StoredDataset, store

_COMING = "coming"
"""In a record: the bytes of an import that was about to take the dataset's place."""


@dataclass(frozen=True)
class Ingested:
    """A dataset ready for validation.

    Attributes:
        digest: root digest of the manifest: what the data is, wherever it lies.
        labels: in the order of the classes.
        source: URI and digests of what was imported; None for a generated set.
    """

    dataset: Path
    manifest: Path
    digest: str
    labels: list[str]
    num_samples: int
    dvc: DvcVersion
    source: dict[str, Any] | None = None

    @property
    def version(self) -> dict[str, Any]:
        """The DVC version and the source for the record: the same for the same bytes, whether they were new
        or not, and whichever other revision of the source holds them too."""
        version = asdict(self.dvc)
        del version["changed"]
        return version | ({"source": self.source} if self.source else {})


def ingest(
    config: DataConfig,
    workspace: Path,
    storage: StorageConfig | None = None,
    reporter: Reporter | None = None,
) -> Ingested:
    """Import the source unless its import is here already, measure every file, track it with DVC, and push
    it where `storage.dvc_remote` says.

    The dataset is imported anew when the source's bytes, the importer's settings or its code have
    changed. One that was edited in the workspace is kept as it is: its digest tells it apart.

    Raises:
        DataError: both the source and its copy in the workspace have changed, or there is no such source.
        MeglError: something else than an import is in the dataset's place.
        UnavailableError: source or remote do not answer; the next call goes on where this one stopped.
        IntegrityError: what arrived is not what the source records.
    """
    reporter, storage = reporter or get_reporter(), storage or StorageConfig()
    dataset = workspace / "datasets" / config.name
    record = read_json(_record_file(dataset)) if _record_file(dataset).is_file() else {}
    source = find_source(config, storage)
    wanted = _source_digest(config, source)
    if not dataset.is_dir() or record.get("source") != wanted or _COMING in record:
        _refuse_to_overwrite_edits(dataset, record)
        contract.refuse_to_replace(dataset)
        record = _import(source, config, dataset, record, reporter)
    table = scan(dataset, config.split, reporter, _known_manifest(workspace, record))
    digest = root_digest(table)
    write_manifest(table, _manifest_path(workspace, digest))
    if record.get("digest") not in (None, digest):
        reporter.message(f"the data changed since the last run: {record['digest'][:12]} -> {digest[:12]}")
    root = ensure_repository(workspace)
    version = track(dataset)
    record = {
        "source": wanted,
        "origin": record.get("origin"),
        "imported": record.get("imported") or sha256_tree(dataset),
        "imported_md5": record.get("imported_md5") or version.md5,
        "digest": digest,
        "measured_by": measuring_code(),
    }
    write_json(_record_file(dataset), record)
    if storage.dvc_remote:
        split = config.split.model_dump(mode="json")
        store(root, dataset, StoredDataset(digest, version.md5, config.name, split), storage)
    return Ingested(
        dataset,
        _manifest_path(workspace, digest),
        digest,
        config.labels or known_labels(dataset, table),
        table.num_rows,
        version,
        _origin(record, version),
    )


def _import(
    source: Source | None, config: DataConfig, dataset: Path, record: dict[str, Any], reporter: Reporter
) -> dict[str, Any]:
    """Put an import in the dataset's place; returns the beginning of its record.

    Its bytes are recorded before: where this stops in between, they are not taken for somebody's edits.
    """
    if source:
        reporter.message(f"importing {source.uri}")
    place = end_of_links(dataset)
    new = place.with_name(f".{place.name}.new")
    with fetched(source, dataset) as folder:
        import_dataset(config.importer, folder, new, config, reporter)
    imported = sha256_tree(new)
    write_json(_record_file(dataset), record | {_COMING: imported})
    replace_directory(new, place)
    return {"imported": imported, "origin": source and source.record}


def _origin(record: dict[str, Any], version: DvcVersion) -> dict[str, Any] | None:
    """What the dataset was imported from, and whether it was edited here since."""
    origin: dict[str, Any] | None = record["origin"]
    if origin and version.md5 != record["imported_md5"]:
        return origin | {"annotations": {"edited": True}}
    return origin


def _refuse_to_overwrite_edits(dataset: Path, record: dict[str, Any]) -> None:
    ours = {record[name] for name in ("imported", _COMING) if record.get(name)}
    if ours and dataset.is_dir() and sha256_tree(dataset) not in ours:
        raise DataError(
            "this dataset was edited since it was imported, and its source or settings changed as well",
            where=str(dataset),
            fix="remove the folder to import it again, or choose another data.name to keep it",
        )


def _record_file(dataset: Path) -> Path:
    return dataset.with_name(f"{dataset.name}.json")


def _source_digest(config: DataConfig, source: Source | None) -> str:
    """What an import depends on: the importer, its code and settings, and the source's bytes."""
    settings: dict[str, Any] = {
        "importer": config.importer,
        "labels": config.labels,
        "name": config.name,
    }
    if config.importer in IMPORTERS:
        reader = inspect.getmodule(IMPORTERS[config.importer].rows)
        settings["code"] = _code_of(reader, base, contract, images, writer)
    if config.importer == "procedural":
        from megl_core.data import scenes

        settings["scenes"] = config.scenes.model_dump(mode="json") | {"code": _code_of(scenes)}
    elif source:
        settings["files"] = source.content
    return sha256_json(settings)


def _code_of(*modules: Any) -> list[str]:
    return [sha256_file(Path(str(module.__file__))) for module in modules]


def _known_manifest(workspace: Path, record: dict[str, Any]) -> Path | None:
    """The last manifest, where its measures are those that the code of today would take."""
    if not record.get("digest") or record.get("measured_by") != measuring_code():
        return None
    path = _manifest_path(workspace, record["digest"])
    try:
        read_manifest(path, ["id"])
    except DataError:
        return None
    return path


def _manifest_path(workspace: Path, digest: str) -> Path:
    return workspace / "manifests" / f"{digest}.parquet"
