"""Runs a pipeline on this machine and shows how it fares."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megl_core.config import Config
from megl_core.files import read_json, write_json
from megl_core.operations.outcome import result_file
from megl_core.progress import EVENTS_VARIABLE
from megl_core.provenance.source import PIPELINE_RUN_VARIABLE
from pipelines.catalog import Pipeline, arguments, find_pipeline
from pipelines.screen import Screen, StepStates

_POLL_SECONDS = 0.1


def run_local(
    name: str,
    config: Config,
    workspace: Path,
    *,
    stage: str | None = None,
    cache: bool = True,
    **options: str | None,
) -> dict[str, Any]:
    """Run a pipeline through kfp.local, one process for each step, with live progress on screen.

    Args:
        name: The pipeline.
        config: The whole configuration.
        workspace: Folder that keeps datasets, the tracking store, results and reports.
        stage: Stage for a model that passes the gates; None: the pipeline's own.
        cache: Reuse the results of steps whose code, settings and input bytes are the same.
        options: What the pipeline takes beside these.

    Returns:
        The run's result as its last step left it, and which steps ran, were reused, or were not needed.

    Raises:
        MeglError: a step failed; the error is the step's own.
    """
    pipeline = find_pipeline(name)
    workspace = workspace.resolve()
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    request = {
        "pipeline": name,
        "arguments": arguments(pipeline, config, workspace, stage=stage, **options),
        "cache": cache,
        "pipeline_root": str(workspace / "pipeline" / "artifacts"),
    }
    folder = result_file(workspace, run).parent
    folder.mkdir(parents=True)
    write_json(folder / "request.json", request)
    states = _follow(folder, pipeline)
    result: dict[str, Any] = read_json(result_file(workspace, run))
    return result | {
        "pipeline": name,
        "ran": states.names("done"),
        "reused": states.names("reused"),
        "skipped": states.names("skipped"),
        "seconds": round(states.seconds, 1),
        "log": str(folder / "log.txt"),
    }


def _follow(folder: Path, pipeline: Pipeline) -> StepStates:
    """Start the pipeline's process, draw its progress, and raise what made it fail."""
    events = folder / "events.jsonl"
    events.touch()
    states = StepStates(pipeline.steps)
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.local", str(folder / "request.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {EVENTS_VARIABLE: str(events), PIPELINE_RUN_VARIABLE: folder.name},
            start_new_session=True,
        )
        try:
            with Screen(states) as screen:
                for event in _events(events, process):
                    states.take(event)
                    screen.refresh()
                states.finish(succeeded=process.returncode == 0)
        except BaseException:
            _stop(process)
            raise
    if process.returncode != 0:
        raise states.error(folder / "log.txt")
    return states


def _events(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """Every event as it is written, until the process has ended and all are read."""
    with path.open() as stream:
        rest = ""
        while True:
            ended = process.poll() is not None
            rest += stream.read()
            *lines, rest = rest.split("\n")
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):  # cut off, when the disk was full
                    yield json.loads(line)
            if ended:
                return
            time.sleep(_POLL_SECONDS)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the pipeline's process and every step it started."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
