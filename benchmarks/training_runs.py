"""Whole runs: what evaluation, writing, starting and a second process cost. Wall times.

Whatever memory is told of runs in a process of its own, which has nothing else in it.
"""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.training_plan import Size, configuration, packed_scenes
from megl_core.config import Config, changed
from megl_core.data.contract import TRAIN
from megl_core.errors import MeglError
from megl_core.progress import EVENTS_VARIABLE, SilentReporter

Numbers = dict[str, float]
MODEL = "32 px"
FULL, PLAIN = "all terms", "classifier"


def alone(work: Callable[..., Numbers], *arguments: Any) -> Numbers:
    """What `work` finds out in a fresh process with one thread, and `memory`, the most it held, in bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, work, arguments).result()


def _with_peak(work: Callable[..., Numbers], arguments: tuple[Any, ...]) -> Numbers:
    import torch

    torch.set_num_threads(1)
    found = work(*arguments)
    return found | {"memory": memory_of("VmHWM")}


def memory_of(field: str) -> float:
    """Bytes of this process, by a field of /proc/self/status; `getrusage` would tell of the parent too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1024
    raise MeglError(f"this system does not tell {field}", fix="run the benchmark on Linux")


# --- training, evaluation, writing -----------------------------------------------------------


def measure_runs(size: Size, folder: Path) -> dict[str, list[float]]:
    """Speed and peak memory of whole runs: `{"<what>/<number>": [...]}`."""
    config = configuration(MODEL, FULL, size)
    data = packed_scenes(config, folder)
    model = folder / "model"
    kinds: dict[str, tuple[Any, ...]] = {
        "training, plain classifier": (
            train_alone,
            data,
            folder / "plain",
            configuration(MODEL, PLAIN, size),
            1,
        ),
        "training, all terms": (train_alone, data, model, config, size.epochs),
        "evaluation": (evaluate_alone, data, model, config, folder / "evaluation"),
        "writing": (write_alone, data, model),
    }
    measured: dict[str, list[float]] = {}
    for _, (name, (work, *arguments)) in itertools.product(range(size.runs), kinds.items()):
        append(measured, name, alone(work, *arguments))
    for _ in range(size.runs):
        append(measured, "start", first_step(data, folder / "started"))
    return measured


def train_alone(data: Path, output: Path, config: Config, epochs: int) -> Numbers:
    """Train a model from the start."""
    from megl_core.training import train

    settings = config.train.model_copy(update={"epochs": epochs})
    train(data, output, config.model, config.objective, settings, reporter=SilentReporter(), resume=False)
    return {}


def evaluate_alone(data: Path, model: Path, config: Config, output: Path) -> Numbers:
    """The evaluate step with its defaults; images of the splits a second."""
    from megl_core.data.packed import read_info
    from megl_core.evaluation import evaluate

    started = time.perf_counter()
    evaluate(model, data, config.evaluation, output, SilentReporter())
    seconds = time.perf_counter() - started
    images = sum(rows for split, rows in read_info(data).splits.items() if split != TRAIN)
    return {"images/s": images / seconds}


def write_alone(data: Path, model: Path) -> Numbers:
    """Greedy rationales of a batch of training images: words a second, the ends of sentences included."""
    import torch

    from megl_core.data.packed import PackedDataset
    from megl_core.data.pixels import PixelCache, PixelStore
    from megl_core.models.grounding import ground
    from megl_core.models.megl import MEGL
    from megl_core.models.saliency import class_map, class_weights

    network = MEGL.from_pretrained(model)
    assert network.tokenizer is not None  # noqa: S101 (it was trained with rationales)
    pixels = PixelStore(PackedDataset(data, TRAIN), network.image_size, PixelCache(0))
    images = torch.stack([pixels.get(index)[0] for index in range(min(128, len(pixels.data)))])
    end, words = network.tokenizer.end, 0
    with torch.no_grad():
        features = network.backbone(images)
        logits = network.head(features.pooled)
        weights = class_weights(network.head.weight, logits.argmax(dim=1), logits, "centered")
        grounded = ground(features.cells, class_map(features.cells, weights), network.config.grounding, 0.05)
        started = time.perf_counter()
        for _ in range(4):
            tokens, _ = network.decoder.generate(grounded, images, network.tokenizer.begin, end, 40, 1)
            words += int(((tokens != end).sum(dim=1) + 1).clamp(max=tokens.shape[1]).sum())
        seconds = time.perf_counter() - started
    return {"tokens/s": words / seconds}


def first_step(data: Path, output: Path) -> Numbers:
    """Seconds from the command `megl train` to the first progress that it tells."""
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    events = train_by_command(data, output, 1, [])
    progress = [event for event in events if event["kind"] == "progress" and event["done"] > 0]
    return {"s": progress[0]["time"] - started}


# --- two processes ---------------------------------------------------------------------------


def measure_scaling(size: Size, folder: Path) -> dict[str, list[float]]:
    """Images a second of `megl train`, one and two processes in turns: `{"<model>/<processes>": [...]}`."""
    measured: dict[str, list[float]] = {}
    for model in size.models:
        config = configuration(model, FULL, size)
        data = packed_scenes(config, folder)
        changes = [f"model={config.model.model_dump_json()}", f"train.epochs={size.scaling_epochs}"]
        for _, processes in itertools.product(range(size.runs), (1, 2)):
            events = train_by_command(data, folder / "scaled", processes, changes)
            rate = config.train.batch_size * steps_per_second(events)
            measured.setdefault(f"{model}/{processes}", []).append(rate)
    return measured


def train_by_command(
    data: Path, output: Path, processes: int, changes: Iterable[str]
) -> list[dict[str, Any]]:
    """Run `megl train`, in several processes through torchrun; returns what it told of its progress."""
    events = output.with_name(f"{output.name}.jsonl")
    events.unlink(missing_ok=True)
    command = [sys.executable, "-m", "megl_core.cli", "train", str(data), "--output", str(output)]
    command += ["--no-track", "--restart", "--processes", str(processes)]
    changes = ["train.device=cpu", "train.checkpoint_seconds=3600", *changes]
    command += itertools.chain.from_iterable(("--set", change) for change in changes)
    done = subprocess.run(
        command,
        env=os.environ | {EVENTS_VARIABLE: str(events), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MeglError(f"megl train failed: {done.stderr.strip()[-300:]}", where=" ".join(command))
    return [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]


def steps_per_second(events: list[dict[str, Any]]) -> float:
    """Between the first and the last progress of the training that was told; validation included."""
    told = [event for event in events if event["kind"] == "progress" and event["description"] == "training"]
    first, last = told[0], told[-1]
    return float((last["done"] - first["done"]) / (last["time"] - first["time"]))


# --- the pipeline ----------------------------------------------------------------------------


def measure_pipeline(size: Size, folder: Path) -> dict[str, list[float]]:
    """Seconds of the demo's pipeline: `total`, `outside` of its steps, and of each step `step/<name>`, and
    `before/<name>`, what passed since the step before it.
    """
    from pipelines.run import run_local

    workspace = folder / "workspace"
    result = run_local("training", changed(Config(), size.demo), workspace)
    log = Path(result["log"])
    lines = (log.parent / "events.jsonl").read_text(encoding="utf-8").splitlines()
    steps, gaps = step_seconds([json.loads(line) for line in lines])
    total = float(result["seconds"])
    return {
        "total": [total],
        "outside": [total - sum(steps.values())],
        **{f"step/{name}": [seconds] for name, seconds in steps.items()},
        **{f"before/{name}": [seconds] for name, seconds in gaps.items()},
    }


def step_seconds(events: Iterable[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """How long each step's own function took, and what passed before it since the one before ended.

    The first step has none before it.
    """
    steps: dict[str, float] = {}
    gaps: dict[str, float] = {}
    started, ended = 0.0, None
    for event in events:
        if event["kind"] == "start":
            started = event["time"]
            if ended is not None:
                gaps[event["step"]] = started - ended
        elif event["kind"] == "end":
            ended = event["time"]
            steps[event["step"]] = ended - started
    return steps, gaps


def append(measured: dict[str, list[float]], name: str, numbers: Numbers) -> None:
    """Add each of the numbers to what was measured under `<name>/<number>`."""
    for number, value in numbers.items():
        measured.setdefault(f"{name}/{number}", []).append(value)
