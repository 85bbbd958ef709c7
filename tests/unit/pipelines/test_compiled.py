"""The compiled pipelines: fresh, and naming the image that this version's build makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import IMAGE
from components.metadata import read_metadata
from megl_core import __version__
from megl_core.config import Config, PodsConfig
from megl_core.errors import ConfigError, GateError
from pipelines.catalog import PIPELINES, arguments, find_pipeline
from pipelines.compiling import check_compiled, compile_pipelines, compiled
from pipelines.parts import LEARNING
from tests.conftest import REPOSITORY

COMPILED = REPOSITORY / "pipelines" / "compiled"

each = pytest.mark.parametrize("name", PIPELINES)


def specification(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text()))
    return found


def tasks(name: str) -> dict[str, dict[str, Any]]:
    """The tasks that are components, whatever groups they stand in."""
    spec = specification(name)
    return dict(_components(spec, spec["root"]["dag"]))


def _components(spec: dict[str, Any], dag: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for step, task in dag["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            yield from _components(spec, component["dag"])
        else:
            yield step, task


def test_the_committed_files_are_what_the_code_compiles_to() -> None:
    check_compiled(COMPILED, PodsConfig())


def test_a_stale_file_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="stale"):
        check_compiled(tmp_path, PodsConfig())
    files = compile_pipelines(tmp_path, PodsConfig())
    assert check_compiled(tmp_path, PodsConfig()) == files
    files[1].write_text(files[1].read_text().replace("megl-retraining", "other"))
    with pytest.raises(GateError, match="make compile"):
        check_compiled(tmp_path, PodsConfig())


@each
def test_every_step_runs_in_the_image_of_this_version(name: str) -> None:
    """A compiled pipeline that names an image nobody builds fails on the cluster, not here."""
    images = {e["container"]["image"] for e in specification(name)["deploymentSpec"]["executors"].values()}
    assert images == {IMAGE}
    assert f":{__version__}" in IMAGE


@each
def test_a_pipeline_has_the_steps_that_the_screen_shows(name: str) -> None:
    assert set(tasks(name)) == set(PIPELINES[name].steps)


@each
def test_steps_that_look_outside_are_never_cached(name: str) -> None:
    cached = {step for step, task in tasks(name).items() if task["cachingOptions"].get("enableCache")}
    assert cached == {step for step in PIPELINES[name].steps if read_metadata(step).cached}


@pytest.mark.parametrize("name", ["training", "retraining"])
def test_no_step_can_train_on_data_that_failed_validation(name: str) -> None:
    assert "validate" in tasks(name)["pack"]["dependentTasks"]
    assert "pack" in tasks(name)["train"]["dependentTasks"]


@pytest.mark.parametrize("name", ["training", "retraining"])
def test_every_cached_step_depends_on_digests_of_its_bytes_and_of_the_code(name: str) -> None:
    found = tasks(name)
    cached = [step for step in found if read_metadata(step).cached]
    assert set(cached) == {"validate", "pack", "train", "evaluate"}
    for step in cached:
        assert {"digest", "code"} <= set(found[step]["inputs"]["parameters"]), step


def test_a_retraining_learns_under_a_condition_only() -> None:
    spec = specification("retraining")
    (group,) = (part for key, part in spec["components"].items() if key.startswith("comp-condition"))
    assert set(group["dag"]["tasks"]) == set(LEARNING)


@each
def test_the_notification_runs_whatever_happened(name: str) -> None:
    policy = tasks(name)["notify"]["triggerPolicy"]
    assert policy == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


@each
def test_the_pods_of_a_site_are_compiled_in(name: str) -> None:
    pods = PodsConfig(image="registry.example/megl@sha256:1", workspace_claim="mine")
    spec, platform = yaml.safe_load_all(compiled(PIPELINES[name], pods))
    images = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values()}
    assert images == {"registry.example/megl@sha256:1"}
    assert "mine" in str(platform)


@each
def test_the_arguments_of_a_run_are_the_parameters_of_its_pipeline(name: str) -> None:
    parameters = specification(name)["root"]["inputDefinitions"]["parameters"]
    required = {key for key, parameter in parameters.items() if not parameter.get("isOptional")}
    given = arguments(PIPELINES[name], Config(), Path("/workspace"))
    assert required | {"stage"} <= set(given) <= set(parameters)


def test_an_unknown_pipeline_or_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="training, retraining, promotion"):
        find_pipeline("pretraining")
    with pytest.raises(ConfigError, match="takes no --version"):
        arguments(PIPELINES["training"], Config(), Path("/workspace"), version="3")
