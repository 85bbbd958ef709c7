"""The remote that a workspace's datasets are pushed to, and come back from by their digest.

<remote>/files/md5/...              DVC's objects
<remote>/datasets/<digest>.json     what a root digest stands for; written once its objects are there
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megl_core.config import StorageConfig
from megl_core.errors import ConfigError, DataError
from megl_core.files import read_json, write_json, write_text
from megl_core.storage.dvc import ensure_repository, fetch, push, use_remote
from megl_core.storage.s3 import download_file, is_s3, upload_file

_NAME = "storage"
_FOLDER = "dataset"


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A dataset at the remote.

    Attributes:
        digest: root digest of its manifest.
        md5: DVC's hash of the folder, ending in `.dir`.
        name: as `data.name` had it.
        split: the section `data.split`, on which the root digest depends.
    """

    digest: str
    md5: str
    name: str
    split: Mapping[str, Any]


def store(root: Path, folder: Path, dataset: StoredDataset, config: StorageConfig) -> int:
    """Push a tracked dataset and note its digest there; returns how many objects the remote lacked.

    Args:
        root: of the DVC repository, which has `config.dvc_remote` as its default remote from then on.

    Raises:
        UnavailableError: the remote does not answer, or refuses.
    """
    note = _note(dataset.digest, config)
    use_remote(root, _NAME, _settings(config))
    pushed = push(folder)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "note.json" if is_s3(note) else Path(note)
        write_json(file, asdict(dataset))
        if is_s3(note):
            upload_file(file, note, config)
    return pushed


def find(digest: str, config: StorageConfig) -> StoredDataset:
    """What the remote holds under a root digest.

    Raises:
        ConfigError: the settings name no remote.
        DataError: it holds no such dataset.
        UnavailableError: it does not answer, or refuses.
    """
    note = _note(digest, config)
    try:
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / "note.json" if is_s3(note) else Path(note)
            if is_s3(note):
                download_file(note, file, config)
            return StoredDataset(**read_json(file))
    except (DataError, TypeError):
        raise DataError(
            f"the remote holds no dataset {digest}",
            where=note,
            fix="`megl data show` prints the digest of a dataset; ingest pushes with storage.dvc_remote",
        ) from None


def restore(md5: str, target: Path, config: StorageConfig) -> None:
    """Put the very bytes of a dataset into `target`, from the remote and with no more than its DVC hash.

    Raises:
        ConfigError: the settings name no remote.
        DataError: the remote lacks them.
        UnavailableError: it does not answer, or refuses.
        IntegrityError: what arrived is not what the hash says.
    """
    with TemporaryDirectory() as scratch:
        root = ensure_repository(Path(scratch))
        use_remote(root, _NAME, _settings(config))
        write_text(root / f"{_FOLDER}.dvc", f"outs:\n- md5: {md5}\n  hash: md5\n  path: {_FOLDER}\n")
        fetch(str(root), _FOLDER, None, target)


def _note(digest: str, config: StorageConfig) -> str:
    return f"{_url(config)}/datasets/{digest}.json"


def _url(config: StorageConfig) -> str:
    if config.dvc_remote is None:
        raise ConfigError(
            "no remote for datasets is set",
            where="storage.dvc_remote",
            fix="--set storage.dvc_remote=s3://bucket/prefix, or a folder",
        )
    remote = config.dvc_remote.rstrip("/")
    return remote if is_s3(remote) else str(Path(remote).resolve())


def _settings(config: StorageConfig) -> dict[str, str]:
    """As .dvc/config has them: no credentials, which DVC finds where every AWS tool does."""
    url = _url(config)
    if not is_s3(url):
        return {"url": url}
    settings = {
        "url": url,
        "endpointurl": config.endpoint_url,
        "region": config.region,
        "ssl_verify": config.ca_bundle and str(config.ca_bundle.resolve()),
        "connect_timeout": str(max(1, round(config.connect_timeout))),
        "read_timeout": str(max(1, round(config.read_timeout))),
        "jobs": str(config.threads),
    }
    return {name: value for name, value in settings.items() if value}
