"""The hf decoder on tiny checkpoints: GPT-2 (tied, one special token) and Llama (six words)."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from megl_core.config import (
    BackboneConfig,
    DecoderConfig,
    GroundingConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    parse,
)
from megl_core.data.tokenizer import IGNORE, PretrainedTokenizer
from megl_core.errors import ConfigError, DataError, MeglError
from megl_core.files import read_json
from megl_core.models.decoder import Decoder, build_decoder
from megl_core.models.generation import beam_search, greedy_search, search
from megl_core.models.grounding import Grounded, ground
from megl_core.models.language import CausalDecoder, PrefixReading, read_tokenizer
from megl_core.models.megl import MEGL
from megl_core.training import train
from megl_core.training.checkpoint import newest_first, restore, take_snapshot, write_checkpoint
from tests.unit.models.language_models import TEXTS, save_gpt2, save_llama, save_mamba

IMAGES = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)  # the hf decoder reads the cells alone
LORA = {"lora_rank": 2, "lora_alpha": 4, "lora_targets": ["c_attn", "c_proj"]}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def hf(path: Path, **settings: object) -> DecoderConfig:
    return parse(DecoderConfig, {"name": "hf", "path": str(path), "width": 8, "max_tokens": 24, **settings})


def decoder_of(config: DecoderConfig) -> CausalDecoder:
    torch.manual_seed(1)
    tokenizer = read_tokenizer(str(config.path))
    return CausalDecoder(config, tokenizer, num_channels=5, num_cells=4).eval()


def cells(dtype: torch.dtype = torch.float32) -> Grounded:
    generator = torch.Generator().manual_seed(2)
    prior = torch.rand(3, 4, generator=generator, dtype=dtype)
    features = torch.randn(3, 4, 5, generator=generator, dtype=dtype) * 3
    return Grounded(features, prior / prior.sum(dim=1, keepdim=True))


def batch(tokenizer: PretrainedTokenizer) -> Tensor:
    sentences = [tokenizer.encode(text, 24) for text in TEXTS]
    tokens = torch.full((3, max(map(len, sentences))), IGNORE)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    return tokens


def loss_of(decoder: Decoder, tokens: Tensor, grounded: Grounded) -> Tensor:
    words = decoder(tokens[:, :-1], grounded, IMAGES)
    return F.cross_entropy(words.logits.transpose(1, 2), tokens[:, 1:])


def test_the_tokenizer_is_the_checkpoints(gpt2: Path, llama: Path) -> None:
    ours, theirs = read_tokenizer(str(gpt2)), AutoTokenizer.from_pretrained(gpt2)
    text = "Why? A red cat."
    assert ours.encode(text, 99) == [theirs.eos_token_id, *theirs(text)["input_ids"], theirs.eos_token_id]
    assert ours.decode(ours.encode(text, 99)[1:]) == text
    words = read_tokenizer(str(llama))
    assert words.encode("dog runs", 99) == [1, 4, 5, 2]
    assert words.begin != words.end


def test_the_picture_is_read_plain_and_scaled_by_its_saliency_and_then_the_sentence(gpt2: Path) -> None:
    decoder, grounded = decoder_of(hf(gpt2)), cells()
    tokens = batch(read_tokenizer(str(gpt2)))[:, :-1]
    plain = decoder.project(decoder.values(grounded.cells))
    salient = torch.stack([4 * grounded.prior[:, p, None] * plain[:, p] for p in range(4)], dim=1)
    sentence = decoder.model.transformer.wte(tokens.clamp(min=0))
    original = AutoModelForCausalLM.from_pretrained(gpt2)
    expected = original(inputs_embeds=torch.cat([plain, salient, sentence], dim=1)).logits[:, 8:]
    words = decoder(tokens, grounded, IMAGES)
    assert words.attention is None
    assert torch.allclose(words.logits, expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, LORA, {"freeze": True}])
def test_training_moves_what_it_should_and_the_loss_falls(gpt2: Path, settings: dict[str, object]) -> None:
    decoder = decoder_of(hf(gpt2, **settings)).train()
    tokens, grounded = batch(read_tokenizer(str(gpt2))), cells()
    before = {name: value.detach().clone() for name, value in decoder.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = loss_of(decoder, tokens, grounded)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name for name, value in decoder.named_parameters() if not torch.equal(value, before[name])}
    of_model = {name for name in before if name.startswith("model.")}
    adapters = {name for name in before if "lora_" in name}
    assert len(adapters) == (12 if settings is LORA else 0)  # two matrices of three layers in two blocks
    assert moved & of_model == (adapters if settings else of_model)
    assert {"values.project.weight", "values.position", "project.weight"} <= moved


@pytest.mark.parametrize("path", ["both", "saliency", "features", "off"])
def test_the_text_loss_reaches_saliency_and_features_where_it_may(gpt2: Path, path: str) -> None:
    """The gradient of the raw map and of the features against central differences, in float64."""
    decoder = decoder_of(hf(gpt2)).double()
    tokens = batch(read_tokenizer(str(gpt2)))[:, :6]
    config = GroundingConfig(text_path=path)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(3, 5, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    saliency = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(features: Tensor, saliency: Tensor) -> Tensor:
        return loss_of(decoder, tokens, ground(features, saliency, config, leak=0.2))

    loss(features, saliency).backward()  # type: ignore[no-untyped-call]
    for value, reached in ((features, ("both", "features")), (saliency, ("both", "saliency"))):
        assert (value.grad is not None and value.grad.abs().max() > 1e-5) == (path in reached)
    if saliency.grad is None:
        return
    for cell in range(4):
        offset = torch.zeros_like(saliency.data)
        offset.view(3, 4)[:, cell] = torch.tensor([1e-5, 0, 0])
        difference = (loss(features, saliency + offset) - loss(features, saliency - offset)) / 2e-5
        assert torch.allclose(difference, saliency.grad.view(3, 4)[0, cell], atol=1e-8)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_cache_changes_no_word(gpt2: Path, num_beams: int, use_cache: bool) -> None:
    decoder, grounded = decoder_of(hf(gpt2)), cells()
    opening = torch.zeros(3, 1, dtype=torch.long)
    prefix = decoder.prefix(opening, grounded, IMAGES)
    with torch.no_grad():
        reading = PrefixReading(decoder, prefix, use_cache=use_cache)
        tokens = search(reading, 0, 10, num_beams)
    assert (reading._cache is not None) == use_cache
    written, _ = decoder.generate(grounded, IMAGES, 0, 0, 10, num_beams)
    assert torch.equal(tokens, written)
    assert len({tuple(row) for row in tokens.tolist()}) > 1
    for row in range(3):
        one = Grounded(grounded.cells[row : row + 1], grounded.prior[row : row + 1])
        alone, _ = decoder.generate(one, IMAGES[:1], 0, 0, 10, num_beams)
        assert tokens[row, : alone.shape[1]].tolist() == alone[0].tolist()


def test_greedy_words_are_those_of_teacher_forcing_and_of_transformers(gpt2: Path) -> None:
    decoder, grounded = decoder_of(hf(gpt2)), cells()
    tokens, _ = decoder.generate(grounded, IMAGES, 0, 0, 10, num_beams=1)
    opening = torch.zeros(3, 1, dtype=torch.long)
    words = decoder(torch.cat([opening, tokens[:, :-1]], dim=1), grounded, IMAGES).logits.argmax(dim=2)
    theirs = decoder.model.generate(
        inputs_embeds=decoder.prefix(opening, grounded, IMAGES),
        attention_mask=torch.ones(3, 9, dtype=torch.long),
        max_new_tokens=10,
        do_sample=False,
        pad_token_id=0,
    )
    for row, sentence in enumerate(tokens.tolist()):
        length = sentence.index(0) + 1 if 0 in sentence else len(sentence)
        assert sentence[:length] == words[row, :length].tolist() == theirs[row, :length].tolist()


def test_enough_beams_find_the_best_of_all_sentences(llama: Path) -> None:
    decoder, grounded = decoder_of(hf(llama)), cells()
    found, _ = decoder.generate(grounded, IMAGES, 1, 2, max_tokens=3, num_beams=6**3)
    every = itertools.product(range(6), repeat=3)
    sentences = list(dict.fromkeys(words[: words.index(2) + 1] if 2 in words else words for words in every))
    number = len(sentences)
    read = torch.tensor([[1, *words, IGNORE, IGNORE][:3] for words in sentences])
    for row in range(3):
        one = Grounded(grounded.cells[row].expand(number, -1, -1), grounded.prior[row].expand(number, -1))
        steps = decoder(read, one, IMAGES[:1].expand(number, -1, -1, -1)).logits.log_softmax(dim=2)
        scores = [steps[i, range(len(words)), words].mean().item() for i, words in enumerate(sentences)]
        best = sentences[scores.index(max(scores))]
        assert found[row, : len(best)].tolist() == list(best)


def test_one_beam_is_greedy(llama: Path) -> None:
    decoder, grounded = decoder_of(hf(llama)), cells()
    opening = torch.full((3, 1), 1)
    with torch.no_grad():
        greedy = greedy_search(decoder.start(opening, grounded, IMAGES), 2, 8)
        assert torch.equal(beam_search(decoder.start(opening, grounded, IMAGES), 2, 8, 1), greedy)


def test_attention_is_the_models_own_on_plain_and_salient_cells(llama: Path) -> None:
    decoder, grounded = decoder_of(hf(llama)), cells()
    tokens = torch.tensor([[1, 3, 5], [1, 4, 5], [1, 4, 4]])
    attention = decoder.attention(tokens, grounded, IMAGES)
    assert attention is not None
    assert decoder.model.config._attn_implementation == "sdpa"  # as before
    embeddings = torch.cat(
        [decoder.prefix(tokens[:, :1], grounded, IMAGES), decoder.embed(tokens[:, 1:])], dim=1
    )
    explicit = AutoModelForCausalLM.from_pretrained(llama, attn_implementation="eager")
    layers = explicit(inputs_embeds=embeddings, output_attentions=True).attentions
    mean = torch.stack(layers).mean(dim=(0, 2))  # over layers and heads
    for word in range(3):
        seen = mean[:, 8 + word, :4] + mean[:, 8 + word, 4:8]
        assert torch.allclose(attention[:, word], seen / seen.sum(dim=1, keepdim=True), atol=1e-5)
    assert torch.allclose(attention.sum(dim=2), torch.ones(3, 3), atol=1e-6)


def test_a_model_without_attention_and_keys_writes_too(tmp_path: Path) -> None:
    decoder, grounded = decoder_of(hf(save_mamba(tmp_path))), cells()
    tokens, attention = decoder.generate(grounded, IMAGES, 1, 2, 6, num_beams=1)
    assert attention is None
    read = torch.cat([torch.full((3, 1), 1), tokens[:, :-1]], dim=1)
    words = decoder(read, grounded, IMAGES).logits.argmax(dim=2)
    for row, sentence in enumerate(tokens.tolist()):
        length = sentence.index(2) + 1 if 2 in sentence else len(sentence)
        assert sentence[:length] == words[row, :length].tolist()


# --- as a part of MEGL -----------------------------------------------------------------------


def model_of(config: DecoderConfig) -> MEGL:
    torch.manual_seed(0)
    whole = ModelConfig(image_size=16, backbone=BackboneConfig(widths=[4, 8], depths=[1, 1]), decoder=config)
    return MEGL(whole, ["cat", "dog"], read_tokenizer(str(config.path)))


def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=generator)


def shake(module: nn.Module) -> None:
    """Fresh adapters add nothing: give every trained weight another value."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.mark.parametrize(
    "settings", [{}, LORA, {"freeze": True, "dtype": "bfloat16"}, LORA | {"dtype": "bfloat16"}]
)
def test_a_saved_model_needs_neither_checkpoint_nor_peft(
    tmp_path: Path, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_gpt2(tmp_path / "gpt2")
    model = model_of(hf(path, max_tokens=8, num_beams=2, **settings)).eval()
    shake(model)
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    path.rename(tmp_path / "gone")
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = MEGL.load(tmp_path / "model")
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    before, after = model.explain(pictures()), loaded.explain(pictures())
    assert torch.equal(before.probabilities, after.probabilities)
    tokens = batch(read_tokenizer(str(tmp_path / "gone")))[:2, :-1]
    ours, theirs = (m(pictures(), torch.tensor([0, 1]), tokens, 0.1).words for m in (model, loaded))
    assert ours is not None
    assert theirs is not None
    exact = "lora_rank" not in settings
    tolerance = 0.0 if exact else 0.1 if "dtype" in settings else 1e-5
    assert torch.allclose(ours.logits, theirs.logits, atol=tolerance)
    assert ours.logits.dtype == torch.float32
    if "dtype" not in settings:
        assert before.rationale == after.rationale
    assert before.word_attention is not None
    assert torch.allclose(before.word_attention.sum(dim=(2, 3)), torch.ones(before.word_attention.shape[:2]))


def test_tied_weights_are_stored_once_and_stay_tied(gpt2: Path, tmp_path: Path) -> None:
    model_of(hf(gpt2)).save(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "decoder.model.transformer.wte.weight" in names
    assert "decoder.model.lm_head.weight" not in names
    loaded = MEGL.load(tmp_path)
    assert isinstance(loaded.decoder, CausalDecoder)
    assert isinstance(loaded.decoder.model, GPT2LMHeadModel)
    assert loaded.decoder.model.lm_head.weight is loaded.decoder.model.transformer.wte.weight


def test_a_checkpoint_of_training_keeps_adapters_and_ties(gpt2: Path, tmp_path: Path) -> None:
    first, second = model_of(hf(gpt2, **LORA)), model_of(hf(gpt2, **LORA))
    shake(first)
    optimizers = [torch.optim.AdamW(model.parameters()) for model in (first, second)]
    write_checkpoint(tmp_path, take_snapshot(first, optimizers[0], step=3, state={}), keep=1)
    assert restore(newest_first(tmp_path)[0], second, optimizers[1])["step"] == 3
    assert all(
        torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize("settings", [{}, LORA])
def test_training_end_to_end(packed: Path, gpt2: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    model = ModelConfig(
        image_size=24,
        backbone=BackboneConfig(widths=[4, 8], depths=[1, 1], stem_stride=4),
        decoder=hf(gpt2, **settings),
    )
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=1e-2)
    result = train(packed, tmp_path / "model", model, ObjectiveConfig(), config)
    assert result is not None
    history = read_json(result.model / "training.json")["history"]
    assert history[1]["text"] < history[0]["text"]
    loaded = MEGL.load(result.model)
    assert loaded.can_write
    again = train(packed, tmp_path / "again", model, ObjectiveConfig(), config)
    assert again is not None
    assert again.model_digest == result.model_digest


# --- what a user can get wrong ---------------------------------------------------------------


def build(config: DecoderConfig, num_cells: int = 4) -> Decoder:
    return build_decoder(ModelConfig(decoder=config), read_tokenizer(str(config.path)), 5, num_cells)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.decoder\.path(.|\n)*nowhere"):
        build(hf(tmp_path / "nowhere"))


def test_pickled_weights_are_refused(gpt2: Path, tmp_path: Path) -> None:
    for file in gpt2.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="safetensors"):
        build(hf(tmp_path))


def test_a_missing_tokenizer_is_told(gpt2: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((gpt2 / name).read_bytes())
    with pytest.raises(MeglError, match="tokenizer"):
        build(hf(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(gpt2: Path, llama: Path) -> None:
    tokenizer = read_tokenizer(str(gpt2))
    with pytest.raises(DataError, match=f"tokenizer has {len(tokenizer)} tokens(.|\n)*knows 6"):
        build_decoder(ModelConfig(decoder=hf(llama)), tokenizer, 5, 4)


def test_unknown_lora_targets_are_answered_with_those_there_are(gpt2: Path) -> None:
    with pytest.raises(ConfigError, match=r"named q_proj, lm_head(.|\n)*choose from c_attn, c_fc, c_proj"):
        build(hf(gpt2, lora_rank=2, lora_targets=["c_attn", "q_proj", "lm_head"]))


def test_a_picture_that_takes_all_positions_is_refused(gpt2: Path) -> None:
    build(hf(gpt2), num_cells=83)  # 2 * 83 cells, one token to begin with, 24 of the sentence: 191 of 192
    with pytest.raises(ConfigError, match=r"take 193 positions(.|\n)*has 192"):
        build(hf(gpt2), num_cells=84)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "hf"}, r"decoder\.path"),
        ({"name": "small", "path": "somewhere"}, r"decoder\.path"),
        ({"name": "hf", "path": "x", "dtype": "bfloat16"}, "lora_rank"),
        ({"name": "llava", "path": "x", "prompt": "why?"}, "<image>"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(DecoderConfig, settings)
