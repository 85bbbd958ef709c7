"""Files: atomic writes, content digests, and paths that stay inside their folder."""

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from megl_core.errors import DataError, MeglError
from megl_core.locks import LOCK_FILE, locked

_CHUNK = 1 << 20
_SCRATCH = ".tmp"
_NOT_YET_HELD = 60.0  # seconds that a process may take from making a folder to holding it
_AT_CWD, _RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>
_DISK_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}

_WAY_OUT = "free some space or choose a folder you may write to"
_WAYS_OUT = {
    errno.EEXIST: "a file is in the place of a folder: choose another folder",
    errno.EISDIR: "a folder is in the place of the file: choose another name",
    errno.ENOTDIR: "a file is in the place of a folder: choose another folder",
}


def canonical_json(value: Any) -> bytes:
    """The one UTF-8 JSON form of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON form of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(root: Path) -> str:
    """SHA-256 (hex) over the relative path and the bytes of every file below `root`."""
    return sha256_json(tree_digests(root))


def tree_digests(root: Path) -> dict[str, str]:
    """`{relative POSIX path: SHA-256}` of every regular file below `root`.

    Raises:
        DataError: a file's name is no UTF-8, so that it cannot stand in JSON.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {_name_below(root, path): sha256_file(path) for path in files}


def _name_below(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"the file name {name!r} is not UTF-8", where=str(root), fix="rename the file"
        ) from None
    return name


def resolve_inside(root: Path, relative: str) -> Path:
    """The real path of `relative` below `root`.

    Raises:
        DataError: the path is absolute, climbs out of `root`, or leads out of it or in a circle by a symlink.
    """
    pure = PurePosixPath(relative)
    if not relative or "\x00" in relative or pure.is_absolute() or ".." in pure.parts:
        raise DataError(f"unsafe path {relative!r}: it must be relative and stay in its folder")
    real_root = root.resolve()
    try:
        real = (real_root / pure).resolve()
    except RuntimeError:  # of Python before 3.13
        raise DataError(f"unsafe path {relative!r}: its symlinks lead in a circle") from None
    if not real.is_relative_to(real_root):
        raise DataError(f"unsafe path {relative!r}: it leads out of {root}")
    return real


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old bytes or the new ones, never a part.

    Raises:
        MeglError: the file cannot be written (disk full, no permission); nothing is left behind.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON (two-space indent, sorted keys, newline at the end) atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for JSON of others: of a key that occurs twice the later would win unseen.

    Raises:
        ValueError: a key occurs twice.
    """
    collected = dict(pairs)
    if len(collected) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in collected if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} occurs twice in one object")
    return collected


def read_json(path: Path) -> Any:
    """Read a JSON file that one of our steps wrote.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing", where=str(path)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path.name} is not valid JSON: {error}", where=str(path)) from None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; it takes the name `path` when the block ends well."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_hidden(path), dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path, *, marker: str) -> Iterator[Path]:
    """A temporary sibling folder to fill; it takes the place of `path` as a whole when the block ends well.

    A symbolic link stays, and the folder that it leads to is replaced, or made.

    Args:
        marker: a file that every such folder holds. A folder that is there already is replaced only if
            it is empty or holds this file: nobody's own files are ever removed.

    Raises:
        MeglError: something else is in the way, or the disk fails; `path` is as it was.
    """
    path = end_of_links(path)
    refuse_to_replace_others(path, marker)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path) as scratch:
            temporary = scratch / "new"
            temporary.mkdir()
            yield temporary
            os.sync()  # one flush: fsync of each file would dominate a folder of many small ones
            temporary.chmod(0o755)
            replace_directory(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, gone afterwards. What killed processes left of theirs goes first."""
    for left in path.parent.glob(f"{glob.escape(_hidden(path))}*{_SCRATCH}"):
        with contextlib.suppress(OSError):  # somebody holds it, or it is gone
            if time.time() - left.stat().st_mtime > _NOT_YET_HELD:
                with locked(left / LOCK_FILE, wait=False) as is_held:
                    if is_held:
                        shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_hidden(path), suffix=_SCRATCH, dir=path.parent))
    try:
        with locked(folder / LOCK_FILE):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def end_of_links(path: Path) -> Path:
    """Where a path leads, whether there is something or not.

    Raises:
        MeglError: in a circle.
    """
    try:
        return path.resolve()
    except RuntimeError:  # of Python before 3.13
        raise MeglError(
            f"{path.name} is a symlink that leads in a circle", where=str(path), fix="remove it"
        ) from None


def _hidden(path: Path) -> str:
    """How a temporary sibling's name begins: short, since that of `path` may be as long as names can be."""
    return f".{path.name[:32]}."


def refuse_to_replace_others(path: Path, marker: str) -> None:
    """Refuse a place that holds something else than nothing or a folder with the file `marker` in it.

    Raises:
        MeglError: it does.
    """
    if not path.exists() or (path / marker).is_file():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise MeglError(
            f"{path.name} is there already and holds something else (no {marker} in it)",
            where=str(path),
            fix="choose another folder, or move this one away",
        )


def refuse_folder(path: Path) -> None:
    """Refuse a folder where a file is to be written.

    Raises:
        MeglError: there is one.
    """
    if path.is_dir():
        raise MeglError(f"{path.name} is a folder", where=str(path), fix="name a file")


def replace_directory(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, where possible in one step of the file system."""
    if not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        shutil.rmtree(new, ignore_errors=True)  # now the old one
    else:
        _swap(new, path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically with Linux's renameat2; False where that is not to be had."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _swap(new: Path, path: Path) -> None:
    """The old folder steps aside and comes back if the move fails."""
    aside = Path(tempfile.mkdtemp(prefix=f"{_hidden(path)}old.", dir=path.parent))
    path.rename(aside / "old")
    try:
        new.rename(path)
    except BaseException:
        (aside / "old").rename(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """See that a file's bytes, or a folder's names, are on the disk and not only on their way."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise MeglError(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path),
            fix=f"{_WAYS_OUT.get(error.errno or 0, _WAY_OUT)}; nothing was left half-written",
        ) from error
