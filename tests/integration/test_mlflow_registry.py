"""Registering, finding, fetching and promoting versions in a real MLflow registry."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from megl_core.cli.models import app
from megl_core.config import GateConfig, GateRule, RegistryConfig
from megl_core.errors import ConfigError, IntegrityError, UnavailableError
from megl_core.files import sha256_file, sha256_tree, write_json
from megl_core.registry.connection import sqlite_file
from megl_core.registry.gate import compare
from megl_core.registry.models import (
    RegisteredVersion,
    Stage,
    champion,
    fetch_evaluation,
    fetch_model,
    list_models,
    list_versions,
    promote,
    register,
    show_version,
)
from megl_core.registry.tracking import start_run
from tests.integration.conftest import Line, MLflowServer, SmallModel

MakeModel = Callable[..., SmallModel]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model for each test: the stores are shared."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


@pytest.fixture
def run_id(store: str, tmp_path: Path) -> str:
    with start_run(RegistryConfig(tracking_uri=store), tmp_path, system_metrics=False) as tracker:
        return tracker.run_id


def add(model: SmallModel, name: str, store: str, run_id: str) -> RegisteredVersion:
    return model.register(name, store, run_id)


def move(name: str, version: int, stage: Stage, store: str) -> RegisteredVersion:
    """Without a look at the gates, which have tests of their own."""
    return promote(name, version, stage, store, reason="a test", force=True)


def where(version: RegisteredVersion) -> tuple[Stage, tuple[str, ...]]:
    return version.stage, version.aliases


def test_a_version_knows_its_bytes(
    store: str, name: str, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model()
    gate = tmp_path / "gate.json"
    rules = GateConfig(rules=[GateRule(metric="test.accuracy", min=0.99)])
    write_json(gate, compare(model.evaluation, None, rules).to_json())
    tags = {"megl.code_commit": "c0de"}
    version = model.register(name, store, run_id, more={"gate.json": gate}, tags=tags)
    assert (version.name, version.version, version.run_id) == (name, 1, run_id)
    assert (version.model_digest, version.uri) == (model.digest, f"models:/{name}/1")
    assert where(version) == (Stage.NONE, ())
    provenance = version.tags["megl.provenance_digest"]
    assert len(provenance) == 64
    assert version.tags == {
        "megl.model_digest": model.digest,
        "megl.data_digest": "d" * 64,
        "megl.training_data_digest": "d" * 64,
        "megl.provenance_digest": provenance,
        "megl.signed": "no",
        "megl.evaluation_digest": sha256_file(model.evaluation),
        "megl.gate_digest": sha256_file(gate),
        "megl.gate": "failed",
        "megl.code_commit": "c0de",
    }
    assert show_version(name, 1, store) == version
    assert name in list_models(store)
    (output,) = MlflowClient(store, store).get_run(run_id).outputs.model_outputs
    logged = MlflowClient(store, store).get_logged_model(output.model_id)
    assert (logged.status, logged.tags["megl.model_digest"]) == ("READY", model.digest)
    assert MlflowClient(store, store).get_run(run_id).info.status == "FINISHED"


def test_fetched_bytes_are_the_registered_bytes(
    store: str, name: str, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model()
    add(model, name, store, run_id)
    move(name, 1, Stage.STAGING, store)
    for reference in (1, "1", "staging"):
        target = fetch_model(name, reference, store, tmp_path / f"fetched-{reference}")
        assert sha256_tree(target) == model.digest
    report = fetch_evaluation(name, "staging", store, tmp_path / "fetched.json")
    assert report.read_bytes() == model.evaluation.read_bytes()


def test_the_same_model_is_registered_once(store: str, name: str, run_id: str, make_model: MakeModel) -> None:
    model, other = make_model(0), make_model(1)
    first = add(model, name, store, run_id)
    assert add(other, name, store, run_id).version == 2
    assert add(model, name, store, run_id) == first
    assert [version.version for version in list_versions(name, store)] == [2, 1]


def test_a_damaged_version_is_noticed_and_replaced(
    sqlite_uri: str, name: str, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_run(RegistryConfig(tracking_uri=sqlite_uri), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    model = make_model()
    add(model, name, sqlite_uri, run_id)
    weights = stored(sqlite_uri, name, "model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="bytes have changed"):
        fetch_model(name, 1, sqlite_uri, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert add(model, name, sqlite_uri, run_id).version == 2
    assert f"version 1 of {name} is damaged" in capsys.readouterr().err
    assert sha256_tree(fetch_model(name, 2, sqlite_uri, tmp_path / "fetched")) == model.digest


@pytest.mark.service
def test_lost_artifacts_are_named(
    mlflow_server: MLflowServer, make_model: MakeModel, tmp_path: Path, name: str
) -> None:
    store = mlflow_server.uri
    with start_run(RegistryConfig(tracking_uri=store), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    add(make_model(), name, store, run_id)
    source = MlflowClient(store, store).get_model_version(name, "1").source.removeprefix("models:/")
    lost = [path for path in mlflow_server.artifacts.rglob("evaluation.json") if source in path.parts]
    for report in lost:
        report.unlink()
    assert len(lost) == 1
    with pytest.raises(IntegrityError, match="gone from the store"):
        fetch_evaluation(name, 1, store, tmp_path / "fetched.json")


def test_a_deleted_logged_model_is_named(
    store: str, name: str, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    add(make_model(), name, store, run_id)
    client = MlflowClient(store, store)
    client.delete_logged_model(client.get_model_version(name, "1").source.removeprefix("models:/"))
    with pytest.raises(IntegrityError, match="gone from the store"):
        fetch_model(name, 1, store, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_an_edited_evaluation_is_noticed(
    sqlite_uri: str, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    with start_run(RegistryConfig(tracking_uri=sqlite_uri), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    add(make_model(), name, sqlite_uri, run_id)
    move(name, 1, Stage.PRODUCTION, sqlite_uri)
    report = stored(sqlite_uri, name, "evaluation.json")
    report.write_text(report.read_text().replace("0.95", "0.99"))
    with pytest.raises(IntegrityError, match=r"evaluation\.json of version 1"):
        fetch_evaluation(name, "champion", sqlite_uri, tmp_path / "champion.json")
    assert not (tmp_path / "champion.json").exists()


def stored(uri: str, name: str, artifact: str) -> Path:
    """A file of version 1 in the artifact store of a SQLite registry."""
    source = MlflowClient(uri, uri).get_model_version(name, "1").source
    database = sqlite_file(uri)
    assert database is not None
    return database.parent / "mlartifacts" / "models" / source[8:] / "artifacts" / "artifacts" / artifact


def test_stages_aliases_and_tags(store: str, name: str, run_id: str, make_model: MakeModel) -> None:
    for seed in range(2):
        add(make_model(seed), name, store, run_id)
    assert champion(name, store) is None

    assert where(move(name, 1, Stage.PRODUCTION, store)) == (Stage.PRODUCTION, ("champion", "production"))
    assert where(move(name, 2, Stage.STAGING, store)) == (Stage.STAGING, ("staging",))
    first = champion(name, store)
    assert first is not None
    assert first.version == 1

    assert where(move(name, 2, Stage.PRODUCTION, store)) == (Stage.PRODUCTION, ("champion", "production"))
    assert where(show_version(name, 1, store)) == (Stage.ARCHIVED, ())
    second = champion(name, store)
    assert second is not None
    assert second.version == 2

    client = MlflowClient(store, store)
    versions = {version.version: version for version in client.search_model_versions(f"name = '{name}'")}
    stages = {int(number): version.current_stage for number, version in versions.items()}
    assert stages == {1: "Archived", 2: "Production"}
    assert {int(number): version.tags["megl.stage"] for number, version in versions.items()} == stages

    assert where(move(name, 2, Stage.NONE, store)) == (Stage.NONE, ())
    assert champion(name, store) is None


def test_the_champions_evaluation(
    store: str, name: str, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    better, worse = make_model(0, accuracy=0.96), make_model(1, accuracy=0.80)
    add(better, name, store, run_id)
    move(name, 1, Stage.PRODUCTION, store)
    champions = fetch_evaluation(name, "champion", store, tmp_path / "champion.json")
    rules = GateConfig(rules=[GateRule(metric="test.accuracy", max_drop=0.01)])
    (row,) = compare(worse.evaluation, champions, rules).rows
    assert (row.value, row.champion, row.passed) == (0.80, 0.96, False)


@pytest.mark.service
def test_a_server_without_stages(
    line: Line, mlflow_server: MLflowServer, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    with start_run(RegistryConfig(tracking_uri=line.uri), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    add(make_model(), name, line.uri, run_id)
    line.faults["transition-stage"] = 404
    promoted = move(name, 1, Stage.PRODUCTION, line.uri)
    assert where(promoted) == (Stage.PRODUCTION, ("champion", "production"))
    assert MlflowClient(mlflow_server.uri).get_model_version(name, "1").current_stage == "None"


@pytest.mark.service
def test_a_server_that_fails_is_no_traceback(
    line: Line, name: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody.elses")
    with start_run(RegistryConfig(tracking_uri=line.uri), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    line.faults["model-versions/create"] = 503
    with pytest.raises(UnavailableError, match="register the model"):
        add(make_model(), name, line.uri, run_id)
    assert list_versions(name, line.uri) == []
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://somebody.elses"
    line.faults.clear()
    assert add(make_model(1), name, line.uri, run_id).version == 1


def test_a_report_about_another_model(store: str, name: str, run_id: str, make_model: MakeModel) -> None:
    model, other = make_model(0), make_model(1)
    with pytest.raises(IntegrityError, match=r"evaluation\.json is about another model"):
        register(model.folder, {"evaluation.json": other.evaluation}, name, store, run_id)
    assert list_versions(name, store) == []


def test_what_does_not_exist(
    store: str, name: str, run_id: str, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model()
    with pytest.raises(ConfigError, match="no MLflow run 0123"):
        add(model, name, store, "0123")
    assert list_versions(name, store) == []
    add(model, name, store, run_id)
    for reference, told in (
        (2, "choose one of 1"),
        ("champion", r"is in Production(.|\n)*one of 1; .* --version"),
    ):
        with pytest.raises(ConfigError, match=told):
            fetch_model(name, reference, store, tmp_path / "fetched")
    with pytest.raises(ConfigError, match="model name"):
        list_versions("x' or name != 'x", store)


def test_the_commands(store: str, name: str, run_id: str, make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    add(model, name, store, run_id)
    runner = CliRunner()

    def call(*arguments: str) -> str:
        result = runner.invoke(app, [*arguments, "--tracking-uri", store], catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    forced = ("--reason", "a test", "--force")
    assert "in stage Staging" in call("promote", name, "1", "--to", "staging", *forced)
    (listed,) = json.loads(call("list", name, "--json"))
    assert (listed["stage"], listed["aliases"]) == ("Staging", ["staging"])
    assert listed["model_digest"] == model.digest
    shown = json.loads(call("show", name, "staging", "--json"))
    assert shown["version"] == 1
    assert shown["metrics"] == {"test": {"accuracy": 0.95}}
    assert "Production" in call("promote", name, "staging", "--to", "production", *forced)
    page = call("show", name)
    assert "Production" in page
    assert "0.95" in page
    assert "No model is registered" not in call("list")
    with pytest.raises(ConfigError, match="no stage 'live'"):
        call("promote", name, "1", "--to", "live", *forced)
