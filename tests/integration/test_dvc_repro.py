"""dvc.yaml for real: a Git and DVC repository in which `dvc repro`, experiments, metrics and plots work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

TINY = {
    "data": {"scenes": {"num_train": 64, "num_val": 16, "num_test": 16}},
    "model": {"backbone": {"widths": [8, 16], "depths": [1, 1]}, "decoder": {"width": 16}},
    "train": {"epochs": 2, "batch_size": 16},
    "evaluation": {"gallery": 1},
}


def run(folder: Path, *command: str) -> str:
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": binaries + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stages_that_ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: merged(value, changes[key]) if isinstance(changes.get(key), dict) else changes.get(key, value)
        for key, value in tree.items()
    }


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "-m", message)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed copy of the stages and of the code they depend on, with settings that take seconds."""
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("megl_core", "scripts"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merged(params, TINY), sort_keys=False))
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "git", "config", "user.name", "t")
    run(tmp_path, "git", "config", "user.email", "t@example.org")
    run(tmp_path, "dvc", "init", "--quiet")
    commit(tmp_path, "the stages")
    return tmp_path


@pytest.mark.slow
def test_the_stages_run_experiments_compare_and_plots_draw(repository: Path) -> None:
    everything = ["generate", "validate", "pack", "train", "evaluate"]
    assert stages_that_ran(run(repository, "dvc", "repro")) == everything
    first = json.loads((repository / "runs" / "metrics.json").read_text())
    assert first["test"]["n"] == 16
    commit(repository, "first results")
    assert "runs/metrics.json" in run(repository, "git", "ls-files")

    assert stages_that_ran(run(repository, "dvc", "repro")) == []

    ran = stages_that_ran(run(repository, "dvc", "exp", "run", "-S", "train.epochs=1", "-n", "shorter"))
    assert ran == ["train", "evaluate"]
    history = json.loads((repository / "runs" / "model" / "training.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1]

    changes = json.loads(run(repository, "dvc", "metrics", "diff", "--json"))
    second = json.loads((repository / "runs" / "metrics.json").read_text())
    bleu = changes["runs/metrics.json"]["test.bleu1"]
    assert bleu["old"] == first["test"]["bleu1"]
    assert bleu["new"] == second["test"]["bleu1"]
    settings = json.loads(run(repository, "dvc", "params", "diff", "--json"))
    assert settings["params.yaml"] == {"train.epochs": {"old": 2, "new": 1, "diff": -1}}
    assert "shorter" in run(repository, "dvc", "exp", "show", "--csv")

    plots = json.loads(run(repository, "dvc", "plots", "show", "--json"))["data"]
    assert set(plots) == {"loss", "validation accuracy", "confusion"}
    assert "index.html" in run(repository, "dvc", "plots", "diff", "HEAD", "--out", "plots")
    page = (repository / "plots" / "index.html").read_text()
    for row in history:
        assert str(row["loss"]) in page


@pytest.mark.slow
def test_changed_data_is_noticed_and_a_failed_gate_stops_before_training(repository: Path) -> None:
    assert stages_that_ran(run(repository, "dvc", "repro", "pack")) == ["generate", "validate", "pack"]
    environment = os.environ | {"PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]}

    done = subprocess.run(
        ["dvc", "exp", "run", "-S", "validation.min_rows=100000"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "exited with 4" in done.stdout + done.stderr
    assert stages_that_ran(done.stdout) == ["validate"]
    assert not (repository / "runs" / "model").exists()
