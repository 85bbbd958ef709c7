"""Killed at every write, answered with errors, raced by another: a retry leaves exactly one right result."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from megl_core.config import RegistryConfig
from megl_core.errors import MeglError
from megl_core.files import sha256_tree
from megl_core.registry.history import find_history
from megl_core.registry.models import (
    Stage,
    fetch_model,
    list_versions,
    promote,
    read_history,
)
from megl_core.registry.state import state_of
from megl_core.registry.tracking import start_run
from tests.integration import interrupted
from tests.integration.conftest import Line, MLflowServer, SmallModel, Strike

pytestmark = [pytest.mark.service, pytest.mark.slow]

MakeModel = Callable[..., SmallModel]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


@pytest.fixture
def run_id(mlflow_server: MLflowServer, tmp_path: Path) -> str:
    config = RegistryConfig(tracking_uri=mlflow_server.uri)
    with start_run(config, tmp_path, system_metrics=False) as tracker:
        return tracker.run_id


@pytest.fixture
def two(name: str, mlflow_server: MLflowServer, run_id: str, make_model: MakeModel) -> str:
    """A model with two versions, the first in Production."""
    for seed in range(2):
        make_model(seed).register(name, mlflow_server.uri, run_id)
    move(name, 1, mlflow_server.uri)
    return name


def move(name: str, version: int, uri: str) -> None:
    promote(name, version, Stage.PRODUCTION, uri, reason="a test", force=True)


def assert_in_production(name: str, version: int, uri: str) -> None:
    """By the record, by MLflow's stages, by our tags and by the aliases."""
    client = MlflowClient(uri, uri)
    history = find_history(client, name)
    assert history is not None
    assert state_of(history.entries).production == version
    versions = client.search_model_versions(f"name = '{name}'")
    for said in (
        [int(one.version) for one in versions if one.current_stage == "Production"],
        [int(one.version) for one in versions if one.tags.get("megl.stage") == "Production"],
    ):
        assert said == [version]
    aliases = client.get_registered_model(name).aliases
    assert {int(aliases["champion"]), int(aliases["production"])} == {version}
    ours = [one for one in list_versions(name, uri) if one.stage is Stage.PRODUCTION]
    assert [one.version for one in ours] == [version]


def test_a_promotion_killed_at_any_write(two: str, line: Line, mlflow_server: MLflowServer) -> None:
    """The two versions take turns: each kill point is met on the way of one of them into Production.

    What is left by a kill before a write is what one after the write before it leaves.
    """
    number, version = 0, 1
    while True:
        number, version = number + 1, 3 - version
        before = len(read_history(two, mlflow_server.uri))
        process = interrupted.start(interrupted.move, two, version, "Production", line.uri)
        line.strike = Strike(number, act=lambda process=process: interrupted.kill(process))
        process.join(timeout=120)
        struck = line.strike.struck
        move(two, version, mlflow_server.uri)
        assert_in_production(two, version, mlflow_server.uri)
        assert len(read_history(two, mlflow_server.uri)) == before + 1
        if not struck:
            break
    assert number > 5


@pytest.mark.parametrize("status", [500, None], ids=["500", "dropped"])
def test_a_server_that_fails_in_the_middle_of_a_promotion(
    two: str, line: Line, mlflow_server: MLflowServer, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    version = 1
    for number in range(1, 6):
        version = 3 - version
        before = len(read_history(two, mlflow_server.uri))
        line.strike = Strike(number, status=status)
        with pytest.raises(MeglError):
            move(two, version, line.uri)
        assert line.strike.struck
        move(two, version, line.uri)
        assert_in_production(two, version, mlflow_server.uri)
        assert len(read_history(two, mlflow_server.uri)) == before + 1


def test_of_two_promotions_at_once_one_version_is_in_production(
    two: str, mlflow_server: MLflowServer
) -> None:
    for _ in range(3):
        racers = [
            interrupted.start(interrupted.move, two, version, "Production", mlflow_server.uri, actor=actor)
            for version, actor in ((1, "ann"), (2, "bob"))
        ]
        for racer in racers:
            racer.join(timeout=120)
            assert racer.exitcode == 0
        last = read_history(two, mlflow_server.uri)[-1]
        assert_in_production(two, last.version, mlflow_server.uri)


def arguments(model: SmallModel, name: str, uri: str, run_id: str) -> tuple[object, ...]:
    return (model.folder, model.reports, model.statement, name, uri, run_id)


def assert_registered_once(name: str, model: SmallModel, uri: str, folder: Path) -> None:
    (version,) = list_versions(name, uri)
    assert version.model_digest == model.digest
    assert sha256_tree(fetch_model(name, version.version, uri, folder)) == model.digest
    entries = [entry for entry in read_history(name, uri) if entry.action == "register"]
    assert [(entry.version, entry.details["model_digest"]) for entry in entries] == [
        (version.version, model.digest)
    ]


@pytest.mark.parametrize("paths", ["^(?!.*mlflow-artifacts)", "mlflow-artifacts"], ids=["records", "files"])
def test_a_registration_killed_at_any_write(
    name: str,
    line: Line,
    mlflow_server: MLflowServer,
    run_id: str,
    make_model: MakeModel,
    tmp_path: Path,
    paths: str,
) -> None:
    """Every record in the database; of the files, which are alike, some."""
    struck_at = []
    for number in (1, 60) if "(?!" not in paths else range(1, 100):
        model, own = make_model(number), f"{name}-{number}"
        process = interrupted.start(interrupted.add, *arguments(model, own, line.uri, run_id))
        line.strike = Strike(number, act=lambda process=process: interrupted.kill(process), paths=paths)
        process.join(timeout=120)
        struck = line.strike.struck
        model.register(own, mlflow_server.uri, run_id)
        assert_registered_once(own, model, mlflow_server.uri, tmp_path / f"fetched-{number}")
        if not struck:
            break
        struck_at.append(number)
    assert struck_at == ([1, 60] if "(?!" not in paths else list(range(1, number)))
    assert number >= 7 or "(?!" not in paths


def test_a_version_that_was_made_twice_stays_once(
    name: str, line: Line, mlflow_server: MLflowServer, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """The server made it, the answer was lost, and MLflow's client asked again."""
    model = make_model()
    line.strike = Strike(1, after=True, status=503, paths="model-versions/create")
    model.register(name, line.uri, run_id)
    assert line.strike.struck
    assert_registered_once(name, model, mlflow_server.uri, tmp_path / "fetched")


def test_two_processes_that_register_the_same_bytes_make_one_version(
    name: str, mlflow_server: MLflowServer, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model()
    given = arguments(model, name, mlflow_server.uri, run_id)
    racers = [interrupted.start(interrupted.add, *given) for _ in range(2)]
    for racer in racers:
        racer.join(timeout=240)
    assert 0 in [racer.exitcode for racer in racers]
    model.register(name, mlflow_server.uri, run_id)
    assert_registered_once(name, model, mlflow_server.uri, tmp_path / "fetched")
