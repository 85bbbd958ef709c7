"""Runs the training pipeline on this machine and shows how it fares."""

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

from megl_core.code import code_digest
from megl_core.config import Config
from megl_core.files import canonical_json, read_json, sha256_json, write_json
from megl_core.progress import EVENTS_VARIABLE
from megl_core.provenance.source import PIPELINE_RUN_VARIABLE
from megl_core.registry.tracking import resolve_tracking_uri
from pipelines.screen import Screen, StepStates

_POLL_SECONDS = 0.1


def run_local(
    config: Config, workspace: Path, *, stage: str = "Staging", cache: bool = True
) -> dict[str, Any]:
    """Run the pipeline through kfp.local, one process for each step, with live progress on screen.

    Args:
        config: The whole configuration.
        workspace: Folder that keeps datasets, the tracking store, results and reports.
        stage: Stage for a model that passes the gate.
        cache: Reuse the results of steps whose code, settings and input bytes are the same.

    Returns:
        The run's result: metrics, version, stage, paths, and which steps ran.

    Raises:
        MeglError: a step failed; the error is the step's own.
    """
    workspace = workspace.resolve()
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    folder = workspace / "pipeline" / "runs" / name
    folder.mkdir(parents=True)
    request = {
        "arguments": pipeline_arguments(config, workspace, stage),
        "cache": cache,
        "pipeline_root": str(workspace / "pipeline" / "artifacts"),
        "result": str(folder / "result.json"),
    }
    write_json(folder / "request.json", request)
    states = _follow(folder)
    result: dict[str, Any] = read_json(folder / "result.json")
    return result | {
        "ran": states.names("done"),
        "reused": states.names("reused"),
        "seconds": round(states.seconds, 1),
        "log": str(folder / "log.txt"),
    }


def pipeline_arguments(config: Config, workspace: Path, stage: str) -> dict[str, Any]:
    """The pipeline's parameters: each section as JSON (KFP's own mappings hold no null and turn integers
    into floats), and the digests of the code and of the tracking store's address."""
    sections = config.model_dump(mode="json", exclude={"pods"})
    return {
        "workspace": str(workspace),
        "code": code_digest(),
        "store": sha256_json(resolve_tracking_uri(config.registry, workspace)),
        "stage": stage,
        **{name: canonical_json(section).decode() for name, section in sections.items()},
    }


def _follow(folder: Path) -> StepStates:
    """Start the pipeline's process, draw its progress, and raise what made it fail."""
    from pipelines.training import STEPS

    events = folder / "events.jsonl"
    events.touch()
    states = StepStates(STEPS)
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
