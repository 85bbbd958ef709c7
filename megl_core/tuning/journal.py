"""The file behind a study: several processes write it, and any of them may be killed at any moment."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import JournalFileBackend

from megl_core.files import disk_errors
from megl_core.locks import locked
from megl_core.tuning.study import JOURNAL

_LOCK = "journal.lock"


class Journal(JournalFileBackend):
    """Optuna's journal in a search's folder, with another lock and a mended end.

    Optuna's own lock is a file that stays behind when its holder is killed, and then holds up the others: for
    half a minute, or, where the folder's path is relative, for ever. Ours is the kernel's to free. And a
    record that was cut off in the middle goes before the next one is written; Optuna would read neither it
    nor any after it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(str(folder / JOURNAL))
        self._file = folder / JOURNAL
        self._guard = folder / _LOCK

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records, all of them or none that is read again.

        Raises:
            MeglError: the disk is full, or fails.
        """
        records = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with disk_errors(self._file), locked(self._guard), self._file.open("r+b") as stream:
            _drop_cut_off(stream)
            stream.write(records.encode())
            stream.flush()
            os.fsync(stream.fileno())


def _drop_cut_off(stream: BinaryIO) -> None:
    """Truncate a file after its last whole line, and stand there."""
    end = stream.seek(0, os.SEEK_END)
    if end == 0:
        return
    stream.seek(end - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.seek(0, os.SEEK_END)
