"""Rationale decoders: what they share, and the `small` one, a GRU whose every word looks at the cells.

All states of a known sentence are computed in one call, and then all attention in another: training
costs no Python loop over words.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megl_core.config import DecoderConfig, ModelConfig
from megl_core.data.tokenizer import Tokenizer
from megl_core.models.generation import Reading, search
from megl_core.models.grounding import CellValues, Grounded


@dataclass(frozen=True)
class Words:
    """What a decoder makes of a sentence.

    Attributes:
        logits: (B, T, V) scores of each next word.
        attention: (B, T, P) where each word looked, summing to 1 over P; None where it is not known.
    """

    logits: Tensor
    attention: Tensor | None


class Decoder(nn.Module):
    """Writes sentences about grounded images, in the ids of the model's tokenizer.

    Attributes:
        description: JSON from which the decoder can be built without its checkpoint; None where the
            configuration is enough.
    """

    description: Mapping[str, Any] | None = None

    def forward(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Words:
        """Teacher forcing.

        Args:
            tokens: (B, T) a begin token and the sentence as read so far; each position scores the word
                after it. Negative tokens are padding, at the end only.
            grounded: the classifier's view of the images.
            images: (B, 3, S, S) uint8.
        """
        raise NotImplementedError

    @torch.no_grad()
    def generate(
        self, grounded: Grounded, images: Tensor, begin: int, end: int, max_tokens: int, num_beams: int
    ) -> tuple[Tensor, Tensor | None]:
        """Sentences of the model's own.

        Returns:
            Tokens (B, T) without the begin token, `end` from a sentence's end on, T <= max_tokens; and
            where each of them looked, (B, T, P), or None where that is not known.
        """
        opening = torch.full((len(images), 1), begin, device=images.device)
        tokens = search(self.start(opening, grounded, images), end, max_tokens, num_beams)
        read = torch.cat([opening, tokens[:, :-1]], dim=1)
        return tokens, self.attention(read, grounded, images)

    def start(self, opening: Tensor, grounded: Grounded, images: Tensor) -> Reading:
        """Sentences of which only the begin token, `opening` (B, 1), is read."""
        raise NotImplementedError

    def attention(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Tensor | None:
        """Where each word of `tokens` (B, T) looks, (B, T, P) summing to 1 over P."""
        raise NotImplementedError


def build_decoder(
    config: ModelConfig,
    tokenizer: Tokenizer,
    num_channels: int,
    num_cells: int,
    description: Mapping[str, Any] | None = None,
) -> Decoder:
    """The decoder that a configuration names.

    Args:
        config: of the model.
        tokenizer: whose ids it reads and writes.
        num_channels: K of the cells.
        num_cells: P.
        description: of a saved decoder, which is then built without its checkpoint and without its
            weights; None: a new one, with the weights of the checkpoint.

    Raises:
        ConfigError: a checkpoint that does not fit, or LoRA for layers that it does not have.
        DataError: a checkpoint that is broken, or has no safetensors weights.
        UnavailableError: a checkpoint or a package that is not there.
    """
    if config.decoder.name == "hf":
        from megl_core.models.language import CausalDecoder

        return CausalDecoder(config.decoder, tokenizer, num_channels, num_cells, description)
    if config.decoder.name == "llava":
        from megl_core.models.llava import LlavaDecoder

        return LlavaDecoder(config.decoder, tokenizer, description)
    return SmallDecoder(config.decoder, len(tokenizer), num_channels, num_cells, config.grounding.beta)


class SmallDecoder(Decoder):
    """The `small` decoder; `beta` is the exponent of the saliency prior in its attention."""

    def __init__(
        self, config: DecoderConfig, vocabulary_size: int, num_channels: int, num_cells: int, beta: float
    ) -> None:
        super().__init__()
        width = config.width
        self.beta = beta
        self.values = CellValues(num_channels, num_cells, width)
        self.embed = nn.Embedding(vocabulary_size, width)
        self.start_state = nn.Linear(width, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Words:  # noqa: ARG002
        values = self.values(grounded.cells)
        words, _ = self.step(tokens, self.initial_state(values, grounded.prior), values, grounded.prior)
        return words

    def start(self, opening: Tensor, grounded: Grounded, images: Tensor) -> Reading:  # noqa: ARG002
        return _SmallReading(self, opening, grounded)

    def attention(self, tokens: Tensor, grounded: Grounded, images: Tensor) -> Tensor | None:
        return self(tokens, grounded, images).attention

    def initial_state(self, values: Tensor, prior: Tensor) -> Tensor:
        """(1, B, D) from the prior's mean of the cells, sum_p rho_p v_p."""
        summary = torch.einsum("bp,bpd->bd", prior, values)
        state: Tensor = self.start_state(summary).tanh()
        return state[None]

    def step(self, tokens: Tensor, state: Tensor, values: Tensor, prior: Tensor) -> tuple[Words, Tensor]:
        """Read (B, T) words from a state on; their words and the state after them."""
        hidden, state = self.recurrent(self.dropout(self.embed(tokens.clamp(min=0))), state)
        scores = self.query(hidden) @ self.key(values).transpose(1, 2)
        scores = scores / math.sqrt(hidden.shape[-1]) + self.beta * prior.log()[:, None]
        attention = scores.softmax(dim=-1)
        context = attention @ values
        mixed = self.combine(torch.cat([hidden, context], dim=-1)).relu()
        return Words(self.output(self.dropout(mixed)), attention), state


class _SmallReading:
    def __init__(self, decoder: SmallDecoder, opening: Tensor, grounded: Grounded) -> None:
        self.decoder = decoder
        self.values = decoder.values(grounded.cells)
        self.prior = grounded.prior
        self.state = decoder.initial_state(self.values, self.prior)
        self.read(opening[:, 0])

    def read(self, tokens: Tensor) -> None:
        words, self.state = self.decoder.step(tokens[:, None], self.state, self.values, self.prior)
        self.scores = words.logits[:, -1]

    def select(self, rows: Tensor) -> None:
        self.state = self.state[:, rows]
        self.values = self.values[rows]
        self.prior = self.prior[rows]
