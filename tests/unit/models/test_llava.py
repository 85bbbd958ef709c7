"""The llava decoder on a tiny checkpoint: a tower with 4 x 4 patches beside a classifier with 2 x 2 cells."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration

from megl_core.config import BackboneConfig, DecoderConfig, GroundingConfig, ModelConfig, parse
from megl_core.data.tokenizer import IGNORE
from megl_core.errors import ConfigError
from megl_core.models.generation import beam_search, greedy_search
from megl_core.models.grounding import Grounded, ground, resample_shares
from megl_core.models.language import read_tokenizer
from megl_core.models.llava import LlavaDecoder
from megl_core.models.megl import MEGL
from tests.unit.models.language_models import save_gpt2, save_llava

PROMPT = "USER: <image> why? ASSISTANT:"
LORA = {"lora_rank": 2, "lora_alpha": 4}
SENTENCES = ["cat runs", "dog dog runs", "cat"]


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)


def llava(path: Path, **settings: object) -> DecoderConfig:
    tree = {"name": "llava", "path": str(path), "prompt": PROMPT, "max_tokens": 8, **settings}
    return parse(DecoderConfig, tree)


def decoder_of(config: DecoderConfig) -> LlavaDecoder:
    torch.manual_seed(1)
    return LlavaDecoder(config, read_tokenizer(str(config.path))).eval()


def view(dtype: torch.dtype = torch.float32) -> Grounded:
    prior = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6], [0.25] * 4], dtype=dtype)
    return Grounded(torch.zeros(3, 4, 5, dtype=dtype), prior)


def batch(path: Path) -> Tensor:
    tokenizer = read_tokenizer(str(path))
    tokens = torch.full((3, 5), IGNORE)
    for row, text in enumerate(SENTENCES):
        sentence = tokenizer.encode(text, 8)
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    return tokens


def loss_of(decoder: LlavaDecoder, tokens: Tensor, grounded: Grounded, images: Tensor) -> Tensor:
    words = decoder(tokens[:, :-1], grounded, images)
    return F.cross_entropy(words.logits.transpose(1, 2), tokens[:, 1:])


def test_without_saliency_tokens_it_reads_what_the_checkpoints_own_forward_reads(
    checkpoint_path: Path,
) -> None:
    """Prompt, picture at the tower's size and colours, sentence: against `pixel_values` and `input_ids`."""
    decoder = decoder_of(llava(checkpoint_path))
    generator = torch.Generator().manual_seed(1)
    small = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    tokens = batch(checkpoint_path)[:, :-1].clamp(min=0)
    prefix = decoder.prefix(tokens[:, :1], view(), small)
    length = prefix.shape[1] - decoder.after.shape[1]
    assert torch.allclose(  # 16 plain patches, then the same ones scaled by 16 rho
        prefix[:, length - 16 : length],
        prefix[:, length - 32 : length - 16] * 16 * resample_shares(view().prior[:, None], 4)[:, 0, :, None],
        atol=1e-6,
    )
    plain = torch.cat([prefix[:, : length - 16], prefix[:, length:], decoder.embed(tokens[:, 1:])], dim=1)

    original = LlavaForConditionalGeneration.from_pretrained(checkpoint_path)
    original.config.image_token_id = original.config.text_config.vocab_size - 1
    theirs = AutoTokenizer.from_pretrained(checkpoint_path)
    ask = [1, *theirs("USER:")["input_ids"], *[original.config.image_token_id] * 16]
    ask += theirs("why? ASSISTANT:")["input_ids"]
    ids = torch.cat([torch.tensor([ask] * 3), tokens[:, 1:]], dim=1)
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint_path)
    pixels = processor(list(small.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = original(input_ids=ids, pixel_values=pixels).logits
        ours = decoder.model(inputs_embeds=plain).logits
    assert torch.allclose(ours, expected, atol=1e-4)


def test_a_larger_picture_is_resized_as_the_processor_does(checkpoint_path: Path) -> None:
    decoder = decoder_of(llava(checkpoint_path))
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(1, 3, 32, 32).contiguous()
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint_path)
    pixels = processor([ramp[0].permute(1, 2, 0).numpy()], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = torch.stack(tuple(decoder.model.get_image_features(pixel_values=pixels).pooler_output))
        ours = decoder._look(ramp)
        black = decoder._look(torch.zeros_like(ramp))
    assert (ours - theirs).abs().max() < 0.05 * (black - theirs).abs().max()


@pytest.mark.parametrize("settings", [{}, LORA, {"freeze": True}])
def test_training_moves_what_it_should_and_the_loss_falls(
    checkpoint_path: Path, images: Tensor, settings: dict[str, object]
) -> None:
    decoder = decoder_of(llava(checkpoint_path, **settings)).train()
    tokens = batch(checkpoint_path)
    before = {name: value.detach().clone() for name, value in decoder.named_parameters()}
    logits = torch.zeros(3, 4, requires_grad=True)  # of the prior, standing for the classifier
    trained = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([*trained, logits], lr=1e-2)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)  # the same dropout each time
        loss = loss_of(decoder, tokens, Grounded(view().cells, logits.softmax(dim=1)), images)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert logits.abs().max() > 0
    moved = {name for name, value in decoder.named_parameters() if not torch.equal(value, before[name])}
    adapters = {name for name in before if "lora_" in name}
    assert len(adapters) == (16 if settings is LORA else 0)  # two matrices of q, k, v, o in two layers
    if settings:
        assert moved == adapters
    else:
        assert {name.split(".")[2] for name in moved} == {"language_model", "multi_modal_projector", "weight"}
    assert not any("vision_tower" in name for name in moved)


@pytest.mark.parametrize("path", ["saliency", "features"])
def test_the_text_loss_reaches_the_saliency_alone(checkpoint_path: Path, images: Tensor, path: str) -> None:
    """Against central differences in float64; the classifier's features are not read."""
    decoder = decoder_of(llava(checkpoint_path)).double()
    tokens = batch(checkpoint_path)
    config = GroundingConfig(text_path=path)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(3, 5, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    saliency = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(saliency: Tensor) -> Tensor:
        return loss_of(decoder, tokens, ground(features, saliency, config, leak=0.2), images)

    loss(saliency).backward()  # type: ignore[no-untyped-call]
    assert features.grad is None
    if path == "features":
        assert saliency.grad is None
        return
    assert saliency.grad is not None
    assert saliency.grad.abs().max() > 1e-3
    # Llama's norms are in float32 whatever the rest: a wide step, and the stencil of fourth order.
    for cell in range(12):
        step = torch.zeros(12, dtype=torch.float64).index_fill(0, torch.tensor([cell]), 1e-2).view(3, 2, 2)
        near, far = (loss(saliency + by * step) - loss(saliency - by * step) for by in (1, 2))
        assert torch.allclose((8 * near - far) / 0.12, saliency.grad.flatten()[cell], atol=3e-5)


def test_searches_agree_and_attention_is_on_the_classifiers_cells(
    checkpoint_path: Path, images: Tensor
) -> None:
    decoder = decoder_of(llava(checkpoint_path))
    opening = torch.ones(3, 1, dtype=torch.long)
    with torch.no_grad():
        greedy = greedy_search(decoder.start(opening, view(), images), 2, 6)
        assert torch.equal(beam_search(decoder.start(opening, view(), images), 2, 6, 1), greedy)
    tokens, attention = decoder.generate(view(), images, 1, 2, 6, num_beams=1)
    assert torch.equal(tokens, greedy)
    words = decoder(torch.cat([opening, tokens[:, :-1]], dim=1), view(), images).logits.argmax(dim=2)
    assert tokens[:, 0].tolist() == words[:, 0].tolist()
    assert attention is not None
    assert attention.shape == (3, tokens.shape[1], 4)
    assert torch.allclose(attention.sum(dim=2), torch.ones(tokens.shape))


def test_attention_lands_on_the_cell_whose_patches_are_looked_at(checkpoint_path: Path) -> None:
    decoder = decoder_of(llava(checkpoint_path))
    start = decoder.before.shape[1]
    attention = torch.zeros(1, 2, start + 32 + decoder.after.shape[1])
    attention[0, 0, start] = 0.5  # plain patch in the upper left corner
    attention[0, 1, start + 16 + 15] = 0.5  # salient patch in the lower right one
    attention[..., -1] = 0.5
    looked = decoder.look_at_cells(attention, num_cells=4)
    assert looked.argmax(dim=2).tolist() == [[0, 3]]
    assert (looked.amax(dim=2) > 0.8).all()


@pytest.mark.parametrize("settings", [{}, LORA | {"dtype": "bfloat16"}])
def test_a_saved_model_needs_neither_checkpoint_nor_peft(
    tmp_path: Path, images: Tensor, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_llava(tmp_path / "llava")
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=32, backbone=BackboneConfig(widths=[4, 8], depths=[1, 1]), decoder=llava(path, **settings)
    )
    model = MEGL(config, ["cat", "dog"], read_tokenizer(str(path))).eval()
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    path.rename(tmp_path / "gone")
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = MEGL.load(tmp_path / "model")
    before, after = model.explain(images), loaded.explain(images)
    assert before.rationale == after.rationale
    assert before.word_attention is not None
    assert after.word_attention is not None
    assert torch.equal(before.word_attention, after.word_attention)
    assert before.word_attention.shape[2:] == (8, 8)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = save_gpt2(tmp_path)
    with pytest.raises(ConfigError, match="is gpt2, not llava"):
        decoder_of(llava(path))


def test_a_picture_that_takes_all_positions_is_refused(checkpoint_path: Path) -> None:
    # <s> USER : | 16 + 16 patches | why ? ASSISTANT : leave 160 - 39 positions.
    decoder_of(llava(checkpoint_path, max_tokens=121))
    with pytest.raises(ConfigError, match="take 161 positions"):
        decoder_of(llava(checkpoint_path, max_tokens=122))
