"""The bytes of a dataset, from the remote of its workspace to a folder on any machine."""

import re
from dataclasses import dataclass
from pathlib import Path

from megl_core.config import SplitConfig, StorageConfig, parse
from megl_core.data.contract import ANNOTATIONS, refuse_to_replace
from megl_core.data.manifest import root_digest, scan
from megl_core.errors import ConfigError, IntegrityError
from megl_core.files import atomic_directory
from megl_core.progress import Reporter
from megl_core.storage import remote

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DVC_HASH = re.compile(r"[0-9a-f]{32}\.dir")


@dataclass(frozen=True, slots=True)
class Restored:
    """A dataset that came back.

    Attributes:
        digest: root digest, computed from the bytes that arrived; None: asked for by the DVC hash, which they
            have.
        size: bytes of all files.
    """

    folder: Path
    digest: str | None
    md5: str
    num_files: int
    size: int


def restore(
    reference: str, target: Path, storage: StorageConfig, reporter: Reporter | None = None
) -> Restored:
    """Put a dataset into `target` as it was pushed, byte for byte; an import that lies there is replaced.

    Args:
        reference: root digest, or DVC hash with its `.dir`.

    Raises:
        ConfigError: neither of these, or the settings name no remote.
        MeglError: something else than an import is at `target`.
        DataError: the remote lacks it.
        UnavailableError: the remote does not answer, or refuses.
        IntegrityError: what arrived has another digest. `target` is as it was, as after all of these.
    """
    refuse_to_replace(target)
    if _DVC_HASH.fullmatch(reference):
        remote.restore(reference, target, storage)
        return _restored(target, None, reference)
    if not _DIGEST.fullmatch(reference):
        raise ConfigError(
            f"{reference!r} is neither the digest of a dataset nor its DVC hash",
            fix="give all 64 digits that `megl data show` prints, or all 32 and .dir",
        )
    stored = remote.find(reference, storage)
    split = parse(SplitConfig, stored.split, where=f"the remote's note of {reference}")
    with atomic_directory(target, marker=ANNOTATIONS) as temporary:
        remote.restore(stored.md5, temporary, storage)
        if (digest := root_digest(scan(temporary, split, reporter))) != reference:
            raise IntegrityError(f"what arrived has the digest {digest}", where=f"DVC hash {stored.md5}")
    return _restored(target, digest, stored.md5)


def _restored(folder: Path, digest: str | None, md5: str) -> Restored:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Restored(folder, digest, md5, len(sizes), sum(sizes))
