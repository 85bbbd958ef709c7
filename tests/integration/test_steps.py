"""The steps with tracking and registry around them: two models, one of them the champion."""

import shutil
from pathlib import Path

import pytest

from megl_core.config import (
    BackboneConfig,
    Config,
    DecoderConfig,
    EvaluationConfig,
    GateConfig,
    GateRule,
    ModelConfig,
    PromotionConfig,
    RegistryConfig,
    TrainConfig,
)
from megl_core.data.pack import MANIFEST
from megl_core.data.packed import read_info
from megl_core.errors import GateError, IntegrityError
from megl_core.evaluation import EVALUATION_FILE
from megl_core.files import read_json, write_json
from megl_core.registry.models import promote
from megl_core.registry.stages import ApprovalMissingError
from megl_core.registry.steps import (
    GATE_FILE,
    VALIDATION_FILE,
    Trained,
    evaluate_tracked,
    gate_against_champion,
    promote_if_passed,
    promote_or_fail,
    register_tracked,
    train_tracked,
)
from megl_core.registry.versions import show_version
from megl_core.registry.vocabulary import Stage

pytestmark = pytest.mark.slow

MODEL = ModelConfig(
    image_size=24, backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]), decoder=DecoderConfig(width=16)
)
CONFIG = Config(
    model=MODEL,
    train=TrainConfig(epochs=1, batch_size=16),
    evaluation=EvaluationConfig(gallery=1, max_texts=2),
    gate=GateConfig(rules=[GateRule(metric="test.accuracy", min=0.0, max_drop=0.01)]),
    registry=RegistryConfig(tracking_uri=None),
)


class Loop:
    """Runs the steps in a workspace."""

    def __init__(self, workspace: Path, packed: Path) -> None:
        self.workspace = workspace
        self.packed = packed
        self.uri = f"sqlite:///{workspace}/mlflow.db"
        self.digest = read_info(packed).digest

    def train(self, seed: int = 0) -> Trained:
        config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"seed": seed})})
        dvc = {
            "repository": str(self.workspace),
            "path": "scenes",
            "revision": None,
            "md5": "0" * 32 + ".dir",
        }
        trained = train_tracked(
            self.packed, self.workspace / f"model-{seed}", config, self.workspace, dvc=dvc
        )
        assert trained is not None
        return trained

    def evaluate(self, trained: Trained, name: str) -> Path:
        digests = {"model_digest": trained.model_digest, "digest": self.digest}
        output = self.workspace / name
        evaluate_tracked(
            trained.model, self.packed, output, CONFIG, self.workspace, run_id=trained.run_id, **digests
        )
        return output

    def register(self, trained: Trained, evaluated: Path) -> int:
        verdict = self.workspace / f"verdict-{trained.model.name}"
        gate_against_champion(evaluated, self.packed, verdict, CONFIG, self.workspace)
        digests = {"data": self.digest, "code": "c0de"}
        validated, manifest = self.workspace / "validated", self.packed / MANIFEST
        write_json(validated / VALIDATION_FILE, {"passed": True, "digest": self.digest})
        version = register_tracked(
            trained.model,
            evaluated,
            verdict,
            validated,
            CONFIG.registry,
            self.workspace,
            provenance=trained.model.with_name(f"{trained.model.name}.provenance.json"),
            manifest=manifest,
            run_id=trained.run_id,
            digests=digests,
        )
        return version.version

    def stage(self, version: int, stage: str, *, passed: bool = True) -> str:
        return promote_if_passed(CONFIG, self.workspace, version, stage, passed=passed, reason="a test")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def loop(tmp_path: Path, packed: Path) -> Loop:
    return Loop(tmp_path, packed)


def test_a_champion_is_compared_on_the_same_data_in_the_same_way(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    first = loop.train(seed=0)
    evaluated = loop.evaluate(first, "evaluation-0")
    version = loop.register(first, evaluated)
    assert loop.stage(version, "Production") == "Production"

    second = loop.train(seed=1)
    challenger = loop.evaluate(second, "evaluation-1")
    capsys.readouterr()
    result, against = gate_against_champion(
        challenger, loop.packed, loop.workspace / "verdict", CONFIG, loop.workspace
    )
    assert against == "1"
    assert result.champion_model_digest == first.model_digest
    rows = {row.bound: row for row in result.rows}
    relative = rows["at most 0.01 below the champion"]
    ours, theirs = (
        read_json(folder / EVALUATION_FILE)["metrics"]["test"]["accuracy"]
        for folder in (challenger, evaluated)
    )
    assert (relative.value, relative.champion) == (ours, theirs)
    assert relative.low is not None
    assert relative.high is not None
    assert relative.low <= ours - theirs <= relative.high
    assert relative.passed == (relative.low >= -0.01)
    assert read_json(loop.workspace / "verdict" / GATE_FILE)["passed"] == relative.passed

    assert "evaluate" not in capsys.readouterr().err  # its numbers were registered with it

    # Another way of evaluating: the champion's registered numbers no longer compare.
    other = read_json(challenger / EVALUATION_FILE) | {"method_digest": "other"}
    write_json(challenger / EVALUATION_FILE, other)
    fresh, _ = gate_against_champion(
        challenger, loop.packed, loop.workspace / "verdict", CONFIG, loop.workspace
    )
    assert "evaluate 32/32" in capsys.readouterr().err
    assert fresh.champion_evaluation_digest == result.champion_evaluation_digest  # it is deterministic


def test_promotion_only_moves_up_and_leaves_the_archive_alone(loop: Loop) -> None:
    trained = loop.train()
    version = loop.register(trained, loop.evaluate(trained, "evaluation"))
    assert loop.stage(version, "Staging", passed=False) == "None"
    assert loop.stage(version, "Staging") == "Staging"
    assert loop.stage(version, "Production") == "Production"
    assert loop.stage(version, "Staging") == "Production"
    promote("megl", version, Stage.ARCHIVED, loop.uri, reason="too old")
    assert loop.stage(version, "Production") == "Archived"
    assert show_version("megl", version, loop.uri).stage is Stage.ARCHIVED


def test_a_promotion_that_is_required_fails_with_its_gate_or_ends_in_its_stage(loop: Loop) -> None:
    trained = loop.train()
    evaluated = loop.evaluate(trained, "evaluated")
    version = loop.register(trained, evaluated)
    strict = CONFIG.model_copy(update={"gate": GateConfig(rules=[GateRule(metric="test.accuracy", min=1.1)])})
    with pytest.raises(GateError, match=r"test\.accuracy"):
        promote_or_fail(strict, loop.workspace, str(version), "Staging", reason="a test")
    for reference in (str(version), "staging"):  # the second finds it there
        result = promote_or_fail(CONFIG, loop.workspace, reference, "Staging", reason="a test")
        assert (result["version"], result["stage"]) == (version, "Staging")
    people = CONFIG.model_copy(update={"promotion": PromotionConfig(production_approvals=1)})
    for _ in range(2):  # the first asks for the approval, the second finds that it was asked for
        with pytest.raises(ApprovalMissingError):
            promote_or_fail(people, loop.workspace, str(version), "Production", reason="a test")


def test_bytes_that_changed_on_the_way_are_not_evaluated(loop: Loop, tmp_path: Path) -> None:
    trained = loop.train()
    weights = trained.model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="not those that were trained"):
        loop.evaluate(trained, "evaluation")

    loop.packed = Path(shutil.copytree(loop.packed, tmp_path / "tampered"))
    shard = loop.packed / "test-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(IntegrityError):
        loop.evaluate(trained, "evaluation")
    assert not (loop.workspace / "evaluation").exists()


def test_data_with_another_digest_are_not_trained_on(loop: Loop) -> None:
    with pytest.raises(IntegrityError, match="not 0123456789ab"):
        train_tracked(loop.packed, loop.workspace / "model", CONFIG, loop.workspace, digest="0123456789ab")
