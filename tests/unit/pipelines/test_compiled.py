"""The compiled pipeline: fresh, and naming the image that this version's build makes."""

from pathlib import Path

import pytest
import yaml

from components import IMAGE
from megl_core import __version__
from megl_core.errors import GateError
from pipelines.compiling import check_compiled, compile_pipeline
from pipelines.training import NEVER_CACHED, STEPS
from tests.conftest import REPOSITORY

COMPILED = REPOSITORY / "pipelines" / "compiled" / "training.yaml"


def test_the_committed_file_is_what_the_code_compiles_to() -> None:
    check_compiled(COMPILED)


def test_a_stale_file_is_noticed(tmp_path: Path) -> None:
    target = tmp_path / "training.yaml"
    with pytest.raises(GateError, match="stale"):
        check_compiled(target)
    compile_pipeline(target)
    check_compiled(target)
    target.write_text(target.read_text().replace("megl-training", "other"))
    with pytest.raises(GateError, match="make compile"):
        check_compiled(target)


def test_every_step_runs_in_the_image_of_this_version() -> None:
    """A compiled pipeline that names an image nobody builds fails on the cluster, not here."""
    spec = yaml.safe_load(COMPILED.read_text())
    images = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values()}
    assert images == {IMAGE}
    assert f":{__version__}" in IMAGE


def test_steps_that_look_outside_are_never_cached() -> None:
    tasks = yaml.safe_load(COMPILED.read_text())["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == set(STEPS) - set(NEVER_CACHED)


def test_no_step_can_train_on_data_that_failed_validation() -> None:
    tasks = yaml.safe_load(COMPILED.read_text())["root"]["dag"]["tasks"]
    assert "validate" in tasks["pack"]["dependentTasks"]
    assert "pack" in tasks["train"]["dependentTasks"]


def test_every_cached_step_depends_on_digests_of_its_bytes_and_of_the_code() -> None:
    tasks = yaml.safe_load(COMPILED.read_text())["root"]["dag"]["tasks"]
    for name in set(STEPS) - set(NEVER_CACHED):
        assert {"digest", "code"} <= set(tasks[name]["inputs"]["parameters"]), name
