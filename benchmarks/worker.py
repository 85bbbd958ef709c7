"""One run in one process: data, training and evaluation through the functions that the pipeline calls."""

import os
import platform
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import METRICS
from benchmarks.sources import Scenes, Source
from megl_core.code import code_digest
from megl_core.config import Config
from megl_core.data.pack import pack
from megl_core.data.packed import read_info
from megl_core.errors import MeglError
from megl_core.evaluation import Evaluation, evaluate
from megl_core.files import read_json, sha256_json, write_json
from megl_core.locks import locked
from megl_core.progress import SilentReporter
from megl_core.training import train
from megl_core.training.loop import TRAINING_FILE

VERSIONS = ("torch", "numpy")


@dataclass(frozen=True)
class Job:
    """What a process is to do.

    Attributes:
        outcome: the JSON file to write: what was measured, or `{"error": ...}`.
        folder: of packed data and working files, shared by all processes.
    """

    config: Config
    outcome: Path
    folder: Path
    source: Source = field(default_factory=Scenes)


def work(job: Job) -> None:
    """Run a job and write its outcome; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome = measure(job.config, job.folder, job.source)
    except MeglError as error:
        outcome = {"error": str(error)}
    except Exception:
        outcome = {"error": traceback.format_exc()}
    write_json(job.outcome, outcome)


def measure(config: Config, folder: Path, source: Source | None = None) -> dict[str, Any]:
    """Train and evaluate one configuration; what a `Record` holds but for the cell's part of it."""
    data = packed_data(config, folder, source or Scenes())
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as name:
        work_folder = Path(name)
        started = time.monotonic()
        train(
            data,
            work_folder / "model",
            config.model,
            config.objective,
            config.train,
            reporter=SilentReporter(),
        )
        seconds = time.monotonic() - started
        steps = read_json(work_folder / "model" / TRAINING_FILE)["steps"]
        evaluation = evaluate(
            work_folder / "model", data, config.evaluation, work_folder / "evaluation", SilentReporter()
        )
    return {
        "code": code_digest(),  # read at the end: it tells of every change since the process began
        "data": read_info(data).digest,
        "metrics": _metrics(evaluation),
        "training_seconds": round(seconds, 2),
        "core_seconds": round(time.process_time(), 2),
        "steps": steps,
        "finished": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
    }


def packed_data(config: Config, folder: Path, source: Source) -> Path:
    """The packed data of a configuration, made by the first process that needs them."""
    settings = source.settings(config) | {"pack": config.pack.model_dump()}
    packed = folder / f"data-{sha256_json(settings)[:16]}"
    with locked(packed.with_suffix(".lock")):
        if not packed.is_dir():
            with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as name:
                dataset, manifest = source.write(config, Path(name))
                pack(dataset, manifest, packed, config.pack, reporter=SilentReporter())
    return packed


def machine() -> dict[str, str]:
    """Processor, number of cores, GPU, and the versions that numbers may depend on."""
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    } | {name: version(name) for name in VERSIONS}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _metrics(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    return {
        split: {name: round(metrics[name], 5) for name in METRICS if name in metrics}
        for split, metrics in evaluation.metrics.items()
    }
