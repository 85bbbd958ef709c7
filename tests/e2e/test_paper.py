"""The authors' setting from the authors' files, as docs/paper.md tells it, on tiny stand-ins of the models.

Only the two paths and the image's size differ from params/*.yaml; the maps have the paper's sizes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from megl_core.cli import app
from megl_core.config import Config, load_config
from megl_core.data.packed import PackedDataset
from megl_core.files import read_json
from megl_core.training.distributed import Process
from megl_core.training.setup import Settings, build
from tests.conftest import REPOSITORY
from tests.unit.models.language_models import save_llava
from tests.unit.models.tiny import save_checkpoint

NUM_IMAGES = 30
SENTENCES = {"cat": ["cat runs .", "why cat ?"], "dog": ["dog runs ."]}
NAMES = ["paper", "paper-vit"]
STAND_INS = {"paper": ("resnet", 64, 8), "paper-vit": ("clip", 112, 14)}


def params(name: str) -> Path:
    return REPOSITORY / "params" / f"{name}.yaml"


def authors_release(root: Path) -> Path:
    """Thirty photographs of 48 pixels, two thirds of them with a map: each form of the .npy files in turn."""
    (root / "images").mkdir(parents=True)
    (root / "visual_exp").mkdir()
    rows = {}
    for number in range(NUM_IMAGES):
        label = "cat" if number % 2 else "dog"
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3)).astype(np.uint8)
        pixels[12:36, 12:36] = 230 if label == "cat" else 20
        Image.fromarray(pixels).save(root / "images" / f"{number}.jpg")
        seen = np.zeros((48, 48), dtype=np.float32)
        seen[12:36, 12:36] = 0.8
        forms = [seen, np.stack([seen] * 3, axis=2), (np.stack([seen] * 3) * 255).astype(np.uint8)]
        array = f"visual_exp/{number}.npy" if number % 3 else ""
        if array:
            np.save(root / array, forms[number // 3 % 3])
        rows[str(number)] = {
            "image_path": f"images/{number}.jpg",
            "visual_exp": array,
            "class_id": int(label == "dog"),
            "exp": SENTENCES[label],
            "ans": f"This is a {label}.",
        }
    (root / "exp_annotation.json").write_text(json.dumps(rows))
    (root / "label_class_id_mapping.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    return root


@dataclass(frozen=True)
class Reproduction:
    """What the commands wrote."""

    folder: Path
    config: Config
    cells: int

    @property
    def packed(self) -> Path:
        return self.folder / "packed"

    @property
    def model(self) -> Path:
        return self.folder / "model"


@pytest.fixture(scope="module", params=NAMES)
def reproduction(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """The commands of docs/paper.md, one by one."""
    folder = tmp_path_factory.mktemp(request.param)
    kind, image_size, cells = STAND_INS[request.param]
    source = authors_release(folder / "Object_Classification")
    settings = [
        f"model.backbone.path={save_checkpoint(kind, folder / 'encoder')}",
        f"model.decoder.path={save_llava(folder / 'llava')}",
        f"model.image_size={image_size}",
    ]
    options = ["--params", str(params(request.param))]
    options += [word for setting in settings for word in ("--set", setting)]
    dataset, packed, model = (str(folder / name) for name in ("dataset", "packed", "model"))
    for command in (
        ["data", "import", "megl-release", str(source), dataset, *options],
        ["data", "pack", dataset, packed, *options],
        ["train", packed, "--output", model, "--no-track", *options],
        ["evaluate", model, packed, "--output", str(folder / "evaluation"), "--device", "cpu", *options],
    ):
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return Reproduction(folder, load_config(params(request.param), settings), cells)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_the_papers(name: str) -> None:
    config = load_config(params(name))
    encoder, decoder, train = config.model.backbone, config.model.decoder, config.train
    assert (encoder.path, config.model.image_size) == {
        "paper": ("microsoft/resnet-50", 256),
        "paper-vit": ("openai/clip-vit-base-patch16", 224),
    }[name]
    assert encoder.trainable == "all"
    assert (decoder.name, decoder.path) == ("llava", "llava-hf/llava-1.5-7b-hf")
    assert (decoder.lora_rank, decoder.lora_dropout, decoder.dtype) == (32, 0.05, "bfloat16")
    assert decoder.lora_targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (train.learning_rate, train.decoder_learning_rate) == (1e-4, 5e-5)
    assert (config.objective.visual, config.objective.text) == (0.1, 0.1)
    assert config.objective.consistency > 0
    assert (config.data.split.val, config.data.split.test) == (0.0, 0.2)
    assert (config.objective.region, train.annotated_quota, train.mix_backgrounds) == (0, 0, 0)


def test_the_two_files_differ_in_the_encoder_alone() -> None:
    first, second = (load_config(params(name)).model_dump() for name in NAMES)
    differing = {key for key in first if first[key] != second[key]}
    assert differing == {"model"}
    model, other = first["model"], second["model"]
    assert {key for key in model if model[key] != other[key]} == {"backbone", "image_size", "saliency"}


def test_the_split_is_by_image_and_a_missing_map_stays_missing(reproduction: Reproduction) -> None:
    train, test = (PackedDataset(reproduction.packed, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (24, 6)
    ids = [{part[index].id for index in range(len(part))} for part in (train, test)]
    assert ids[0].isdisjoint(ids[1])
    assert ids[0] | ids[1] == {str(number) for number in range(NUM_IMAGES)}
    for part in (train, test):
        for index in range(len(part)):
            row = part[index]
            assert (row.mask is None) == (int(row.id) % 3 == 0)
            assert list(row.explanations) == SENTENCES["cat" if int(row.id) % 2 else "dog"]


def test_every_term_of_the_paper_is_trained_and_no_other(reproduction: Reproduction) -> None:
    history = read_json(reproduction.model / "training.json")["history"]
    terms = {"classification", "visual", "text", "consistency", "loss"}
    assert set(history[-1]) == terms | {"epoch", "step", "learning_rate"}
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert history[-1]["loss"] < history[0]["loss"]
    weighted = [(1.0, "classification"), (0.1, "visual"), (0.1, "text"), (0.1, "consistency")]
    for row in history:
        assert row["loss"] == pytest.approx(sum(weight * row[term] for weight, term in weighted), rel=1e-4)


def test_encoder_head_and_adapters_are_trained_at_their_own_rates(reproduction: Reproduction) -> None:
    config = reproduction.config
    settings = Settings(config.model, config.objective, config.train)
    parts = build(reproduction.packed, settings, Process(0, 1, torch.device("cpu")), "")
    model = parts.step.model
    assert model.map_size == reproduction.cells
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert len(adapters) == 16  # A and B of q, k, v and o in two layers
    assert {name.split(".")[0] for name in trained - adapters} == {"backbone", "head"}
    rates = [(len(group["params"]), group["initial_lr"]) for group in parts.optimizer.param_groups]
    assert rates == [(len(trained) - 16, 1e-4), (16, 5e-5)]

    saved, fresh = load_file(reproduction.model / "model.safetensors"), model.state_dict()
    frozen = [name for name in saved if "vision_tower" in name or "multi_modal_projector" in name]
    assert frozen
    assert all(torch.equal(saved[name], fresh[name]) for name in frozen)
    assert saved["decoder.model.lm_head.weight"].dtype == torch.bfloat16
    adapted = [name for name in fresh if name.endswith(".base_layer.weight")]
    assert len(adapted) == 8
    for name in adapted:  # adapters are added to what they adapt
        merged = saved[name.replace(".base_layer.", ".")]
        assert not torch.equal(merged, fresh[name])
        assert torch.allclose(merged.float(), fresh[name].float(), atol=0.05)
    moved = [name for name in saved if name.startswith("backbone.") and name in fresh]
    assert any(not torch.equal(saved[name], fresh[name]) for name in moved)


def test_the_model_is_measured_and_explains(reproduction: Reproduction) -> None:
    measured = read_json(reproduction.folder / "evaluation" / "evaluation.json")
    assert measured["labels"] == ["cat", "dog"]
    scores = measured["metrics"]["test"]
    assert {"accuracy", "macro_precision", "macro_recall", "macro_f1", "auc"} <= set(scores)
    assert {"energy_in_mask", "bleu4", "rouge_l", "cider"} <= set(scores)
    picture = reproduction.folder / "Object_Classification" / "images" / "1.jpg"
    output = reproduction.folder / "explanations"
    command = ["explain", str(picture), "-m", str(reproduction.model), "-o", str(output), "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert answer["label"] in ("cat", "dog")
    assert (output / "1.png").is_file()
