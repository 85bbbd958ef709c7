"""A run, stopped and resumed, against a run that was left alone."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.errors import ConfigError, DataError, MeglError
from megl_core.files import read_json
from megl_core.models.megl import MEGL
from megl_core.objectives.alignment import ALIGNMENTS
from megl_core.progress import LineReporter
from megl_core.training import loop, train

SMALL_MODEL = ModelConfig(
    image_size=24,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16),
)
CONFIG = TrainConfig(epochs=4, batch_size=16, checkpoint_seconds=0, max_shift=1)


class Recorder:
    """Keeps what a run logs; stops the run after some epochs like a killed process would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.params: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.stop_after = stop_after

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params.update(params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, metrics))
        if self.stop_after is not None and len(self.metrics) > self.stop_after:
            raise KeyboardInterrupt


def run(
    packed: Path,
    output: Path,
    config: TrainConfig = CONFIG,
    objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008 (frozen)
    **options: Any,
) -> Any:
    return train(packed, output, SMALL_MODEL, objective, config, **options)


def test_a_run_leaves_a_whole_model_and_logs_every_term(packed: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    result = run(packed, tmp_path / "model", tracker=recorder)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "training.json",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no checkpoints are left
    training = read_json(tmp_path / "model" / "training.json")
    assert [row["epoch"] for row in training["history"]] == [1, 2, 3, 4]
    assert [step for step, _ in recorder.metrics] == [3, 6, 9, 12]
    assert recorder.metrics[-1][1]["images_per_second"] > 0
    logged = {"loss", "classification", "visual", "consistency", "text", "learning_rate", "val_accuracy"}
    assert logged <= set(recorder.metrics[0][1])
    assert training["history"][-1]["loss"] < training["history"][0]["loss"]
    assert MEGL.load(tmp_path / "model").labels == ["boxy", "crossed", "pointed", "round"]
    assert len(result.model_digest) == 64


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(),
        # A loss with parameters of its own: they move the others, and must come back with them.
        ObjectiveConfig(alignment="res_l", consistency_kind="class", visual_warmup=0.8),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], objective: ObjectiveConfig
) -> None:
    config = CONFIG.model_copy(update={"decoder_learning_rate": 1e-3})
    run(packed, tmp_path / "whole", config, objective)
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "stopped", config, objective, tracker=Recorder(stop_after=2))
    assert not (tmp_path / "stopped").exists()
    resumed = Recorder()
    run(packed, tmp_path / "stopped", config, objective, tracker=resumed)
    assert "resuming at step 8 of 12" in capsys.readouterr().err
    assert [step for step, _ in resumed.metrics] == [3, 6, 9, 12]  # the curves are whole
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    again = load_file(tmp_path / "stopped" / "model.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # An epoch that was cut in two has the means of a whole one.
    histories = [read_json(tmp_path / name / "training.json")["history"] for name in ("whole", "stopped")]
    assert histories[0] == histories[1]


def test_a_checkpoint_of_other_settings_is_not_resumed(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "model", tracker=Recorder(stop_after=2))
    other = Recorder()
    run(packed, tmp_path / "model", CONFIG.model_copy(update={"learning_rate": 1e-3}), tracker=other)
    assert "resuming" not in capsys.readouterr().err
    assert [step for step, _ in other.metrics] == [3, 6, 9, 12]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "model", tracker=Recorder(stop_after=2))
    newest = max((tmp_path / "model.checkpoints").glob("*/step-*"))
    weights = newest / "model.safetensors"
    damage(weights)
    run(packed, tmp_path / "model")
    shown = capsys.readouterr().err
    assert "step-00000008 cannot be read" in shown
    assert "resuming at step 7 of 12" in shown


def damage_weights(checkpoint: Path) -> None:
    cut_short(checkpoint / "model.safetensors")


def damage_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


@pytest.mark.parametrize("damage", [damage_weights, damage_state])
def test_a_damaged_checkpoint_gives_way_to_those_of_earlier_steps(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    config = CONFIG.model_copy(update={"keep_checkpoints": 1})
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "model", config, tracker=Recorder(stop_after=2))
    damage(next((tmp_path / "model.checkpoints").glob("*/step-*")))
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "model", config, tracker=Recorder(stop_after=1))
    kept = (tmp_path / "model.checkpoints").glob("*/step-*")
    assert [path.name for path in kept] == ["step-00000005"]
    run(packed, tmp_path / "model", config)
    assert "resuming at step 5 of 12" in capsys.readouterr().err


def change_state(checkpoint: Path) -> None:
    state = checkpoint / "state.json"
    state.write_text(
        state.read_text().replace('"step": 8,', '"step": 9,').replace('"step": 8\n', '"step": 9\n')
    )


@pytest.mark.parametrize("damage", [damage_weights, damage_state, change_state])
def test_a_damaged_checkpoint_is_written_anew(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "model", tracker=Recorder(stop_after=2))
    damage(max((tmp_path / "model.checkpoints").glob("*/step-*")))
    run(packed, tmp_path / "model")
    assert "resuming at step 7 of 12" in capsys.readouterr().err
    assert (tmp_path / "model").is_dir()


@pytest.mark.parametrize("change", ["code", "labels"])
def test_a_checkpoint_of_other_code_or_labels_is_not_resumed(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    data = tmp_path / "packed"
    shutil.copytree(packed, data)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "model", tracker=Recorder(stop_after=2), code="a")
    if change == "labels":
        info = read_json(data / "dataset.json")
        (data / "dataset.json").write_text(json.dumps(info | {"labels": info["labels"][::-1]}))
    run(data, tmp_path / "model", code="b" if change == "code" else "a")
    assert "resuming" not in capsys.readouterr().err


def test_only_the_newest_checkpoints_are_kept(packed: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"keep_checkpoints": 1})
    with pytest.raises(KeyboardInterrupt):
        run(packed, tmp_path / "model", config, tracker=Recorder(stop_after=2))
    assert [path.name for path in (tmp_path / "model.checkpoints").glob("*/step-*")] == ["step-00000008"]


def test_the_same_seed_gives_the_same_model_and_another_seed_another(packed: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    a = run(packed, tmp_path / "a", config)
    b = run(packed, tmp_path / "b", config)
    c = run(packed, tmp_path / "c", config.model_copy(update={"seed": 1}))
    assert a.model_digest == b.model_digest
    assert a.model_digest != c.model_digest
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in "abc"}
    assert all(torch.equal(weights["a"][key], weights["b"][key]) for key in weights["a"])
    assert any(not torch.equal(weights["a"][key], weights["c"][key]) for key in weights["a"])


def test_a_place_for_the_results_that_is_taken_is_told_before_the_first_step(
    packed: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    recorder = Recorder()
    with pytest.raises(MeglError, match="holds something else"):
        run(packed, tmp_path, tracker=recorder)
    with pytest.raises(MeglError, match="is a folder"):
        run(packed, tmp_path / "model", tracker=recorder, profile=tmp_path)
    assert (recorder.params, recorder.metrics) == ({}, [])


def test_a_restarted_run_forgets_its_checkpoints(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(packed, tmp_path / "model", tracker=Recorder(stop_after=2), resume=False)
        kept = (tmp_path / "model.checkpoints").glob("*/step-*")
        assert sorted(path.name for path in kept) == ["step-00000007", "step-00000008"]
    assert "resuming" not in capsys.readouterr().err


def test_too_few_rows_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="48 training rows do not fill a batch of 64"):
        run(packed, tmp_path / "model", CONFIG.model_copy(update={"batch_size": 64}))


@pytest.mark.parametrize("output", [".", "./", "..", "/"])
def test_a_model_needs_a_folder_of_its_own(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a folder of its own"):
        run(packed, Path(output))


def test_what_is_in_the_models_way_is_told_before_the_training(packed: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("thesis")
    with pytest.raises(MeglError, match="holds something else"):
        run(packed, tmp_path / "model", tracker=recorder)
    assert recorder.metrics == []


def test_a_loss_that_explodes_names_its_batch_and_leaves_no_model(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(MeglError, match=r"not finite(.|\n)*train-000"):
        run(packed, tmp_path / "model", CONFIG.model_copy(update={"learning_rate": 1e30}))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_an_explosion_in_the_last_step_of_an_epoch_is_told(packed: Path, tmp_path: Path, on_nan: str) -> None:
    settings = {"batch_size": 48, "learning_rate": 1e30, "warmup": 0.0, "epochs": 1, "on_nan": on_nan}
    with pytest.raises(MeglError, match=r"not finite after step 1(.|\n)*epoch 1(.|\n)*learning_rate"):
        run(packed, tmp_path / "model", CONFIG.model_copy(update=settings))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_alignment_loss_trains(packed: Path, tmp_path: Path, alignment: str) -> None:
    objective = ObjectiveConfig.model_validate({"alignment": alignment, "visual": 0.1})
    result = run(packed, tmp_path / "model", CONFIG.model_copy(update={"epochs": 1}), objective)
    assert result.metrics["visual"] > 0
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert not any("impute" in name for name in names)  # the objective's parameters are no part of a model


def test_without_texts_there_is_no_decoder(packed: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    train(packed, tmp_path / "model", SMALL_MODEL, ObjectiveConfig(text=0), config, reporter=LineReporter())
    model = MEGL.load(tmp_path / "model")
    assert not model.can_write
    assert not (tmp_path / "model" / "tokenizer.json").exists()


def test_progress_tells_loss_and_speed(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(packed, tmp_path / "model", CONFIG.model_copy(update={"batch_size": 8}), reporter=LineReporter())
    assert loop.TRAINING_FILE in {path.name for path in (tmp_path / "model").iterdir()}
    shown = capsys.readouterr().err
    assert "24/24" in shown
    assert "loss" in shown
    assert "images/s" in shown
    assert "visual" in shown
    assert "left 0:00" in shown
    assert re.search(r"memory \d+\.\d GB", shown)


def test_a_profile_is_a_chrome_trace_of_a_few_steps(packed: Path, tmp_path: Path) -> None:
    run(packed, tmp_path / "model", profile=tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["name"] for event in events}
    assert "Optimizer.step#AdamW.step" in names
    assert {f"ProfilerStep#{number}" for number in (3, 7)} <= names
    assert "ProfilerStep#9" not in names
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
