"""What the events of steps make of a run's state: in particular, a failed step never looks green."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.screen import Screen, StepStates

STEPS = ("ingest", "validate", "train", "report")


def event(step: str, kind: str, time: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"step": step, "kind": kind, "time": time, **fields}


def test_a_silent_step_before_a_speaking_one_was_reused() -> None:
    states = StepStates(STEPS)
    states.take(event("ingest", "start"))
    states.take(event("ingest", "end", 3.0))
    states.take(event("report", "start", 4.0))
    assert states.names("reused") == ["validate", "train"]
    states.take(event("report", "end", 5.0))
    states.finish(succeeded=True)
    assert states.names("done") == ["ingest", "report"]
    assert states.steps["ingest"].seconds == 2.0


def test_steps_that_a_run_does_without_are_neither_reused_nor_missing() -> None:
    states = StepStates(STEPS)
    states.take(event("ingest", "start"))
    states.take(event("validate", "skipped"))
    states.take(event("train", "skipped"))
    states.take(event("ingest", "end", 3.0))
    states.take(event("report", "start", 4.0))
    states.take(event("report", "end", 5.0))
    states.finish(succeeded=True)
    assert states.names("skipped") == ["validate", "train"]
    assert states.names("reused") == []


def test_a_failed_step_keeps_its_error_and_exit_code() -> None:
    states = StepStates(STEPS)
    states.take(event("ingest", "start"))
    failure = {"what": "3 rows are broken", "where": "annotations.jsonl", "fix": "mend them", "exit_code": 3}
    states.take(event("ingest", "failed", **failure))
    states.finish(succeeded=False)
    error = states.error(Path("log.txt"))
    assert error.exit_code == 3
    for text in ("ingest", "3 rows are broken", "annotations.jsonl", "mend them"):
        assert text in str(error)
    assert states.names("not run") == ["validate", "train", "report"]


@pytest.mark.parametrize("last_word", ["failed", "message"])
def test_what_stands_between_a_failed_or_dead_step_and_the_notification_was_not_run(last_word: str) -> None:
    states = StepStates(STEPS)
    states.take(event("ingest", "start"))
    states.take(event("ingest", last_word, text="", what="no disk", exit_code=1))
    states.take(event("report", "start", 4.0))
    states.take(event("report", "end", 5.0))
    states.finish(succeeded=False)
    assert states.names("failed") == ["ingest"]
    assert states.names("not run") == ["validate", "train"]


def test_a_step_that_dies_without_a_word_has_failed() -> None:
    states = StepStates(STEPS)
    states.take(event("ingest", "start"))
    states.finish(succeeded=False)
    assert states.names("failed") == ["ingest"]
    assert "ingest" in str(states.error(Path("log.txt")))
    assert "log.txt" in str(states.error(Path("log.txt")))


def test_progress_is_kept_for_the_bar() -> None:
    states = StepStates(STEPS)
    states.take(event("train", "start"))
    fields = {"loss": 0.51234}
    states.take(event("train", "progress", description="training", done=3, total=9, fields=fields))
    step = states.steps["train"]
    assert (step.done, step.total, step.text) == (3, 9, "training  loss 0.5123")


def test_without_a_terminal_each_change_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    states = StepStates(STEPS)
    with Screen(states) as screen:
        states.take(event("ingest", "start"))
        screen.refresh()
        screen.refresh()
        states.take(event("ingest", "end", 2.5))
        states.finish(succeeded=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "ingest: running", "ingest: done in 1.5 s", "validate: reused", "train: reused", "report: reused",
    ]  # fmt: skip
