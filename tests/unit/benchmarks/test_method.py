import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cells import grid
from benchmarks.method import run_plan
from benchmarks.results import Results
from benchmarks.runner import Runner
from tests.conftest import REPOSITORY
from tests.unit.benchmarks.tiny import CODE, add


def told_of_plan(folder: Path, full: bool, only: str | None) -> list[str]:
    """What a plan says that may not start a run."""
    told: list[str] = []
    results = Results(folder / "results.jsonl", CODE)
    runner = Runner(results, folder / "cache", 2, deadline=time.monotonic(), say=told.append)
    run_plan(runner, full, only)
    return told


def test_a_choice_is_run_with_more_seeds_once_its_grid_is_complete(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", CODE)
    points = [cell for cell in grid(full=True) if (cell.method, cell.share) == ("haics", 10)]
    for number, cell in enumerate(points[:-1]):
        add(results, cell, {10: 0.5}, val=(0.1, 0.01 * number))
    assert told_of_plan(tmp_path, True, "baseline/*") == ["0 of 0 runs are missing: about 0 min, 2 at a time"]
    add(results, points[-1], {10: 0.5}, val=(0.0, 0.0))
    told = told_of_plan(tmp_path, True, "baseline/*")
    assert told[1:] == ["the time is up: 2 runs wait for the next time"]  # the grid's own seed is there


def test_the_short_form_says_what_it_leaves_out(tmp_path: Path) -> None:
    told = "\n".join(told_of_plan(tmp_path, False, None))
    assert "66 of 66 runs are missing" in told
    assert "left out without --full: ablation, 54 runs of " in told
    assert "without-text@5" in told
    assert "until convergence" in told


def test_its_help() -> None:
    command = [sys.executable, "-m", "benchmarks.method", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for option in ("--full", "--short", "--only", "--page", "--budget", "--keep-stale", "--jobs"):
        assert option in shown
