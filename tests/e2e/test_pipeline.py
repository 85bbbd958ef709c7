"""The whole pipeline through kfp.local, again and again in one workspace, as a user would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETTINGS = [
    "data.scenes.num_train=64", "data.scenes.num_val=16", "data.scenes.num_test=16", "data.scenes.size=24",
    "data.scenes.mask_share=0.25", "model.image_size=24", "model.backbone.widths=[8,16]",
    "model.backbone.depths=[1,1]", "model.decoder.width=16", "train.epochs=2", "train.batch_size=16",
    'gate.rules=[{"metric": "test.accuracy", "min": 0.0, "max_drop": 0.01}]',
]  # fmt: skip
COMPUTED = {"validate", "pack", "train", "evaluate"}

pytestmark = pytest.mark.slow


class Workspace:
    """A folder in which `megl pipeline run` is called as a program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, *settings: str, pipeline: str = "training", options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        overrides = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        command = [sys.executable, "-m", "megl_core.cli", "pipeline", "run", pipeline]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        return subprocess.run(
            [*command, "--json", "-w", "workspace", *options, *overrides],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def result(
        self, *settings: str, pipeline: str = "training", options: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        finished = self.run(*settings, pipeline=pipeline, options=options)
        assert finished.returncode == 0, finished.stderr
        result: dict[str, Any] = json.loads(finished.stdout)
        return result

    @property
    def dataset(self) -> Path:
        return self.folder / "workspace" / "datasets" / "scenes"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> dict[str, Any]:
    return workspace.result()


def test_a_first_run_makes_everything(workspace: Workspace, first: dict[str, Any]) -> None:
    assert set(first["ran"]) >= COMPUTED
    assert first["reused"] == []
    assert (first["version"], first["stage"], first["gate_passed"]) == (1, "Staging", True)
    assert set(first["metrics"]) == {"val", "test", "ood", "conflict"}
    for metrics in first["metrics"].values():
        assert {"accuracy", "energy_in_mask", "bleu4", "slot_accuracy"} <= set(metrics)
    page = Path(first["report"]).read_text()
    assert "<svg" in page
    assert "data:image/" in page
    assert 'src="http' not in page
    assert (workspace.dataset.parent / "scenes.dvc").is_file()
    assert Path(first["model"], "model.safetensors").is_file()


def test_the_registered_model_says_what_the_trained_one_says(
    first: dict[str, Any], workspace: Workspace
) -> None:
    import mlflow
    import pandas as pd

    from megl_core import MEGL
    from megl_core.registry.connection import global_uri

    image = workspace.dataset / "images" / "ood-00003.png"
    with global_uri(first["tracking_uri"]):
        model = mlflow.pyfunc.load_model("models:/megl@staging")
        seen = MEGL.from_pretrained("models:/megl@staging").explain(image)[0]
    row = model.predict(pd.DataFrame({"image": [image.read_bytes()]})).iloc[0]
    assert (row["label"], row["rationale"]) == (seen.label, seen.rationale)
    assert row["probability"] == pytest.approx(seen.probability)
    assert row["label"] in {"round", "boxy", "pointed", "crossed"}


def test_the_run_is_tracked_with_its_data(first: dict[str, Any]) -> None:
    import mlflow

    run = mlflow.MlflowClient(first["tracking_uri"]).get_run(first["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "2"
    for metric in ("loss", "visual", "text", "consistency", "learning_rate", "test.accuracy"):
        assert metric in run.data.metrics, metric
    (used,) = run.inputs.dataset_inputs
    tags = {tag.key: tag.value for tag in used.tags}
    assert tags["megl.data_digest"] == first["data_digest"]
    assert tags["megl.dvc_hash"].endswith(".dir")


def test_nothing_changed_reuses_everything(workspace: Workspace, first: dict[str, Any]) -> None:
    again = workspace.result()
    assert set(again["reused"]) == COMPUTED
    assert again["version"] == 1
    assert again["model_digest"] == first["model_digest"]


def test_a_changed_setting_reruns_only_what_depends_on_it(
    workspace: Workspace, first: dict[str, Any]
) -> None:
    changed = workspace.result("evaluation.gallery=1")
    assert set(changed["reused"]) == {"validate", "pack", "train"}
    assert changed["model_digest"] == first["model_digest"]


def test_retraining_ends_early_where_the_data_are_known(workspace: Workspace, first: dict[str, Any]) -> None:
    early = workspace.result(pipeline="retraining")
    assert early["ran"] == ["prerequisites", "ingest", "novelty", "notify"]
    assert set(early["skipped"]) >= COMPUTED | {"register", "promote"}
    assert early["reused"] == []
    assert early["trained"] is False
    assert "version 1 was trained on these data" in early["novelty"]["why"]


def test_a_promotion_moves_the_staged_version_and_a_failed_gate_turns_it_red(
    workspace: Workspace, first: dict[str, Any]
) -> None:
    strict = 'gate.rules=[{"metric": "test.accuracy", "min": 1.1}]'
    refused = workspace.run(strict, pipeline="promotion")
    assert refused.returncode == 4, refused.stderr
    assert "test.accuracy" in refused.stderr
    promoted = workspace.result(pipeline="promotion", options=("--reason", "looked at the heat maps"))
    assert promoted["ran"] == ["prerequisites", "promote", "notify"]
    assert (promoted["version"], promoted["stage"]) == (1, "Production")


def test_a_changed_byte_of_data_at_the_same_path_trains_anew(
    workspace: Workspace, first: dict[str, Any]
) -> None:
    """A cache that looks at paths would return the old model here; the validation measures the drift."""
    row_file = workspace.dataset / "annotations.jsonl"
    lines = row_file.read_text().splitlines()
    lines[0] = lines[0].replace("There is", "Here is", 1)
    row_file.write_text("\n".join(lines) + "\n")
    changed = workspace.result(pipeline="retraining")
    assert set(changed["ran"]) >= COMPUTED
    assert changed["data_digest"] != first["data_digest"]
    assert changed["version"] == 2
    validation = json.loads((artifacts(changed) / "validate" / "report" / "validation.json").read_text())
    (drift,) = (check for check in validation["checks"] if check["name"] == "drift")
    assert drift["status"] == "pass"


def artifacts(result: dict[str, Any]) -> Path:
    """Where the run's steps left their outputs."""
    return Path(result["model"]).parent.parent


def test_broken_data_stops_the_pipeline_before_training(workspace: Workspace, first: dict[str, Any]) -> None:
    """And the pipeline is red, not green: it exits with the gate's code and names the row."""
    broken = workspace.dataset / "images" / "train-00003.png"
    whole = broken.read_bytes()
    broken.unlink()  # DVC may have linked it to its cache
    broken.write_bytes(whole[: len(whole) // 2])
    finished = workspace.run()
    broken.write_bytes(whole)
    assert finished.returncode == 4, finished.stderr
    assert "train-00003 (line 4)" in finished.stderr
    assert "images_decode" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "train: not run" in finished.stderr
    assert finished.stdout == ""


def test_a_wrong_setting_is_refused_at_once(workspace: Workspace) -> None:
    finished = workspace.run("train.epoch=3")
    assert finished.returncode == 2
    assert "did you mean 'train.epochs'" in finished.stderr
