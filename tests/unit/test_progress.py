"""Whoever watches a step may go away, or have no room for what it tells: the step goes on."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from megl_core.progress import EVENTS_VARIABLE, get_reporter, step


def test_events_that_a_full_disk_has_no_room_for_end_no_step(
    tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, other = tiny_disk / "events.jsonl", tiny_disk / "other"
    monkeypatch.setenv(EVENTS_VARIABLE, str(events))
    with step("train"):
        other.write_bytes(b"x" * 1_000_000)
        get_reporter().message("x" * 100_000)
        other.unlink()
    first, *_ = events.read_text().splitlines()
    assert json.loads(first)["kind"] == "start"


STOPPED = """
import sys
from megl_core.progress import get_reporter

reporter = get_reporter()
with reporter.bar("training", 3) as bar:
    bar.advance(1, loss=0.5)
    reporter.message("begun")
    sys.stdin.read()
    reporter.message("stopped")
    raise SystemExit(129)
"""


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_step_whose_watcher_is_gone_ends_as_it_would_have(kind: str) -> None:
    ours, its = pty.openpty() if kind == "terminal" else os.pipe()
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stderr=its)
    os.close(its)
    shown = b""
    while b"begun" not in shown:
        shown += os.read(ours, 1000)
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 129
