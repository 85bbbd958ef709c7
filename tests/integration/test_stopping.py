"""SIGTERM from outside, as a scheduler sends it: the command and every process that it started end."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
_PATIENCE = 300  # seconds, for machines that have much else to do


@contextmanager
def megl(*arguments: object, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running command; killed with its children if the test leaves them."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(
        [sys.executable, "-m", "megl_core.cli", *map(str, arguments)],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    family = psutil.Process(process.pid)
    try:
        yield process
    finally:
        if family.is_running():
            for child in family.children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def stop(
    process: "subprocess.Popen[str]", ready: Callable[[], bool], *, has_children: bool = True
) -> list[psutil.Process]:
    """Send SIGTERM once `ready`; returns the processes that outlive the command."""
    children = children_once(ready, process)
    assert bool(children) == has_children
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=_PATIENCE) == 128 + signal.SIGTERM
    return alive_of(children)


def children_once(ready: Callable[[], bool], process: "subprocess.Popen[str]") -> list[psutil.Process]:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return psutil.Process(process.pid).children(recursive=True)


def alive_of(children: list[psutil.Process], seconds: float = 30) -> list[psutil.Process]:
    """Those that do not end by themselves."""
    _, alive = psutil.wait_procs(children, timeout=seconds)
    for child in alive:
        child.kill()
    return alive


def test_a_stopped_pipeline_leaves_no_step_running(tmp_path: Path) -> None:
    events = "w/pipeline/runs/*/events.jsonl"
    with megl("pipeline", "run", "-w", "w", folder=tmp_path) as process:
        assert not stop(process, lambda: any(path.stat().st_size for path in tmp_path.glob(events)))
    assert not list(tmp_path.glob("w/datasets/scenes"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_training_is_saved_and_leaves_no_process(
    packed: Path, tmp_path: Path, processes: int
) -> None:
    settings = [
        "train.epochs=500",
        "train.batch_size=16",
        "train.checkpoint_seconds=0.5",
        "train.keep_checkpoints=1",
    ]
    options = [f"--set={setting}" for setting in settings] + ["--no-track", "-o", tmp_path / "model"]

    def checkpoints() -> list[Path]:
        return list(tmp_path.glob("model.checkpoints/*/step-*"))

    with megl("train", packed, "-n", processes, *options, folder=tmp_path) as process:
        assert not stop(process, lambda: bool(checkpoints()), has_children=processes > 1)
        assert process.stderr is not None
        assert "stopped by a signal; saved at step" in process.stderr.read()
    assert len(checkpoints()) == 1
    assert not (tmp_path / "model").exists()


def long_training(packed: Path, folder: Path) -> tuple[object, ...]:
    settings = ["train.epochs=500", "train.batch_size=16", "train.checkpoint_seconds=0.5"]
    options = [f"--set={setting}" for setting in settings]
    return ("train", packed, "-n", 2, *options, "--no-track", "-o", folder / "model")


def test_a_signal_to_all_processes_at_once_saves_too(packed: Path, tmp_path: Path) -> None:
    """As systemd and Slurm stop a job: the launcher passes on what its processes have got already."""
    with megl(*long_training(packed, tmp_path), folder=tmp_path) as process:
        children = children_once(lambda: any(tmp_path.glob("model.checkpoints/*/step-*")), process)
        for one in (psutil.Process(process.pid), *children):
            one.send_signal(signal.SIGTERM)
        assert process.wait(timeout=_PATIENCE) == 128 + signal.SIGTERM
        assert not alive_of(children)
        assert process.stderr is not None
        assert "stopped by a signal; saved at step" in process.stderr.read()


def test_a_killed_launcher_leaves_nobody_behind_who_writes(packed: Path, tmp_path: Path) -> None:
    with megl(*long_training(packed, tmp_path), folder=tmp_path) as process:
        children = children_once(lambda: any(tmp_path.glob("model.checkpoints/*/step-*")), process)
        process.kill()
        assert not alive_of(children, seconds=60)
        assert process.stderr is not None
        assert "stopped by a signal; saved at step" in process.stderr.read()


def test_a_killed_pipeline_leaves_no_step_running(tmp_path: Path) -> None:
    events = "w/pipeline/runs/*/events.jsonl"
    with megl("pipeline", "run", "-w", "w", folder=tmp_path) as process:
        started = lambda: any(path.stat().st_size for path in tmp_path.glob(events))  # noqa: E731
        children = children_once(started, process)
        process.kill()
        assert not alive_of(children, seconds=60)


@pytest.mark.parametrize("options", [["--no-track"], []])
def test_a_training_whose_terminal_is_closed_is_saved(
    packed: Path, tmp_path: Path, options: list[str]
) -> None:
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [
            *("setsid", "--ctty", sys.executable, "-m", "megl_core.cli", "train", str(packed), *options),
            *("-o", "model", "--set=train.epochs=5000", "--set=train.batch_size=16"),
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        | {"PYTHONPATH": str(REPOSITORY)},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    shown = b""
    while b"loss" not in shown:
        shown += os.read(ours, 1000)
    os.close(ours)  # the kernel sends SIGHUP
    assert process.wait(timeout=_PATIENCE) == 128 + signal.SIGHUP
    assert list(tmp_path.glob("model.checkpoints/*/step-*"))


def test_two_processes_keep_the_exit_code_of_their_error(packed: Path, tmp_path: Path) -> None:
    settings = ["--set=train.batch_size=400", "--no-track", "-o", tmp_path / "model"]
    with megl("train", packed, "-n", 2, *settings, folder=tmp_path) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "do not fill a batch" in errors
    assert "Traceback" not in errors
