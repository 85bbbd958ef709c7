"""The `small` rationale decoder: a GRU whose every word looks at the grounded cells.

All states of a known sentence are computed in one call, and then all attention in another: training
costs no Python loop over words.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megl_core.config import DecoderConfig
from megl_core.models.grounding import Grounded


@dataclass(frozen=True)
class Words:
    """Scores of each next word, (B, T, V), and where each word looked, (B, T, P) summing to 1 over P."""

    logits: Tensor
    attention: Tensor


class SmallDecoder(nn.Module):
    """Writes sentences from grounded cells. Token ids are those of the model's tokenizer."""

    def __init__(self, config: DecoderConfig, vocabulary_size: int, beta: float) -> None:
        super().__init__()
        width = config.width
        self.beta = beta
        self.embed = nn.Embedding(vocabulary_size, width)
        self.start = nn.Linear(width, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor, grounded: Grounded) -> Words:
        """Teacher forcing: `tokens` (B, T) as read so far, each position scoring the word after it."""
        words, _ = self._step(tokens, self._initial_state(grounded), grounded)
        return words

    @torch.no_grad()
    def generate(self, grounded: Grounded, begin: int, end: int, max_tokens: int) -> tuple[Tensor, Tensor]:
        """Greedy sentences.

        Returns:
            Tokens (B, T) without the begin token, `end` from a sentence's end on, T <= max_tokens; and
            where each of them looked, (B, T, P).
        """
        batch = grounded.values.shape[0]
        token = torch.full((batch, 1), begin, device=grounded.values.device)
        state = self._initial_state(grounded)
        done = torch.zeros(batch, dtype=torch.bool, device=token.device)
        tokens, attention = [], []
        for _ in range(max_tokens):
            words, state = self._step(token, state, grounded)
            token = words.logits[:, -1].argmax(dim=1, keepdim=True).masked_fill(done[:, None], end)
            tokens.append(token)
            attention.append(words.attention)
            done = done | (token[:, 0] == end)
            if bool(done.all()):
                break
        return torch.cat(tokens, dim=1), torch.cat(attention, dim=1)

    def _initial_state(self, grounded: Grounded) -> Tensor:
        return self.start(grounded.summary).tanh()[None]

    def _step(self, tokens: Tensor, state: Tensor, grounded: Grounded) -> tuple[Words, Tensor]:
        hidden, state = self.recurrent(self.dropout(self.embed(tokens)), state)
        scores = self.query(hidden) @ self.key(grounded.values).transpose(1, 2)
        scores = scores / math.sqrt(hidden.shape[-1]) + self.beta * grounded.prior.log()[:, None]
        attention = scores.softmax(dim=-1)
        context = attention @ grounded.values
        mixed = self.combine(torch.cat([hidden, context], dim=-1)).relu()
        return Words(self.output(self.dropout(mixed)), attention), state
