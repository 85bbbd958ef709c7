"""`MEGL.explain` on whatever a person has at hand, and what comes out of it."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from megl_core.errors import ConfigError, DataError
from megl_core.explain.explanation import Explained
from megl_core.explain.many import explain_each
from megl_core.explain.panel import render_panel
from tests.unit.explain.conftest import LABELS


def test_an_explanation_has_the_promised_shapes(model, picture):
    explanation = model.explain([picture(0), picture(1, 30, 50), picture(2, 32, 32)])
    assert len(explanation) == 3
    assert explanation.probabilities.shape == (3, 4)
    assert torch.allclose(explanation.probabilities.sum(dim=1), torch.ones(3))
    best = explanation.probabilities.argmax(dim=1).tolist()
    assert explanation.predicted == [LABELS[index] for index in best] == explanation.target
    assert explanation.heat_map.shape == (3, 1, 32, 32)
    assert explanation.heat_map.min() >= 0
    assert explanation.heat_map.max() <= 1
    assert len(explanation.rationale) == 3
    assert all(explanation.rationale)
    assert explanation.word_attention.shape[::2] == (3, model.map_size)


def test_every_form_of_a_picture_gives_the_same_answer(model, picture, tmp_path):
    one = picture(5)
    one.save(tmp_path / "one.png")
    array = np.asarray(one)
    inputs = model.preprocess(one)
    forms = [
        *(one, tmp_path / "one.png", str(tmp_path / "one.png"), array, inputs[None], one.convert("RGBA")),
        *([one], [array], array[None], (tmp_path / "one.png",)),
    ]
    expected = model.explain(inputs[None])
    for form in forms:
        explanation = model.explain(form)
        assert torch.equal(explanation.probabilities, expected.probabilities), type(form)
        assert torch.equal(explanation.heat_map, expected.heat_map)
        assert explanation.rationale == expected.rationale


def test_grey_pictures_count_as_colour_pictures_of_equal_channels(model, picture):
    grey = picture(3).convert("L")
    colour = np.stack([np.asarray(grey)] * 3, axis=2)
    expected = model.explain(colour).probabilities
    assert torch.equal(model.explain(np.asarray(grey)).probabilities, expected)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)  # 16 bits
    assert torch.equal(model.explain(deep).probabilities, expected)


def test_all_unusable_images_are_named(model, picture, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    images = [picture(0), tmp_path / "text.png", np.zeros((4, 4, 3)), tmp_path / "absent.png", 7]
    with pytest.raises(DataError) as caught:
        model.explain(images)
    problems = caught.value.problems
    assert len(problems) == 4
    assert "text.png: not an image" in problems[0]
    assert "image 2: an array (4, 4, 3) of float64" in problems[1]
    assert "absent.png: no such file" in problems[2]
    assert "image 4: neither" in problems[3]
    with pytest.raises(DataError, match="no image to explain"):
        model.explain([])


def test_tensors_must_be_of_the_models_size(model):
    for wrong in (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(2, 3, 32, 32)):
        with pytest.raises(DataError, match=r"takes \(B, 3, 32, 32\) of torch.uint8"):
            model.explain(wrong)


def test_any_class_can_be_explained_by_name_or_number(model, picture):
    pictures = [picture(0), picture(1)]
    own = model.explain(pictures)
    for target in (["bird", "cat"], [3, 0], ["bird", 0], (3, "cat"), torch.tensor([3, 0]), np.array([3, 0])):
        explanation = model.explain(pictures, target)
        assert explanation.target == ["bird", "cat"]
        assert explanation.predicted == own.predicted
    expected = model.explain(pictures, ["bird", "bird"]).saliency
    for target in ("bird", 3, np.int64(3), torch.tensor(3)):
        assert torch.equal(model.explain(pictures, target).saliency, expected)
    assert not torch.allclose(model.explain(pictures, "cat").saliency, expected)


def test_a_class_that_is_unknown_or_missing_is_refused(model, picture):
    with pytest.raises(ConfigError, match="did you mean 'bird'"):
        model.explain(picture(0), "brid")
    for index in (4, -1):
        with pytest.raises(ConfigError, match="choose from 0 to 3"):
            model.explain(picture(0), index)
    with pytest.raises(ConfigError, match="2 classes for 3 images"):
        model.explain([picture(seed) for seed in range(3)], ["cat", "dog"])


def test_explaining_restores_the_mode_of_every_module(model, picture):
    model.train()
    model.head.eval()  # as somebody may have done who trains the rest
    modes = [module.training for module in model.modules()]
    gradients = torch.is_grad_enabled()
    model.explain(picture(0))
    with pytest.raises(DataError):
        model.explain([])
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled() == gradients
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_one_explained_picture_is_in_a_persons_terms(model, picture):
    explanation = model.explain([picture(0), picture(7, 30, 50)], "bird")
    explained = explanation[1]
    probabilities = list(explained.probabilities.values())
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0)
    assert explained.label == "bird"
    assert explained.probability == explained.probabilities["bird"]
    assert explained.probability == pytest.approx(float(explanation.probabilities[1, 3]))
    assert explained.image.size == (30, 50)
    assert explained.heat_map.shape == (50, 30)
    assert explained.heat_map.dtype == np.float32
    assert (explained.heat_map.max() > 0) == bool((explanation.saliency[1] > 0).any())
    assert explained.rationale == explanation.rationale[1]
    assert [one.image.size for one in explanation] == [(40, 24), (30, 50)]


def test_tensors_are_shown_as_the_pictures_they_are(model, picture):
    small = picture(4, 32, 32)
    inputs = model.preprocess(small)[None]
    assert np.array_equal(np.asarray(model.explain(inputs)[0].image), np.asarray(small))


def test_a_notebook_shows_a_panel_for_each_picture(model, picture):
    explanation = model.explain([picture(seed) for seed in range(2)])
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)">', explanation._repr_html_())
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]
    assert len(shown) == 2
    for index, pixels in enumerate(shown):
        assert np.array_equal(pixels, np.asarray(explanation.plot(index)))
    assert explanation[0]._repr_png_().startswith(b"\x89PNG")
    many = model.explain([picture(0, 8, 8)] * 11, write=False)._repr_html_()
    assert many.count("<img") == 8
    assert "and 3 more" in many


def test_many_pictures_are_explained_a_few_at_a_time(model, picture, monkeypatch):
    pictures = [picture(seed) for seed in range(10)]
    alone = model.explain(pictures[9])[0]
    sizes = []
    explain = type(model).explain
    monkeypatch.setattr(
        type(model), "explain", lambda self, images: sizes.append(len(images)) or explain(self, images)
    )
    together = list(explain_each(model, iter(pictures)))
    assert sizes == [4, 4, 2]
    assert len(together) == 10
    assert together[9].probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert together[9].rationale == alone.rationale
    assert list(explain_each(model, [])) == []


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (400, 30), (30, 400)])
def test_a_panel_is_legible_for_any_size(size, picture):
    heat_map = np.linspace(0, 1, size[0], dtype=np.float32)[None].repeat(size[1], axis=0)
    probabilities = {"a very long label that cannot fit beside its bar": 0.7, "b": 0.2, "c": 0.1, "d": 0.0}
    explained = Explained(picture(1, *size), "d", 0.0, probabilities, heat_map, "many words " * 80)
    panel = render_panel(explained)
    assert panel.width == 2 * 320 + 16 + 2 * 20
    pixels = np.asarray(panel)
    assert (pixels[-10:] == 255).all()  # text ends before the sheet does
    assert (pixels[:, :20] == 255).all()
    assert (pixels[:, -20:] == 255).all()


def test_the_panel_marks_the_explained_class_and_its_probability():
    """The bar of the explained class is coloured over its share of the track, 424 pixels wide."""
    image, heat_map = Image.new("RGB", (32, 32)), np.zeros((32, 32), np.float32)
    pixels = np.asarray(render_panel(Explained(image, "cat", 0.5, {"cat": 0.5, "dog": 0.5}, heat_map, "")))
    bar = (pixels == [0xC4, 0x39, 0x6B]).all(axis=2)
    assert bar.any(axis=0).sum() == pytest.approx(424 * 0.5, abs=2)
