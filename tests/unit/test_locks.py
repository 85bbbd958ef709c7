"""Locks of files and folders, and file systems that have none."""

import errno
import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

from megl_core import files
from megl_core.locks import LOCK_FILE, locked, locked_folder


def test_a_lock_is_held_by_one_and_shared_by_readers(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as is_held:
        assert is_held
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
            pass
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False, shared=True):
            pass
    with locked(tmp_path / "lock", shared=True), locked(tmp_path / "lock", wait=False, shared=True):
        pass


def test_who_holds_a_folder_may_remove_it_and_the_next_one_holds_a_new_one(tmp_path: Path) -> None:
    folder, waiting, order = tmp_path / "folder", threading.Event(), []

    def wait() -> None:
        waiting.set()
        with locked_folder(folder):
            order.append("second")
            with pytest.raises(BlockingIOError), locked_folder(folder, wait=False):
                pass

    with locked_folder(folder):
        second = threading.Thread(target=wait)
        second.start()
        waiting.wait()
        order.append("first")
        shutil.rmtree(folder)
    second.join()
    assert order == ["first", "second"]


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file system of this machine refuses locks."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as is_held, locked(tmp_path / "lock", wait=False):
        assert not is_held
    with locked_folder(tmp_path / "folder"), locked_folder(tmp_path / "folder", wait=False):
        assert (tmp_path / "folder" / LOCK_FILE).is_file()


@pytest.mark.usefixtures("no_locks")
def test_where_there_are_no_locks_nothing_is_taken_for_left_behind(tmp_path: Path) -> None:
    with files.atomic_directory(tmp_path / "target", marker="file") as slow:
        os.utime(slow.parent, (0, 0))
        with files.atomic_directory(tmp_path / "target", marker="file") as temporary:
            (temporary / "file").write_bytes(b"old")
        (slow / "file").write_bytes(b"new")
    assert (tmp_path / "target" / "file").read_bytes() == b"new"
