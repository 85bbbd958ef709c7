"""Cleaning up removes what is stale and ours, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from megl_core.operations.cleanup import clean_up

DAY = 24 * 3600
RUN = "megl-training-2026-11-24-12-22-47-434219"


def make(file: Path, days: float) -> Path:
    """A file, and folders up to the workspace, that were last written so many days ago."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    moment = time.time() - days * DAY
    for path in (file, *list(file.parents)[:2]):
        os.utime(path, (moment, moment))
    return file


def test_checkpoints_of_a_training_that_was_given_up_are_removed(tmp_path: Path) -> None:
    old = make(tmp_path / "checkpoints" / "0123456789abcdef" / "step-00000150" / "state.json", 15)
    young = make(tmp_path / "checkpoints" / "fedcba9876543210" / "step-00000150" / "state.json", 13)

    assert clean_up(tmp_path, keep_days=14) == [old.parents[1]]
    assert young.is_file()
    assert not old.parents[1].exists()


def test_one_young_file_keeps_a_training_alive(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "0123456789abcdef"
    young = make(folder / "step-00000200" / "state.json", 1)
    make(folder / "step-00000150" / "state.json", 90)
    assert clean_up(tmp_path, keep_days=14) == []
    assert young.is_file()


def test_trainings_on_nodes_go_with_the_data_that_only_they_named(tmp_path: Path) -> None:
    shared, lone = "a" * 64, "b" * 64
    trainings = tmp_path / "exchange" / "trainings"
    old = make(trainings / "0123456789abcdef" / "order.json", 15)
    old.write_text(f'{{"digest": "{lone}"}}')
    os.utime(old, (0, 0))
    young = make(trainings / "fedcba9876543210" / "order.json", 1)
    young.write_text(f'{{"digest": "{shared}"}}')
    data = [make(tmp_path / "exchange" / "data" / name / "dataset.json", 90) for name in (shared, lone)]

    assert clean_up(tmp_path, keep_days=14) == [old.parent, data[1].parent]
    assert young.is_file()
    assert data[0].is_file()
    assert not old.parent.exists()
    assert not data[1].parent.exists()


@pytest.mark.parametrize(
    "path",
    [
        "checkpoints/0123456789abcdef/notes.txt",
        "checkpoints/my-models/step-00000150",
        "checkpoints/readme.md",
        "exchange/trainings/0123456789abcdef/notes.txt",
        "exchange/data/birds/dataset.json",
        "datasets/0123456789abcdef/step-00000150/state.json",
        "pipeline/artifacts/my-own-folder/file",
        "pipeline/runs/20251124T122247434219/log.txt",
    ],
)
def test_what_is_not_surely_ours_stays(tmp_path: Path, path: str) -> None:
    file = make(tmp_path / path, 900)
    assert clean_up(tmp_path, keep_days=14) == []
    assert file.is_file()


def test_a_link_out_of_the_workspace_is_not_followed(tmp_path: Path) -> None:
    file = make(tmp_path / "elsewhere" / "0123456789abcdef" / "step-00000150" / "state.json", 900)
    (tmp_path / "workspace" / "checkpoints").mkdir(parents=True)
    (tmp_path / "workspace" / "checkpoints" / "0123456789abcdef").symlink_to(file.parents[1])
    assert clean_up(tmp_path / "workspace", keep_days=14) == []
    assert file.is_file()


def test_artifacts_that_nothing_refers_to_are_removed(tmp_path: Path) -> None:
    old = make(tmp_path / "pipeline" / "artifacts" / RUN / "gate" / "verdict", 15)
    assert clean_up(tmp_path, keep_days=14) == [old.parents[1]]


@pytest.mark.parametrize(
    "reference", ["artifacts/.kfp_cache/key.json", "runs/20251124T122247434219/result.json"]
)
def test_artifacts_of_a_cached_step_or_of_a_result_stay(tmp_path: Path, reference: str) -> None:
    """A later run takes a cached result from the folder of the run that made it."""
    old = make(tmp_path / "pipeline" / "artifacts" / RUN / "pack" / "packed", 15)
    make(tmp_path / "pipeline" / reference, 15).write_text(f'{{"uri": "{old}"}}')
    assert clean_up(tmp_path, keep_days=14) == []
    assert old.is_file()
