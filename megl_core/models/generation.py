"""Writing sentences word by word: greedy and beam search over any decoder."""

from typing import Protocol

import torch
from torch import Tensor


class Reading(Protocol):
    """A decoder in the midst of N sentences.

    Attributes:
        scores: (N, V) unnormalised log-probabilities of each sentence's next word.
    """

    scores: Tensor

    def read(self, tokens: Tensor) -> None:
        """Go on by one word, `tokens` (N,)."""

    def select(self, rows: Tensor) -> None:
        """Go on with `rows` (M,) of the N sentences, in this order; a sentence may be taken twice."""


def search(reading: Reading, end: int, max_tokens: int, num_beams: int) -> Tensor:
    """The sentences that follow, one for each of `reading`.

    Returns:
        (N, T) tokens, `end` from a sentence's end on; T <= max_tokens is the longest sentence.
    """
    if num_beams == 1:
        return greedy_search(reading, end, max_tokens)
    return beam_search(reading, end, max_tokens, num_beams)


def greedy_search(reading: Reading, end: int, max_tokens: int) -> Tensor:
    """Always the most probable next word."""
    done = torch.zeros(len(reading.scores), dtype=torch.bool, device=reading.scores.device)
    words: list[Tensor] = []
    while True:
        word = reading.scores.argmax(dim=1).masked_fill(done, end)
        words.append(word)
        done = done | (word == end)
        if len(words) == max_tokens or bool(done.all()):
            return torch.stack(words, dim=1)
        reading.read(word)


def beam_search(reading: Reading, end: int, max_tokens: int, num_beams: int) -> Tensor:
    """The sentence of the highest mean log-probability of a word, its `end` included, that beams find.

    After each word the `num_beams` best sentences by that mean go on. One that has ended keeps its place
    among them as long as it is one of the best, so the search is over when all of them have ended. A
    sentence that is cut off at `max_tokens` counts as it is.
    """
    batch, vocabulary = reading.scores.shape
    device = reading.scores.device
    tokens = torch.empty(batch, 1, 0, dtype=torch.long, device=device)
    total = reading.scores.new_zeros(batch, 1)
    length = torch.zeros(batch, 1, dtype=torch.long, device=device)
    done = torch.zeros(batch, 1, dtype=torch.bool, device=device)
    first_row = torch.arange(batch, device=device)[:, None]
    while True:
        beams = total.shape[1]
        steps = reading.scores.log_softmax(dim=1).reshape(batch, beams, vocabulary)
        # A sentence that has ended goes on in one way: by another `end`, which costs nothing.
        steps = steps.masked_fill(done[:, :, None], float("-inf"))
        steps[:, :, end] = steps[:, :, end].masked_fill(done, 0.0)
        totals = total[:, :, None] + steps
        lengths = length + ~done
        means = (totals / lengths[:, :, None]).flatten(1)
        best = means.topk(min(num_beams, means.shape[1]), dim=1).indices
        parent, word = best // vocabulary, best % vocabulary
        tokens = torch.cat([tokens[first_row, parent], word[:, :, None]], dim=2)
        total = totals.flatten(1).gather(1, best)
        length = lengths.gather(1, parent)
        done = done.gather(1, parent) | (word == end)
        if tokens.shape[2] == max_tokens or bool(done.all()):
            return tokens[:, 0, : int(length[:, 0].max())]
        reading.select((first_row * beams + parent).flatten())
        reading.read(word.flatten())
