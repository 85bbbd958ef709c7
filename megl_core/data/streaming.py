"""Packed data wherever they lie: a folder of this machine, or one on S3 that is read as it is needed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from megl_core.config import StorageConfig
from megl_core.data.packed import LocalFiles, PackedFiles
from megl_core.storage.s3 import is_s3


@contextlib.contextmanager
def open_packed(data: Path | str, storage: StorageConfig) -> Iterator[PackedFiles]:
    """The files of a packed folder, at a path or at an s3:// address.

    From S3 come the index at once, and shards when their images are wanted, into the cache of this machine.

    Raises:
        DataError: there is no complete folder at the address.
        ConfigError: its largest file does not fit the cache.
        UnavailableError: the store does not answer, or refuses.
    """
    if not is_s3(str(data)):
        yield LocalFiles(Path(data))
        return
    from megl_core.storage.cache import FolderCache

    with FolderCache(str(data), storage) as cache:
        yield cache
