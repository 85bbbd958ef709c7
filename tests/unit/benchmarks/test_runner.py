"""Real runs of a few images: what is finished is kept, whatever happens to the rest."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import worker
from benchmarks.cells import Cell, run_of
from benchmarks.results import Results
from benchmarks.runner import Progress, Runner
from megl_core.errors import MeglError
from tests.conftest import REPOSITORY
from tests.unit.benchmarks.tiny import TINY, tiny_runner, tiny_runs

pytestmark = pytest.mark.slow


def lines(folder: Path) -> list[dict[str, object]]:
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_killed_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.benchmarks.tiny", str(tmp_path)]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    patience = time.monotonic() + 400
    while not lines(tmp_path) and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = lines(tmp_path)
    assert 1 <= len(before) < 4

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    after = lines(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == len({line["key"] for line in after}) == 4
    # A run that outlived its parent may have left its result: then it is taken over, not run again.
    assert len(done.stdout.splitlines()) in (4 - len(before), 3 - len(before))

    assert tiny_runner(tmp_path).missing(tiny_runs()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the result of the first run."""
    folder = tmp_path_factory.mktemp("finished")
    with tiny_runner(folder).open() as runner:
        runner.run(tiny_runs()[:1])
        assert runner.failures == {}
    return folder


def test_a_record_holds_what_the_page_needs(finished: Path) -> None:
    run = tiny_runs()[0]
    found = tiny_runner(finished).results.find(run)
    assert found is not None
    assert (found.cell, found.seed, found.steps) == ("headline/megl@25", 10, 2)
    assert found.overrides == {"data.scenes.mask_share": 0.25, "data.scenes.seed": 10, "train.seed": 10}
    assert set(found.metrics) == {"val", "test", "ood", "conflict"}
    wanted = {
        "accuracy",
        "cue_flip_rate",
        "energy_in_mask",
        "energy_in_cue",
        "pointing_game",
        "slot_accuracy",
    }
    assert wanted <= set(found.metrics["ood"])
    assert 0 < found.training_seconds < 60
    assert 0 < found.core_seconds < 60
    assert set(found.machine) == {"processor", "cores", "python", "torch", "numpy"}


def test_runs_of_one_seed_share_their_data_and_nothing_else_stays(finished: Path) -> None:
    energy = tiny_runs()[1]
    runner = tiny_runner(finished)
    packed = worker.packed_data(energy.config, runner.folder, energy.source)
    assert [path for path in runner.folder.glob("data-*") if path.is_dir()] == [packed]
    assert list(runner.folder.glob("run-*")) == []


def test_a_run_gives_the_same_numbers_again(finished: Path, tmp_path: Path) -> None:
    run = tiny_runs()[0]
    before = tiny_runner(finished).results.find(run)
    assert before is not None
    assert worker.measure(run.config, tmp_path)["metrics"] == before.metrics


def test_a_failure_is_shown_and_tried_again(tmp_path: Path) -> None:
    cell = Cell("headline", "megl", 25, {"train.batch_size": 128}, (10,))  # more than there are images
    broken, fine = run_of(cell, 10, TINY), tiny_runs()[1]
    told: list[str] = []
    with tiny_runner(tmp_path).open() as runner:
        runner.say = told.append
        runner.run([broken, fine])
        assert list(runner.failures) == ["headline/megl@25 seed 10"]
        assert "do not fill a batch of 128" in runner.failures["headline/megl@25 seed 10"]
        assert runner.missing([broken, fine]) == [broken]
    assert "FAILED" in told[0]
    assert "OOD" in told[1]


def test_results_of_code_that_changed_meanwhile_are_refused(tmp_path: Path) -> None:
    runner = Runner(Results(tmp_path / "results.jsonl", "another"), tmp_path / "cache", num_processes=1)
    with runner.open(), pytest.raises(MeglError, match="changed while the benchmark ran"):
        runner.run(tiny_runs()[:1])
    assert lines(tmp_path) == []


def test_no_run_starts_after_the_deadline(tmp_path: Path) -> None:
    told: list[str] = []
    runner = replace(tiny_runner(tmp_path), deadline=time.monotonic(), say=told.append)
    with runner.open():
        runner.run(tiny_runs())
    assert told == ["the time is up: 4 runs wait for the next time"]


def test_two_benchmarks_do_not_share_a_cache(tmp_path: Path) -> None:
    with tiny_runner(tmp_path).open(), pytest.raises(MeglError, match="another benchmark"):
        tiny_runner(tmp_path).open().__enter__()


def test_the_rest_is_estimated_by_the_pace_so_far() -> None:
    """Two runs of 27 expected seconds; the first took 540, and 540 / 2 processes are 4.5 minutes."""
    run = run_of(Cell("headline", "energy", 10, {"objective.text": 0.0}, (10,)), 10)
    line = Progress([run, run], 2).line(run, "OOD 50.0 %", 540.0)
    assert line == "[1/2] headline/energy@10 seed 10: OOD 50.0 %, 540 s; about 4 min left"
