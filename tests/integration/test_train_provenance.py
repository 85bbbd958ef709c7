"""The training step tells what it made, of what, and when; whoever stops or repeats it gets the truth too."""

from pathlib import Path

import jsonschema
import pytest

from megl_core.code import code_digest
from megl_core.config import BackboneConfig, Config, DecoderConfig, ModelConfig, TrainConfig
from megl_core.data.packed import read_info
from megl_core.files import read_json
from megl_core.provenance.source import find_code
from megl_core.provenance.statement import (
    check_subjects,
    data_digest,
    dependency,
    missing_parts,
    parameters,
    statement_file,
    subjects,
)
from megl_core.registry.steps import train_tracked
from megl_core.registry.tracking import Tracker
from tests.unit.provenance.test_statement import SLSA_V1

CONFIG = Config(
    model=ModelConfig(
        image_size=24,
        backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
        decoder=DecoderConfig(width=16),
    ),
    train=TrainConfig(epochs=2, batch_size=16, checkpoint_seconds=0),
)
DVC = {
    "repository": "/srv/data",
    "path": "scenes",
    "revision": None,
    "md5": "0" * 32 + ".dir",
    "num_files": 99,
    "size": 12345,
}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MEGL_PIPELINE_RUN", "2026-11-24T10-00-00")


def test_a_training_tells_what_it_made_and_of_what(packed: Path, tmp_path: Path) -> None:
    trained = train_tracked(packed, tmp_path / "model", CONFIG, tmp_path, dvc=DVC)
    assert trained is not None
    statement = read_json(statement_file(tmp_path / "model"))
    jsonschema.validate(statement, SLSA_V1)
    check_subjects(statement, trained.model, "the trained model")
    assert "model.safetensors" in subjects(statement)
    assert data_digest(statement) == read_info(packed).digest
    assert dependency(statement, "megl_core") == {"name": "megl_core", "digest": {"sha256": code_digest()}}
    code, checkout = dependency(statement, "code"), find_code()
    assert (code is None) == (checkout.commit == "")
    assert parameters(statement)["train"]["epochs"] == 2
    assert set(parameters(statement)) == {"model", "objective", "train"}
    details = statement["predicate"]["runDetails"]
    assert details["byproducts"][0]["uri"] == f"runs:/{trained.run_id}"
    assert details["metadata"]["invocationId"] == "2026-11-24T10-00-00"
    assert details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
    assert missing_parts(statement) == ["the validation report", "the evaluation"]


def test_a_stopped_training_tells_nothing_and_a_resumed_one_all(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str) -> None:
        train_tracked(packed, tmp_path / name / "model", CONFIG, tmp_path)

    def stop(_: Tracker, metrics: dict[str, float], step: int | None = None) -> None:
        if metrics.get("epoch") == 2:
            raise KeyboardInterrupt

    train("whole")
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "log_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            train("again")
    assert not statement_file(tmp_path / "again" / "model").exists()
    train("again")
    assert "resuming at step" in capsys.readouterr().err
    whole, again = (read_json(statement_file(tmp_path / name / "model")) for name in ("whole", "again"))
    check_subjects(again, tmp_path / "again" / "model", "the trained model")
    assert subjects(again) == subjects(whole)
    assert again["predicate"]["buildDefinition"] == whole["predicate"]["buildDefinition"]
    assert again["predicate"]["runDetails"]["byproducts"] != whole["predicate"]["runDetails"]["byproducts"]
