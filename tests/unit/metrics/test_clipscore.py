import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from megl_core.errors import ConfigError
from megl_core.metrics.clipscore import ClipScore
from tests.unit.metrics.tiny import save_clip

TEXTS = ["a red ring", "the blue square", "", "rings " * 60]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return str(folder)


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in TEXTS]


def test_scores_are_those_of_the_formula(tiny_clip, pictures):
    """2.5 max(cos, 0), from the two towers asked one by one, one pair at a time."""
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip)
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip)
    expected = []
    for picture, text in zip(pictures, TEXTS, strict=True):
        pixels = processor(images=picture, return_tensors="pt")
        tokens = tokenizer(f"A photo depicts {text}", truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            seen = model.get_image_features(**pixels).pooler_output[0].numpy()
            said = model.get_text_features(**tokens).pooler_output[0].numpy()
        cosine = seen @ said / np.linalg.norm(seen) / np.linalg.norm(said)
        expected.append(2.5 * max(float(cosine), 0.0))
    assert ClipScore(tiny_clip).score(pictures, TEXTS) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) > 1


def test_a_negative_cosine_counts_as_none(tiny_clip, pictures):
    scorer = ClipScore(tiny_clip)
    positive = scorer.score(pictures, TEXTS)
    with torch.no_grad():
        scorer._model.text_projection.weight.neg_()
    negative = scorer.score(pictures, TEXTS)
    assert all(min(pair) == 0.0 for pair in zip(positive, negative, strict=True))
    assert all(0.0 < max(pair) <= 2.5 for pair in zip(positive, negative, strict=True))


def test_a_folder_that_holds_no_clip_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"clipscore_model cannot be loaded: no such folder"):
        ClipScore("openai/clip-vit-base-patch32")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="it is a model of type bert, not clip"):
        ClipScore(str(tmp_path))
