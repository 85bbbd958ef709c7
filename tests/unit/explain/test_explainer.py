import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig
from megl_core.data.tokenizer import WordTokenizer
from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.explain import Explained, Explainer, explain_files, load_model, render_panel
from megl_core.models.megl import MEGL

LABELS = ["cat", "dog", "fish", "bird"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=BackboneConfig(widths=[8, 8], depths=[1, 1]), decoder=DecoderConfig(width=16, max_tokens=6)
    )
    return MEGL(config, LABELS, WordTokenizer.learn(["a cat with ears", "a dog with a tail"]))


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


def picture(seed, width=40, height=24):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_the_answer_is_in_a_persons_terms(model):
    model.train()
    (explained,) = Explainer(model).explain([picture(0)])
    assert model.training
    assert list(explained.probabilities.values()) == sorted(explained.probabilities.values(), reverse=True)
    assert sum(explained.probabilities.values()) == pytest.approx(1.0)
    assert explained.label == next(iter(explained.probabilities))
    assert explained.probability == explained.probabilities[explained.label]
    assert explained.heat_map.shape == (24, 40)
    assert explained.heat_map.dtype == np.float32
    assert 0.0 <= explained.heat_map.min() <= explained.heat_map.max() <= 1.0
    assert explained.rationale


def test_any_class_can_be_explained(model):
    explainer = Explainer(model)
    pictures = [picture(seed) for seed in range(2)]
    explained = explainer.explain(pictures, ["bird", "cat"])
    expected = model.explain(torch.stack([model.preprocess(one) for one in pictures]), torch.tensor([3, 0]))
    assert [one.label for one in explained] == ["bird", "cat"]
    probabilities = expected.logits.softmax(dim=1)
    assert explained[0].probability == pytest.approx(float(probabilities[0, 3]))
    for one, raw in zip(explained, expected.saliency, strict=True):
        assert (one.heat_map.max() > 0) == bool((raw > 0).any())


def test_an_unknown_class_is_refused_with_the_nearest(model):
    with pytest.raises(ConfigError, match="did you mean 'bird'"):
        Explainer(model).explain([picture(0)], ["brid"])


def test_more_pictures_than_a_batch_give_the_same_answers(model):
    pictures = [picture(seed) for seed in range(35)]
    together = Explainer(model).explain(pictures)
    alone = Explainer(model).explain(pictures[33:34])[0]
    assert len(together) == 35
    assert together[33].probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert together[33].rationale == alone.rationale
    assert Explainer(model).explain([]) == []


def test_files_become_panels_with_names_of_their_own(model_folder, tmp_path):
    paths = [tmp_path / "a" / "one.png", tmp_path / "b" / "one.jpg", tmp_path / "b" / "one-2.png"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)
    results = explain_files(model_folder, paths, tmp_path / "out")
    names = [result["panel"].rsplit("/", 1)[1] for result in results]
    assert len(set(names)) == 3
    assert names[:2] == ["one.png", "one-2.png"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    assert [result["image"] for result in results] == [str(path) for path in paths]
    json.dumps(results)


def test_few_pictures_are_in_memory_at_a_time(model_folder, tmp_path, monkeypatch):
    sizes = []
    explain = Explainer.explain
    monkeypatch.setattr(
        Explainer, "explain", lambda self, images: sizes.append(len(images)) or explain(self, images)
    )
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    assert len(explain_files(model_folder, paths, tmp_path / "out")) == 10
    assert max(sizes) <= 4


def test_all_bad_files_are_named_and_nothing_is_written(model_folder, tmp_path):
    picture(0).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [tmp_path / name for name in ("good.png", "text.png", "cut.png", "absent.png")]
    with pytest.raises(DataError) as caught:
        explain_files(model_folder, paths, tmp_path / "out")
    assert len(caught.value.problems) == 3
    for name in ("text.png", "cut.png", "absent.png"):
        assert any(str(tmp_path / name) in problem for problem in caught.value.problems)
    assert not (tmp_path / "out").exists()


def test_devices(model_folder, tmp_path):
    assert load_model(model_folder, "cpu").device.type == "cpu"
    assert load_model(model_folder, "auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="tpu"):
        load_model(model_folder, "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="CUDA"):
            load_model(model_folder, "cuda")
    with pytest.raises(DataError, match="no trained model"):
        load_model(tmp_path)


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (400, 30), (30, 400)])
def test_a_panel_is_legible_for_any_size(size):
    heat_map = np.linspace(0, 1, size[0], dtype=np.float32)[None].repeat(size[1], axis=0)
    probabilities = {"a very long label that cannot fit beside its bar": 0.7, "b": 0.2, "c": 0.1, "d": 0.0}
    explained = Explained("d", 0.0, probabilities, heat_map, "many words " * 80)
    panel = render_panel(picture(1, *size), explained)
    assert panel.width == 2 * 320 + 16 + 2 * 20
    pixels = np.asarray(panel)
    assert (pixels[-10:] == 255).all()  # text ends before the sheet does
    assert (pixels[:, :20] == 255).all()
    assert (pixels[:, -20:] == 255).all()


def test_the_panel_marks_the_explained_class_and_its_probability():
    """The bar of the explained class is coloured over its share of the track, 424 pixels wide."""
    explained = Explained("cat", 0.5, {"cat": 0.5, "dog": 0.5}, np.zeros((32, 32), np.float32), "")
    pixels = np.asarray(render_panel(Image.new("RGB", (32, 32)), explained)).reshape(-1, 696, 3)
    bar = (pixels == [0xC4, 0x39, 0x6B]).all(axis=2)
    assert bar.any(axis=0).sum() == pytest.approx(424 * 0.5, abs=2)


@pytest.mark.slow
def test_the_command_line(model_folder, tmp_path):
    picture(0).save(tmp_path / "one.png")
    (tmp_path / "bad.png").write_text("no picture")

    def megl(*arguments):
        command = [sys.executable, "-m", "megl_core.cli", "explain", *arguments, "--model", str(model_folder)]
        return subprocess.run(
            [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False
        )

    good = megl(str(tmp_path / "one.png"), "--json")
    assert good.returncode == 0, good.stderr
    (result,) = json.loads(good.stdout)
    assert result["label"] in LABELS
    assert (tmp_path / "out" / "one.png").is_file()
    bad = megl(str(tmp_path / "bad.png"))
    assert bad.returncode == 3
    assert "bad.png" in bad.stderr
    assert "Traceback" not in bad.stderr
