"""Whoever watches a step may go away, or have no room for what it tells: the step goes on."""

import json
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
