"""Locks that other threads and processes wait for; the kernel frees them with the process, however that ends.

A lock that is only a file would stay behind when its holder is killed. On a file system that has no locks, as
some of clusters, nobody is kept out: better than to keep out everybody.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LOCK_FILE = ".lock"
"""In a folder that is held."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold a lock file, made where there is none; it stays there. False where it cannot be held.

    Raises:
        BlockingIOError: another one holds it and `wait` is off.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        yield _flock(stream, kind, wait)


@contextlib.contextmanager
def locked_folder(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder, made where there is none, as `locked` holds a file; its holder may remove it.

    Raises:
        BlockingIOError: another one holds it and `wait` is off.
    """
    while (stream := _try_folder(folder, wait)) is None:
        pass
    with stream:
        yield


def _try_folder(folder: Path, wait: bool) -> BinaryIO | None:
    """The file in a folder that who holds it has locked; None: the folder was removed in the meantime."""
    lock = folder / LOCK_FILE
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(lock.open("wb"))
            _flock(stream, fcntl.LOCK_EX, wait)
            if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                stack.pop_all()
                return stream
        except FileNotFoundError:
            pass
    return None


def _flock(stream: BinaryIO, kind: int, wait: bool) -> bool:
    """Whether the file system has locks; where it has, the lock is held."""
    try:
        fcntl.flock(stream, kind if wait else kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
