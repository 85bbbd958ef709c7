"""A pipeline on this machine follows what its steps tell."""

import subprocess
from pathlib import Path

from pipelines.run import _events


def test_an_event_that_a_full_disk_cut_off_is_passed_over(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"kind": "start"}\n{"kind": "mess{"kind": "message"}\n{"kind": "end"}\n{"ki')
    process = subprocess.Popen(["true"])
    assert [event["kind"] for event in _events(events, process)] == ["start", "end"]
