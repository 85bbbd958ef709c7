"""Search: greedy, beams, their scores by hand and by enumeration of every sentence."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from megl_core.models.generation import beam_search, greedy_search, search

END = 0


class Table:
    """A language model that is a table: the words before to the probabilities of the next word."""

    def __init__(self, tables: list[dict[tuple[int, ...], list[float]]]) -> None:
        self.tables = tables
        self.sentences: list[tuple[int, ...]] = [()] * len(tables)
        self._look_up()

    def _look_up(self) -> None:
        ended = [1.0] + [0.0] * (len(self.tables[0][()]) - 1)
        rows = [
            table[sentence] if END not in sentence else ended
            for table, sentence in zip(self.tables, self.sentences, strict=True)
        ]
        self.scores = torch.tensor(rows, dtype=torch.float64).log()

    def read(self, tokens: Tensor) -> None:
        self.sentences = [
            (*sentence, int(token)) for sentence, token in zip(self.sentences, tokens, strict=True)
        ]
        self._look_up()

    def select(self, rows: Tensor) -> None:
        self.tables = [self.tables[row] for row in rows.tolist()]
        self.sentences = [self.sentences[row] for row in rows.tolist()]


def random_table(seed: int, vocabulary: int, max_tokens: int) -> dict[tuple[int, ...], list[float]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        sentence: torch.randn(vocabulary, generator=generator).mul(2).softmax(dim=0).tolist()
        for length in range(max_tokens)
        for sentence in itertools.product(range(1, vocabulary), repeat=length)
    }


def best_sentence(table: dict[tuple[int, ...], list[float]], vocabulary: int, max_tokens: int) -> list[int]:
    """By its mean log-probability, among all that end in time and all that are cut off."""
    scores = {}
    for length in range(1, max_tokens + 1):
        for words in itertools.product(range(1, vocabulary), repeat=length - 1):
            for last in range(vocabulary):
                if last == END or length == max_tokens:
                    sentence = (*words, last)
                    logs = [math.log(table[sentence[:i]][word]) for i, word in enumerate(sentence)]
                    scores[sentence] = sum(logs) / length
    return list(max(scores, key=scores.__getitem__))


GARDEN_PATH = {
    (): [0.0, 0.6, 0.4],
    (1,): [0.5, 0.25, 0.25],
    (2,): [0.9, 0.05, 0.05],
}


def test_greedy_walks_the_garden_path_and_two_beams_do_not() -> None:
    """0.6 * 0.5 = 0.30 for the words that look best, 0.4 * 0.9 = 0.36 for the others."""
    assert greedy_search(Table([GARDEN_PATH]), END, 2).tolist() == [[1, END]]
    assert beam_search(Table([GARDEN_PATH]), END, 2, num_beams=2).tolist() == [[2, END]]


def test_a_longer_sentence_of_surer_words_wins_over_a_short_one() -> None:
    """By the mean: log 0.5 for the short one against (log 0.5 + log 1 + log 1) / 3."""
    table = {(): [0.5, 0.5], (1,): [0.0, 1.0], (1, 1): [1.0, 0.0]}
    assert beam_search(Table([table]), END, 3, num_beams=2).tolist() == [[1, 1, END]]


@pytest.mark.parametrize("seed", range(8))
def test_enough_beams_find_the_best_of_all_sentences(seed: int) -> None:
    table = random_table(seed, vocabulary=4, max_tokens=4)
    found = beam_search(Table([table]), END, 4, num_beams=4**4)[0].tolist()
    assert found == best_sentence(table, 4, 4)


def test_more_beams_are_sometimes_needed() -> None:
    """Else the enumeration above would show nothing that greedy search does not do."""
    tables = [random_table(seed, 4, 4) for seed in range(8)]
    greedy = [greedy_search(Table([table]), END, 4)[0].tolist() for table in tables]
    assert greedy != [best_sentence(table, 4, 4) for table in tables]


def test_one_beam_is_greedy() -> None:
    tables = [random_table(seed, 5, 4) for seed in range(6)]
    assert torch.equal(beam_search(Table(tables), END, 4, 1), greedy_search(Table(tables), END, 4))
    assert torch.equal(search(Table(tables), END, 4, 1), greedy_search(Table(tables), END, 4))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_is_written_as_its_images_are_one_by_one(num_beams: int) -> None:
    tables = [random_table(seed, 5, 4) for seed in range(6)]
    together = search(Table(tables), END, 4, num_beams)
    for table, row in zip(tables, together.tolist(), strict=True):
        alone = search(Table([table]), END, 4, num_beams)[0].tolist()
        assert row == alone + [END] * (len(row) - len(alone))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_it_stops_when_all_have_ended_and_fills_up_with_end(num_beams: int) -> None:
    short = {(): [0.8, 0.2], (1,): [0.9, 0.1], (1, 1): [1.0, 0.0]}
    longer = {(): [0.1, 0.9], (1,): [0.9, 0.1], (1, 1): [1.0, 0.0]}
    found = search(Table([short, longer]), END, 9, num_beams)
    assert found.tolist() == [[END, END], [1, END]]
