"""Pretrained language models that write rationales: the picture stands before the sentence, as embeddings.

Every cell is read twice, as it is and scaled by P rho_p, its share of the saliency relative to a uniform
one. The scale is differentiable, so the text loss reaches the saliency through it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from megl_core.config import DecoderConfig
from megl_core.data.tokenizer import PretrainedTokenizer, Tokenizer
from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.models.checkpoints import load_weights, loading, portable, require_checkpoint
from megl_core.models.decoder import Decoder, Words
from megl_core.models.grounding import CellValues, Grounded

PATH_SETTING = "model.decoder.path"


def read_tokenizer(path: str) -> PretrainedTokenizer:
    """The tokenizer of a checkpoint: a local folder, or a name on the hub.

    Where it has no token to begin with, sentences begin with the one that ends a text, as in GPT-2.

    Raises:
        ConfigError: no such folder; a tokenizer not of the tokenizers library, or without an end token.
        DataError: no tokenizer is there.
        UnavailableError: it cannot be fetched.
    """
    require_checkpoint(path, PATH_SETTING)
    with loading(path):
        pretrained = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    begin = pretrained.bos_token or pretrained.cls_token or pretrained.eos_token
    end = pretrained.eos_token or pretrained.sep_token
    if not pretrained.is_fast or end is None:
        raise ConfigError(
            "the checkpoint's tokenizer is none of the tokenizers library, or names no end token",
            where=path,
            fix="save one beside the weights: tokenizer.json, and eos_token in tokenizer_config.json",
        )
    tokenizer = PretrainedTokenizer.between(pretrained.backend_tokenizer.to_str(), begin, end)
    if not tokenizer.pieces("why"):  # transformers makes an empty tokenizer of no files
        raise DataError("the checkpoint has no tokenizer", where=path, fix="save it beside the weights")
    return tokenizer


class PrefixDecoder(Decoder):
    """A language model that reads embeddings of the picture, then a sentence.

    `model` is called with `inputs_embeds` and may have more parts than the language model alone.
    """

    def __init__(
        self, model: Any, config: DecoderConfig, description: Mapping[str, Any], *, new: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.description = description
        if not config.trains_checkpoint:
            model.requires_grad_(False)
        if new and config.lora_rank:
            add_adapters(self.language_model, config)

    @property
    def language_model(self) -> Any:
        """The part that gets adapters, and whose attention is looked at."""
        return self.model

    def prefix(self, opening: Tensor, grounded: Grounded, images: Tensor) -> Tensor:
        """(B, N, E) embeddings of all before the first word; `opening` (B, 1) is the begin token."""
        raise NotImplementedError

    def look_at_cells(self, attention: Tensor, num_cells: int) -> Tensor:
        """The part of (B, T, L) attention, over prefix and sentence, that goes to the cells: (B, T, P)."""
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens, padding among them, to embeddings (B, T, E)."""
        embeddings: Tensor = self.model.get_input_embeddings()(tokens.clamp(min=0))
        return embeddings

    def forward(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Words:
        num_words = tokens.shape[1]
        embeddings = self._embed_all(tokens, grounded, images)
        logits = self.model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=num_words).logits
        return Words(_at_least_single(logits[:, -num_words:]), None)

    def start(self, opening: Tensor, grounded: Grounded, images: Tensor) -> "PrefixReading":
        return PrefixReading(self, self.prefix(opening, grounded, images))

    def attention(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Tensor | None:
        """The mean over layers and heads; None where the model has no attention that can be looked at."""
        num_words = tokens.shape[1]
        embeddings = self._embed_all(tokens, grounded, images)
        # The matrix of the words' rows alone: with a picture of many tokens the whole would be huge.
        reading = PrefixReading(self, embeddings[:, :-num_words])
        with _explicit_attention(self.language_model):
            output = reading.feed(embeddings[:, -num_words:], output_attentions=True)
        length = embeddings.shape[1]
        layers = [
            layer.float().mean(dim=1)[:, -num_words:]
            for layer in getattr(output, "attentions", None) or ()
            if layer is not None and layer.shape[-1] == length
        ]
        if not layers:
            return None
        looked = self.look_at_cells(torch.stack(layers).mean(dim=0), grounded.prior.shape[1])
        return looked / looked.sum(dim=2, keepdim=True)

    def require_fit(self, tokenizer: Tokenizer, num_before: int, config: DecoderConfig) -> None:
        """Refuse a vocabulary, or a picture and a sentence, that the language model has no place for.

        Raises:
            DataError: the tokenizer knows more tokens than the model.
            ConfigError: `num_before` embeddings and the longest sentence exceed the model's positions.
        """
        known = self.model.get_input_embeddings().num_embeddings
        if len(tokenizer) > known:
            raise DataError(
                f"the tokenizer has {len(tokenizer)} tokens, the language model knows {known}",
                where=str(config.path),
                fix="use the tokenizer that the model was trained with",
            )
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        needed = num_before + config.max_tokens
        if positions is not None and needed > positions:
            raise ConfigError(
                f"picture and rationale take {needed} positions, and the language model has {positions}",
                where=str(config.path),
                fix="lower model.decoder.max_tokens, or use a coarser map",
            )

    def _embed_all(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Tensor:
        prefix = self.prefix(tokens[:, :1], grounded, images)
        return torch.cat([prefix, self.embed(tokens[:, 1:])], dim=1)


class PrefixReading:
    """Sentences in the making, with the model's cache of keys and values; without one all is read again.

    `use_cache` is for comparisons: the words are the same either way.
    """

    def __init__(self, decoder: PrefixDecoder, prefix: Tensor, *, use_cache: bool = True) -> None:
        self.decoder = decoder
        self.use_cache = use_cache
        self._cache: Any = None
        self._seen: Tensor | None = None
        self.scores = self._next_words(prefix)

    def read(self, tokens: Tensor) -> None:
        self.scores = self._next_words(self.decoder.embed(tokens[:, None]))

    def select(self, rows: Tensor) -> None:
        if self._cache is not None:
            self._cache.reorder_cache(rows)
        if self._seen is not None:
            self._seen = self._seen[rows]

    def feed(self, embeddings: Tensor, **options: Any) -> Any:
        """The model's output for (N, T, E) further embeddings."""
        if self._seen is not None:
            embeddings = torch.cat([self._seen, embeddings], dim=1)
        if self._cache is not None:
            options["past_key_values"] = self._cache
        output = self.decoder.model(inputs_embeds=embeddings, use_cache=self.use_cache, **options)
        self._cache = getattr(output, "past_key_values", None)
        self._seen = embeddings if self._cache is None else None
        return output

    def _next_words(self, embeddings: Tensor) -> Tensor:
        return _at_least_single(self.feed(embeddings, logits_to_keep=1).logits[:, -1])


class CausalDecoder(PrefixDecoder):
    """The `hf` decoder: any causal language model. A layer of its own turns cells into its embeddings."""

    def __init__(
        self,
        config: DecoderConfig,
        tokenizer: Tokenizer,
        num_channels: int,
        num_cells: int,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        new = description is None
        if description is None:
            path = str(config.path)
            require_checkpoint(path, PATH_SETTING)
            model = load_weights(path, AutoModelForCausalLM, dtype=getattr(torch, config.dtype))
            description = portable(model.config)
        else:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**description))
        super().__init__(model, config, description, new=new)
        self.values = CellValues(num_channels, num_cells, config.width)
        self.project = nn.Linear(config.width, model.get_input_embeddings().embedding_dim)
        self.require_fit(tokenizer, 2 * num_cells + 1, config)

    def prefix(self, opening: Tensor, grounded: Grounded, images: Tensor) -> Tensor:  # noqa: ARG002
        cells = self.project(self.values(grounded.cells))
        scale = grounded.prior * grounded.prior.shape[1]
        picture = torch.cat([cells, cells * scale[:, :, None]], dim=1)
        word = self.embed(opening)
        return torch.cat([picture.to(word.dtype), word], dim=1)

    def look_at_cells(self, attention: Tensor, num_cells: int) -> Tensor:
        return attention[..., :num_cells] + attention[..., num_cells : 2 * num_cells]


def add_adapters(model: Any, config: DecoderConfig) -> None:
    """Freeze a language model and add low-rank adapters to some of its linear layers, in place.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Adapters stay in float32.

    Raises:
        UnavailableError: peft is not installed.
        ConfigError: a name in `lora_targets` that no linear layer has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import cast_adapter_dtype
    except ImportError:
        raise UnavailableError(
            "LoRA needs the package peft", fix="pip install 'megl[train]', or set model.decoder.lora_rank=0"
        ) from None
    head = model.get_output_embeddings()
    layers = {
        name.rpartition(".")[2]: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    if unknown := [name for name in config.lora_targets if name not in layers]:
        raise ConfigError(
            f"the language model has no linear layer named {', '.join(unknown)}",
            where="model.decoder.lora_targets",
            fix=f"choose from {', '.join(sorted(layers))}",
        )
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
        fan_in_fan_out=isinstance(layers[config.lora_targets[0]], Conv1D),
    )
    inject_adapter_in_model(lora, model)
    cast_adapter_dtype(model, "default")


@contextlib.contextmanager
def _explicit_attention(model: Any) -> Iterator[None]:
    """Fused attention hides its matrix."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _at_least_single(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
