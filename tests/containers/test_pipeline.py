"""Every component in a container of its own: nothing but two folders to write to, no rights, no network."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.metadata import read_metadata, steps
from megl_core.config import load_config
from megl_core.files import canonical_json
from tests.conftest import REPOSITORY
from tests.containers.conftest import Run
from tests.containers.in_docker import RUN

pytestmark = [pytest.mark.service, pytest.mark.slow]


def command_of(step: str, inputs: dict[str, Any], folder: str = "/workspace/out") -> list[str]:
    """What KFP's launcher runs in a component's container."""
    spec = next(yaml.safe_load_all((REPOSITORY / "pipelines/compiled/training.yaml").read_text()))
    container = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
    outputs = {"outputFile": f"{folder}/executor_output.json"}
    request = json.dumps({"inputs": {"parameterValues": inputs}, "outputs": outputs})
    arguments = [request if word == "{{$}}" else word for word in container["args"]]
    return [*container["command"], *arguments]


def test_every_component_runs_in_a_container_and_the_pipeline_ends_with_a_version_in_staging(
    image: str, folder: Path
) -> None:
    command = [sys.executable, "-m", "tests.containers.in_docker", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-6000:]
    result = json.loads((folder / "pipeline" / "runs" / RUN / "result.json").read_text())
    assert (result["version"], result["stage"]) == (1, "Staging")
    assert (folder / "mlflow.db").is_file()
    ran = {step for step in steps() if f"Task '{step}' finished with status SUCCESS" in _plain(log)}
    assert ran == set(steps()), log[-3000:]


def test_a_step_that_fails_says_why_and_its_container_fails(run: Run) -> None:
    config = load_config(overrides=["data.importer=folder", "data.source=/workspace/nowhere"])
    inputs = {"workspace": "/workspace"} | {
        name: canonical_json(getattr(config, name).model_dump(mode="json")).decode()
        for name in read_metadata("ingest").inputs
        if name in type(config).model_fields
    }
    begun = time.monotonic()
    done = run(*command_of("ingest", inputs))
    assert done.returncode == 1
    assert "/workspace/nowhere" in done.stderr
    assert time.monotonic() - begun < 60


def _plain(log: str) -> str:
    """Without the colours."""
    return "".join(part.partition("m")[2] if i else part for i, part in enumerate(log.split("\x1b[")))
