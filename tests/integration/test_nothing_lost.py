"""Runs that are killed, stopped and moved, against a run that was left alone."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.files import read_json
from megl_core.progress import LineReporter
from megl_core.training import train
from tests.integration.conftest import free_port

pytestmark = pytest.mark.slow

# Without dropout, which is drawn by each process for itself: the number of processes changes nothing.
MODEL = ModelConfig(
    image_size=24,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16, dropout=0.0),
)
CONFIG = TrainConfig(epochs=12, batch_size=16, checkpoint_seconds=0, keep_checkpoints=3)
WRITTEN = "model.checkpoints/*/.step-*/new/*.safetensors"
STEPS = 36
SCRIPT = """
import sys
from pathlib import Path
from megl_core.config import ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.progress import LineReporter
from megl_core.training import train

packed, output, model, config = sys.argv[1:]
train(
    Path(packed), Path(output), ModelConfig.model_validate_json(model), ObjectiveConfig(),
    TrainConfig.model_validate_json(config), reporter=LineReporter(),
)
"""


@pytest.fixture(scope="module")
def whole(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a run that nobody disturbed."""
    model = tmp_path_factory.mktemp("whole") / "model"
    train(packed, model, MODEL, ObjectiveConfig(), CONFIG)
    return model


@contextmanager
def running(
    packed: Path,
    output: Path,
    processes: int = 1,
    config: TrainConfig = CONFIG,
    node: tuple[int, int] | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    """A training in processes of its own, killed in the end.

    Args:
        node: the number of one of two nodes, and the port of the first.
    """
    script = output.with_name("script.py")
    script.write_text(SCRIPT)
    command = [sys.executable]
    if node is not None:
        command += ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node[0]}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={node[1]}"]
    elif processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    process = subprocess.Popen(
        [*command, str(script), str(packed), str(output), MODEL.model_dump_json(), config.model_dump_json()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
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


def newest(output: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    names = output.with_name("model.checkpoints").glob("*/step-*")
    return max((int(path.name.removeprefix("step-")) for path in names), default=0)


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if process.poll() is not None:
            pytest.fail(f"the run ended: {process.communicate()[1][-2000:]}")
        if time.monotonic() > deadline:
            pytest.fail("it never happened")
        time.sleep(0.0005)


def assert_same_run(one: Path, other: Path) -> None:
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    histories = [read_json(folder / "training.json")["history"] for folder in (one, other)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("moment", ["anywhere", "during a write"])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(
    packed: Path, whole: Path, tmp_path: Path, moment: str
) -> None:
    output = tmp_path / "model"
    chance = random.Random(moment)
    reached = 0
    for _ in range(3):
        with running(packed, output) as process:
            target = reached + chance.randrange(2, 7)
            wait_until(lambda target=target: newest(output) >= target, process)  # type: ignore[misc]
            if moment == "anywhere":
                time.sleep(chance.random() * 0.05)
            else:
                wait_until(lambda: any(tmp_path.glob(WRITTEN)), process)
            process.kill()
        reached = newest(output)
        assert reached >= target
    assert not output.exists()
    assert reached < STEPS
    train(packed, output, MODEL, ObjectiveConfig(), CONFIG)
    assert_same_run(whole, output)
    assert not (tmp_path / "model.checkpoints").exists()  # nothing of unfinished writes is left either


def test_sigterm_saves_the_step_it_meets(packed: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    config = CONFIG.model_copy(update={"checkpoint_seconds": 0.2})
    with running(packed, output, config=config) as process:
        wait_until(lambda: newest(output) > 0, process)
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    saved = newest(output)
    assert f"saved at step {saved}" in shown
    train(packed, output, MODEL, ObjectiveConfig(), config)
    assert_same_run(whole, output)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    packed: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: int,
    after: int,
) -> None:
    output = tmp_path / "model"
    with running(packed, output, before) as process:
        wait_until(lambda: newest(output) >= 4, process)
    reached = newest(output)
    assert reached < STEPS
    if after == 1:
        train(packed, output, MODEL, ObjectiveConfig(), CONFIG, reporter=LineReporter())
        shown = capsys.readouterr().err
    else:
        with running(packed, output, after) as process:
            _, shown = process.communicate(timeout=120)
        assert process.returncode == 0, shown[-2000:]
    assert f"resuming at step {reached} of {STEPS}" in shown
    report = read_json(output / "training.json")
    assert report["processes"] == after
    for row, expected in zip(report["history"], read_json(whole / "training.json")["history"], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4 * STEPS)


def test_a_process_that_stands_still_is_named(packed: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    config = CONFIG.model_copy(update={"epochs": 500, "checkpoint_seconds": 1.0, "stall_seconds": 4.0})
    with running(packed, output, 2, config) as process:
        wait_until(lambda: newest(output) > 0, process)
        stopped = rank_of(process, 1)
        stopped.suspend()
        began = time.monotonic()
        lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "does not answer" in line:
                break
        seconds = time.monotonic() - began
        stopped.kill()
        _, rest = process.communicate(timeout=60)
    assert seconds < 10
    assert "rank 1 does not answer any more" in lines[-1]
    assert ": loss " in lines[-1]  # the last that it logged
    assert "the processes lost each other" in "".join(lines) + rest
    assert process.returncode != 0


def test_a_process_that_dies_is_named(packed: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    config = CONFIG.model_copy(update={"epochs": 500, "checkpoint_seconds": 1.0, "stall_seconds": 4.0})
    with running(packed, output, 2, config) as process:
        wait_until(lambda: newest(output) > 0, process)
        rank_of(process, 1).kill()
        _, shown = process.communicate(timeout=60)
    assert process.returncode != 0
    found = re.search("rank 1 does not answer any more, and was .* at step .*", shown)
    assert found is not None, shown[-2000:]
    assert ": loss " in found[0] or "checkpoint at step" in found[0]  # the last that it logged


def test_the_loss_of_the_main_node_ends_the_others(packed: Path, tmp_path: Path) -> None:
    """A machine that is cut off resets no connection, like processes that are stopped."""
    output = tmp_path / "model"
    config = CONFIG.model_copy(update={"epochs": 5000, "checkpoint_seconds": 1.0, "stall_seconds": 4.0})
    port = free_port()
    with (
        running(packed, output, 1, config, node=(0, port)) as main,
        running(packed, output, 1, config, node=(1, port)) as other,
    ):
        wait_until(lambda: newest(output) > 0, main)
        for process in [psutil.Process(main.pid), *psutil.Process(main.pid).children(recursive=True)]:
            process.suspend()
        _, shown = other.communicate(timeout=60)
    assert other.returncode == 1
    assert "the processes lost each other at step" in shown
    assert "the main node does not answer any more" in shown


def rank_of(process: "subprocess.Popen[str]", rank: int) -> psutil.Process:
    """The process of a rank that torchrun started."""
    children = psutil.Process(process.pid).children()
    workers = [child for child in children if "script.py" in child.cmdline()[2]]
    return next(child for child in workers if child.environ()["RANK"] == str(rank))
