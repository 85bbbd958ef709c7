"""Promotions, approvals and rollbacks as entries of the record, which MLflow's stages and aliases follow."""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from typer.testing import CliRunner

from megl_core.cli.models import app
from megl_core.config import Config, GateConfig, GateRule, PromotionConfig, RegistryConfig
from megl_core.errors import ConfigError, GateError, IntegrityError, MeglError
from megl_core.files import sha256_file
from megl_core.registry.fetching import artifacts_of
from megl_core.registry.gate import GateRow
from megl_core.registry.history import find_history, record_runs
from megl_core.registry.models import (
    Stage,
    approve,
    champion,
    list_versions,
    promote,
    read_history,
    reject,
    request,
    rollback,
    show_version,
    state_at,
)
from megl_core.registry.promotion import Verdict
from megl_core.registry.stages import ApprovalMissingError, ProductionChangedError
from megl_core.registry.state import state_of
from megl_core.registry.steps import promote_if_passed, promote_judged
from megl_core.registry.tracking import start_run
from tests.integration import interrupted
from tests.integration.conftest import Line, MLflowServer, SmallModel, Strike
from tests.integration.test_interrupted import assert_in_production

MakeModel = Callable[..., SmallModel]

RULES = GateConfig(rules=[GateRule(metric="test.accuracy", min=0.9, max_drop=0.05)])


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


@pytest.fixture
def foreign(store: str, name: str) -> str:
    """A model with three versions that another tool registered, none of them in a stage."""
    client = MlflowClient(store, store)
    client.create_registered_model(name)
    for number in range(3):
        client.create_model_version(name, f"s3://models/{number}")
    return name


def registered(make_model: MakeModel, name: str, store: str, folder: Path, count: int = 2) -> str:
    """A model with versions of real bytes."""
    with start_run(RegistryConfig(tracking_uri=store), folder, system_metrics=False) as tracker:
        run_id = tracker.run_id
    for seed in range(count):
        make_model(seed).register(name, store, run_id)
    return name


def verdict(name: str, version: int, *, passed: bool = True, champion: int | None = None) -> Verdict:
    rows = [
        GateRow("test.accuracy", 0.95, None, "at least 0.9", passed=True),
        GateRow("test.ece", 0.2, None, "at most 0.1", passed=passed),
    ]
    return Verdict(name, version, passed, rows, champion)


def move(name: str, version: int, stage: Stage, store: str) -> None:
    promote(name, version, stage, store, reason="a test", force=True)


def actions(name: str, store: str) -> list[tuple[str, int]]:
    return [(entry.action, entry.version) for entry in read_history(name, store)]


def test_without_a_passed_verdict_nothing_moves(foreign: str, store: str) -> None:
    failing = verdict(foreign, 1, passed=False)
    with pytest.raises(GateError, match="no gate was looked at"):
        promote(foreign, 1, Stage.STAGING, store, reason="a test")
    with pytest.raises(GateError, match=r"did not pass: test\.ece: at most 0\.1"):
        promote(foreign, 1, Stage.STAGING, store, reason="a test", verdict=failing)
    with pytest.raises(ConfigError, match="reason"):
        promote(foreign, 1, Stage.STAGING, store, reason=" ", verdict=verdict(foreign, 1))
    assert show_version(foreign, 1, store).stage is Stage.NONE
    assert actions(foreign, store) == []


def test_the_record_says_who_why_and_by_which_gates(
    foreign: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGL_ACTOR", "ann")
    passed = verdict(foreign, 2)
    promote(foreign, 2, Stage.PRODUCTION, store, reason="it is better", verdict=passed)
    (entry,) = read_history(foreign, store)
    digest = entry.details["gate"]["digest"]
    assert (entry.actor, entry.action, entry.version, entry.reason) == ("ann", "promote", 2, "it is better")
    assert entry.details == {
        "from": "None",
        "to": "Production",
        "gate": {"passed": True, "digest": digest, "failed": []},
        "forced": False,
        "approvals": [],
        "champion": None,
    }
    history = find_history(MlflowClient(store, store), foreign)
    assert history is not None
    report = download_artifacts(
        run_id=history.run_id,
        artifact_path=f"gates/{digest}.json",
        dst_path=str(tmp_path),
        tracking_uri=store,
    )
    assert sha256_file(Path(report)) == digest
    assert json.loads(Path(report).read_bytes()) == passed.to_json()


def test_force_is_in_the_record_with_the_rows_that_failed(foreign: str, store: str) -> None:
    failing = verdict(foreign, 1, passed=False)
    moved = promote(foreign, 1, Stage.STAGING, store, reason="demo", verdict=failing, force=True)
    (entry,) = read_history(foreign, store)
    assert entry.details["forced"] is True
    assert entry.details["gate"]["failed"] == ["test.ece at most 0.1"]
    assert (moved.stage, moved.tags["megl.forced"]) == (Stage.STAGING, "demo")


def test_leaving_a_stage_needs_no_gate(foreign: str, store: str) -> None:
    move(foreign, 1, Stage.PRODUCTION, store)
    assert promote(foreign, 1, Stage.ARCHIVED, store, reason="old").stage is Stage.ARCHIVED
    assert champion(foreign, store) is None
    promote(foreign, 1, Stage.ARCHIVED, store, reason="old")
    assert actions(foreign, store) == [("promote", 1), ("promote", 1)]


def test_a_verdict_against_another_champion_does_not_count(foreign: str, store: str) -> None:
    judged = verdict(foreign, 2)
    move(foreign, 1, Stage.PRODUCTION, store)
    with pytest.raises(ProductionChangedError, match="version 1 is there now"):
        promote(foreign, 2, Stage.PRODUCTION, store, reason="a test", verdict=judged)
    judged = verdict(foreign, 2, champion=1)
    promote(foreign, 2, Stage.PRODUCTION, store, reason="a test", verdict=judged)
    assert read_history(foreign, store)[-1].details["champion"] == 1


def test_who_is_overtaken_is_judged_against_the_new_champion(
    store: str, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """While version 2 is judged, version 1 goes into Production; 2 is as good, and goes there after it."""
    registered(make_model, name, store, tmp_path)
    seen: list[int | None] = []

    def overtake(judged: Verdict) -> None:
        seen.append(judged.champion)
        assert judged.passed, judged.failed
        if len(seen) == 1:
            move(name, 1, Stage.PRODUCTION, store)

    promote_judged(name, 2, Stage.PRODUCTION, Config(gate=RULES), store, reason="a test", show=overtake)
    assert seen == [None, 1]
    assert [entry.version for entry in read_history(name, store) if entry.action == "promote"] == [1, 2]
    assert [one.stage for one in list_versions(name, store)] == [Stage.PRODUCTION, Stage.ARCHIVED]


def test_somebody_else_must_approve(foreign: str, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ready() -> None:
        passed = verdict(foreign, 1)
        promote(foreign, 1, Stage.PRODUCTION, store, reason="go", verdict=passed, approvals=2)

    monkeypatch.setenv("MEGL_ACTOR", "ann")
    with pytest.raises(ApprovalMissingError, match="needed: 2, given: 0"):
        ready()
    with pytest.raises(ConfigError, match="nobody asked"):
        approve(foreign, 1, Stage.PRODUCTION, store, reason="yes")
    request(foreign, 1, Stage.PRODUCTION, store, reason="better")
    with pytest.raises(ConfigError, match="ann asked for this already"):
        request(foreign, 1, Stage.PRODUCTION, store, reason="better")
    with pytest.raises(GateError, match="cannot approve"):
        approve(foreign, 1, Stage.PRODUCTION, store, reason="yes")
    monkeypatch.setenv("MEGL_ACTOR", "bob")
    approve(foreign, 1, Stage.PRODUCTION, store, reason="yes")
    with pytest.raises(GateError, match="approved this already"):
        approve(foreign, 1, Stage.PRODUCTION, store, reason="yes")
    with pytest.raises(ApprovalMissingError, match="given: 1"):
        ready()
    monkeypatch.setenv("MEGL_ACTOR", "cleo")
    approve(foreign, 1, Stage.PRODUCTION, store, reason="yes")
    ready()
    assert read_history(foreign, store)[-1].details["approvals"] == ["bob", "cleo"]


def test_a_rejected_request_is_made_anew(foreign: str, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGL_ACTOR", "ann")
    for _ in range(2):
        asked = request(foreign, 1, Stage.STAGING, store, reason="better")
        entry = reject(foreign, 1, Stage.STAGING, store, reason="not today")
        assert (entry.action, entry.details) == ("reject", {"to": "Staging", "request": asked.number})


def test_the_pipeline_asks_where_people_must_approve(
    store: str, name: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(make_model, name, store, tmp_path, count=1)
    config = Config(
        gate=RULES,
        registry=RegistryConfig(tracking_uri=store, model_name=name),
        promotion=PromotionConfig(staging_approvals=1),
    )

    def step() -> str:
        return promote_if_passed(config, tmp_path, 1, "Staging", passed=True, reason="the pipeline")

    monkeypatch.setenv("MEGL_ACTOR", "pipeline")
    assert [step(), step()] == ["None", "None"]
    assert actions(name, store) == [("register", 1), ("request", 1)]
    monkeypatch.setenv("MEGL_ACTOR", "ann")
    approve(name, 1, Stage.STAGING, store, reason="yes")
    assert [step(), step()] == ["Staging", "Staging"]
    assert actions(name, store)[2:] == [("approve", 1), ("promote", 1)]


def test_a_version_that_fails_a_gate_is_not_promoted_by_the_pipeline(
    store: str, name: str, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(make_model, name, store, tmp_path, count=1)
    rules = GateConfig(rules=[GateRule(metric="test.accuracy", min=0.99)])
    config = Config(gate=rules, registry=RegistryConfig(tracking_uri=store, model_name=name))
    assert promote_if_passed(config, tmp_path, 1, "Staging", passed=True, reason="the pipeline") == "None"
    assert "test.accuracy: at least 0.99" in capsys.readouterr().err


def test_rollbacks_lead_back_step_by_step(
    store: str, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    registered(make_model, name, store, tmp_path, count=3)
    with pytest.raises(ConfigError, match="before the present one"):
        rollback(name, store, reason="slow")
    for version in (1, 2, 3):
        move(name, version, Stage.PRODUCTION, store)
    for target, others in ((2, (1, 3)), (1, (2, 3))):
        back = rollback(name, store, reason="slow")
        assert (back.version, back.stage, back.aliases) == (
            target,
            Stage.PRODUCTION,
            ("champion", "production"),
        )
        for other in others:
            assert show_version(name, other, store).stage is Stage.ARCHIVED
    client = MlflowClient(store, store)
    assert [client.get_model_version(name, str(number)).current_stage for number in (1, 2, 3)] == [
        "Production",
        "Archived",
        "Archived",
    ]
    assert read_history(name, store)[-1].details == {"from": 2, "to": 1}
    with pytest.raises(ConfigError, match="before the present one"):
        rollback(name, store, reason="slow")


def test_nobody_rolls_back_to_changed_bytes(
    sqlite_uri: str, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    registered(make_model, name, sqlite_uri, tmp_path)
    for version in (1, 2):
        move(name, version, Stage.PRODUCTION, sqlite_uri)
    client = MlflowClient(sqlite_uri, sqlite_uri)
    artifacts = artifacts_of(client, client.get_model_version(name, "1"))
    weights = Path(str(artifacts).removeprefix("file://")) / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="bytes have changed"):
        rollback(name, sqlite_uri, reason="slow")
    current = champion(name, sqlite_uri)
    assert current is not None
    assert current.version == 2
    assert actions(name, sqlite_uri)[-1] == ("promote", 2)


@pytest.mark.service
@pytest.mark.slow
def test_an_interrupted_rollback_is_completed_and_not_repeated(
    line: Line, name: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its writes the first is the entry; the stage, a tag and an alias are struck after that."""
    registered(make_model, name, line.uri, tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for number in (2, 3, 5):
        for version in (1, 2, 1):
            move(name, version, Stage.PRODUCTION, line.uri)
        before = len(actions(name, line.uri))
        line.strike = Strike(number, status=500)
        with pytest.raises(MeglError):
            rollback(name, line.uri, reason="slow")
        assert rollback(name, line.uri, reason="slow").version == 2
        assert actions(name, line.uri)[before:] == [("rollback", 2)]
        assert rollback(name, line.uri, reason="slow").version == 1


def test_what_was_in_production_then(foreign: str, store: str) -> None:
    for version in (1, 2):
        move(foreign, version, Stage.PRODUCTION, store)
    first, second = (datetime.fromisoformat(entry.time) for entry in read_history(foreign, store))
    assert state_at(foreign, first, store).production == 1
    assert state_at(foreign, second - timedelta(milliseconds=1), store).production == 1
    assert state_at(foreign, second, store).stages == {1: Stage.ARCHIVED, 2: Stage.PRODUCTION}
    with pytest.raises(ConfigError, match="it begins at"):
        state_at(foreign, first - timedelta(seconds=1), store)


def set_stage(client: MlflowClient, name: str, version: int, stage: str) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        client.transition_model_version_stage(name, str(version), stage)


def test_a_record_begins_with_what_it_finds(foreign: str, store: str) -> None:
    client = MlflowClient(store, store)
    for version, stage in ((1, "Production"), (2, "Production"), (3, "Staging")):
        set_stage(client, foreign, version, stage)
    client.set_registered_model_alias(foreign, "champion", "1")
    client.set_registered_model_alias(foreign, "nightly", "3")
    before = [(one.version, one.stage, one.aliases) for one in list_versions(foreign, store)]
    assert before == [
        (3, Stage.STAGING, ("nightly", "staging")),
        (2, Stage.ARCHIVED, ()),
        (1, Stage.PRODUCTION, ("champion", "production")),
    ]
    assert find_history(client, foreign) is None

    passed = verdict(foreign, 3, champion=1)
    promote(foreign, 3, Stage.PRODUCTION, store, reason="better", verdict=passed)
    found, promoted = read_history(foreign, store)
    assert (found.action, found.version) == ("adopt", 1)
    assert found.details == {"stages": {"Staging": [3], "Production": [1], "Archived": [2]}}
    assert (promoted.details["from"], promoted.details["champion"]) == ("Staging", 1)
    assert client.get_registered_model(foreign).aliases.keys() == {"champion", "production", "nightly"}
    assert state_of(read_history(foreign, store)).earlier == [1]


def test_a_first_registration_leaves_the_champion_of_others_in_place(
    store: str, foreign: str, make_model: MakeModel, tmp_path: Path
) -> None:
    MlflowClient(store, store).set_registered_model_alias(foreign, "champion", "2")
    registered(make_model, foreign, store, tmp_path, count=1)
    current = champion(foreign, store)
    assert current is not None
    assert (current.version, current.stage) == (2, Stage.PRODUCTION)
    assert actions(foreign, store) == [("adopt", 2), ("register", 4)]


@pytest.mark.service
@pytest.mark.slow
def test_a_record_whose_beginning_was_killed_at_any_write(
    name: str, line: Line, mlflow_server: MLflowServer
) -> None:
    number, struck = 0, True
    while struck:
        number += 1
        model = in_production_without_record(f"{name}-{number}", mlflow_server.uri)
        process = interrupted.start(interrupted.move, model, 2, "Production", line.uri)
        line.strike = Strike(number, act=lambda process=process: interrupted.kill(process))
        process.join(timeout=120)
        struck = line.strike.struck
        move(model, 2, Stage.PRODUCTION, mlflow_server.uri)
        assert_in_production(model, 2, mlflow_server.uri)
        assert actions(model, mlflow_server.uri) == [("adopt", 1), ("promote", 2)]
        assert state_of(read_history(model, mlflow_server.uri)).earlier == [1]
    assert number > 8


@pytest.mark.service
@pytest.mark.slow
def test_two_processes_begin_one_record(name: str, mlflow_server: MLflowServer) -> None:
    model = in_production_without_record(name, mlflow_server.uri)
    racers = [
        interrupted.start(interrupted.move, model, version, "Production", mlflow_server.uri)
        for version in (2, 3)
    ]
    for racer in racers:
        racer.join(timeout=120)
        assert racer.exitcode == 0
    assert len(record_runs(MlflowClient(mlflow_server.uri), model)) == 1
    first, *moves = actions(model, mlflow_server.uri)
    assert first == ("adopt", 1)
    assert sorted(moves) == [("promote", 2), ("promote", 3)]
    assert_in_production(model, moves[-1][1], mlflow_server.uri)


def in_production_without_record(name: str, uri: str) -> str:
    """A model of others with three versions, the first of which they call champion."""
    client = MlflowClient(uri, uri)
    client.create_registered_model(name)
    for number in range(3):
        client.create_model_version(name, f"s3://models/{number}")
    client.set_registered_model_alias(name, "champion", "1")
    return name


def test_what_others_move_counts_for_nothing_and_is_mended(foreign: str, store: str) -> None:
    move(foreign, 1, Stage.PRODUCTION, store)
    client = MlflowClient(store, store)
    set_stage(client, foreign, 2, "Production")
    client.set_registered_model_alias(foreign, "champion", "2")
    client.set_model_version_tag(foreign, "2", "megl.stage", "Production")
    current = champion(foreign, store)
    assert current is not None
    assert (current.version, current.aliases) == (1, ("champion", "production"))
    assert show_version(foreign, "champion", store).version == 1
    assert show_version(foreign, 2, store).stage is Stage.NONE

    move(foreign, 3, Stage.STAGING, store)
    assert client.get_model_version_by_alias(foreign, "champion").version in (1, "1")
    versions = {int(one.version): one for one in client.search_model_versions(f"name = '{foreign}'")}
    assert versions[1].current_stage == "Production"
    assert (versions[2].current_stage, versions[2].tags["megl.stage"]) == ("None", "None")


def test_a_deleted_champion_is_named_and_can_be_replaced(foreign: str, store: str) -> None:
    move(foreign, 1, Stage.PRODUCTION, store)
    MlflowClient(store, store).delete_model_version(foreign, "1")
    with pytest.raises(IntegrityError, match=r"version 1 .* was deleted"):
        champion(foreign, store)
    with pytest.raises(IntegrityError, match="was deleted"):
        promote_judged(foreign, 2, Stage.PRODUCTION, Config(), store, reason="needed")
    promote_judged(foreign, 2, Stage.PRODUCTION, Config(), store, reason="needed", force=True)
    current = champion(foreign, store)
    assert current is not None
    assert current.version == 2


def test_a_model_that_was_deleted_and_made_again_goes_on_with_its_record(
    store: str, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """MLflow counts its versions from 1 again; the new version 1 is not the one in Production."""
    model = registered(make_model, name, store, tmp_path, count=1)
    move(model, 1, Stage.PRODUCTION, store)
    MlflowClient(store, store).delete_registered_model(name)
    with start_run(RegistryConfig(tracking_uri=store), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    again = make_model(7).register(name, store, run_id)
    assert (again.version, again.stage) == (1, Stage.NONE)
    assert actions(name, store) == [("register", 1), ("promote", 1), ("register", 1)]
    assert champion(name, store) is None
    move(name, 1, Stage.PRODUCTION, store)
    assert show_version(name, "champion", store).model_digest == again.model_digest


class Terminal:
    """The command line on one store."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.runner = CliRunner(env={"COLUMNS": "200"})
        self.stderr = ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = self.runner.invoke(app, [*arguments, "--tracking-uri", self.store], catch_exceptions=False)
        assert result.exit_code == code
        self.stderr = result.stderr
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


def test_the_commands_of_approval_and_history(
    foreign: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    megl, to = Terminal(store), ("--to", "production", "--reason")
    monkeypatch.setenv("MEGL_ACTOR", "ann [1]")
    with pytest.raises(ConfigError, match="a reason is needed"):
        megl("request", foreign, "1", "--to", "production")
    assert "entry 1: request by ann [1]" in megl("request", foreign, "1", *to, "better")
    monkeypatch.setenv("MEGL_ACTOR", "bob")
    assert "entry 2: approve by bob" in megl("approve", foreign, "1", *to, "yes")
    megl("promote", foreign, "1", *to, "demo", "--force")
    assert "FORCED" in megl.stderr
    page = megl("history", foreign)
    assert "ann [1]" in page
    assert "None to Production  FORCED" in page
    assert "entry 4: request by bob" in megl("request", foreign, "2", *to, "newer")
    assert "entry 5: reject by bob" in megl("reject", foreign, "2", *to, "no")
    entries = megl.json("history", foreign)
    assert [entry["action"] for entry in entries] == ["request", "approve", "promote", "request", "reject"]
    assert entries[1]["previous"] == entries[0]["digest"]

    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert megl.json("at", foreign, today) == {
        "at": f"{today}T23:59:59.999999+00:00",
        "production": 1,
        "stages": {"1": "Production"},
    }
    assert f"version 1 of {foreign} in Production" in megl("at", foreign, f"{today}T23:59:59+00:00")
    for moment, message in (("yesterday", "is no date"), (f"{today}T12:00", "no time zone")):
        with pytest.raises(ConfigError, match=message):
            megl("at", foreign, moment)


def test_the_commands_of_promotion_and_rollback(
    store: str, name: str, make_model: MakeModel, tmp_path: Path
) -> None:
    registered(make_model, name, store, tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text("gate: {rules: [{metric: test.accuracy, min: 0.9, max_drop: 0.05}]}\n")
    megl = Terminal(store)
    to = ("--to", "production", "--params", str(params), "--reason", "better")
    page = megl("promote", name, "1", *to)
    for words in ("at least 0.9", "no version in Production", "provenance", "pass", "in stage Production"):
        assert words in page
    assert "against version 1" in megl("promote", name, "2", *to)
    strict = ("--set", "gate.rules=[{metric: test.accuracy, min: 0.99}]", "--force")
    megl("promote", name, "1", *to, *strict)
    assert "FORCED" in megl.stderr
    assert "version 2 is in stage Production" in megl("rollback", name, "--reason", "slow")
    what = [(entry["action"], entry["version"]) for entry in megl.json("history", name)]
    assert what[2:] == [("promote", 1), ("promote", 2), ("promote", 1), ("rollback", 2)]


def test_the_digest_of_an_entry_is_that_of_its_text(foreign: str, store: str) -> None:
    move(foreign, 1, Stage.STAGING, store)
    client = MlflowClient(store, store)
    (entry,) = read_history(foreign, store)
    history = find_history(client, foreign)
    assert history is not None
    text = client.get_run(history.run_id).data.params["000001"]
    assert hashlib.sha256(text.encode()).hexdigest() == entry.digest
