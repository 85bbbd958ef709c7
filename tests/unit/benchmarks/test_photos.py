import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.photo_cells import PhotoCell
from benchmarks.photos import available, run_cells
from benchmarks.results import Results
from benchmarks.runner import Runner
from megl_core.errors import ConfigError
from tests.conftest import REPOSITORY
from tests.unit.benchmarks.tiny import CODE, tiny_runner, write_photos


def silent_runner(folder: Path, told: list[str]) -> Runner:
    """One that may not start a run."""
    results = Results(folder / "results.jsonl", CODE)
    return Runner(results, folder / "cache", 2, deadline=time.monotonic(), say=told.append)


def test_a_set_that_is_missing_is_said_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "magnetic_tile").mkdir()
    told: list[str] = []
    runner = silent_runner(tmp_path, told)
    found = available(tmp_path, runner)
    assert found == {"magnetic_tile": tmp_path.resolve() / "magnetic_tile"}
    assert told == ["eth80_scenes is not there and is left out", "ucm_captions is not there and is left out"]
    told.clear()
    run_cells(runner, found, None)
    # Two cells without text and two with it: 940 * 20 * 2.2 * (2 * 3.7 + 2 * 4.9) ms = 711 s for each of two
    # seeds, on two cores.
    assert told[0] == "8 of 8 runs are missing: about 12 min, 2 at a time"
    assert told[-1] == "the time is up: 8 runs wait for the next time"


def test_a_folder_without_any_of_the_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the sets is here"):
        available(tmp_path, silent_runner(tmp_path, []))
    with pytest.raises(ConfigError, match="--data FOLDER"):
        available(None, silent_runner(tmp_path, []))


def test_its_help() -> None:
    command = [sys.executable, "-m", "benchmarks.photos", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for option in ("--data", "--only", "--page", "--budget", "--keep-stale", "--jobs"):
        assert option in shown


@pytest.mark.slow
def test_a_run_on_photographs_records_what_the_page_shows(tmp_path: Path) -> None:
    write_photos(tmp_path / "pets")
    protocol = {
        "model.image_size": 24,
        "model.backbone.widths": [8, 16],
        "model.backbone.depths": [1, 1],
        "train.epochs": 1,
        "train.batch_size": 8,
        "train.device": "cpu",
        "evaluation.group_columns": ["scene"],
        "evaluation.min_group": 1,
        "evaluation.slot_phrases": {"place": ["in the centre", "on the left"]},
    }
    cell = PhotoCell("headline", "megl", 50, {}, (0,), dataset="pets", protocol=protocol, images=16)
    run = cell.run(0, tmp_path / "pets")
    runner = tiny_runner(tmp_path)
    with runner.open():
        runner.run([run])
    assert runner.failures == {}
    found = runner.results.find(cell.run(0, Path("elsewhere/pets")))
    assert found is not None
    assert (found.cell, found.seed, found.steps) == ("pets/megl@50", 0, 2)
    assert set(found.metrics) == {"val", "test"}
    assert set(found.metrics["test"]) >= {
        *("accuracy", "macro_f1", "aligned_accuracy", "conflicting_accuracy", "worst_group_accuracy"),
        *("energy_in_mask", "pointing_game", "slot_accuracy", "bleu4", "rouge_l", "cider"),
    }
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert str(tmp_path) not in json.dumps(json.loads(line))
