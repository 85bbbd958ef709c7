"""The small decoder: generation agrees with teacher forcing."""

import itertools

import pytest
import torch

from megl_core.config import DecoderConfig
from megl_core.data.tokenizer import BEGIN, END, IGNORE
from megl_core.models.decoder import SmallDecoder
from megl_core.models.generation import beam_search, greedy_search
from megl_core.models.grounding import Grounded

IMAGES = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)  # the small decoder reads the cells alone


def decoder_and_cells(vocabulary_size: int = 9) -> tuple[SmallDecoder, Grounded]:
    torch.manual_seed(5)
    config = DecoderConfig(width=16, dropout=0.0)
    decoder = SmallDecoder(config, vocabulary_size, num_channels=5, num_cells=4, beta=1.0).eval()
    torch.nn.init.normal_(decoder.output.weight)  # sentences of several words that differ by image
    decoder.output.bias.data[END] = -2.0
    prior = torch.rand(3, 4)
    return decoder, Grounded(torch.randn(3, 4, 5) * 3, prior / prior.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_attention_of_written_words_is_that_of_teacher_forcing(num_beams: int) -> None:
    decoder, grounded = decoder_and_cells()
    tokens, attention = decoder.generate(grounded, IMAGES, BEGIN, END, 6, num_beams)
    words = decoder(torch.cat([torch.full((3, 1), BEGIN), tokens[:, :-1]], dim=1), grounded, IMAGES)
    assert attention is not None
    assert torch.equal(attention, words.attention)
    assert torch.allclose(attention.sum(dim=2), torch.ones(tokens.shape))


def test_greedy_words_are_the_best_words_of_teacher_forcing() -> None:
    decoder, grounded = decoder_and_cells()
    tokens, _ = decoder.generate(grounded, IMAGES, BEGIN, END, max_tokens=6, num_beams=1)
    read = torch.cat([torch.full((3, 1), BEGIN), tokens[:, :-1]], dim=1)
    best = decoder(read, grounded, IMAGES).logits.argmax(dim=2)
    for row in range(3):
        ends = (tokens[row] == END).nonzero()
        length = int(ends[0]) + 1 if len(ends) else tokens.shape[1]
        assert tokens[row, :length].tolist() == best[row, :length].tolist()
        assert (tokens[row, length:] == END).all()


def test_generation_stops_when_every_sentence_has_ended() -> None:
    decoder, grounded = decoder_and_cells()
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.zero_()
        decoder.output.bias[END] = 1.0
    tokens, _ = decoder.generate(grounded, IMAGES, BEGIN, END, max_tokens=6, num_beams=1)
    assert tokens.tolist() == [[END], [END], [END]]


def test_enough_beams_find_the_best_of_all_sentences() -> None:
    decoder, grounded = decoder_and_cells(vocabulary_size=5)
    found, _ = decoder.generate(grounded, IMAGES, BEGIN, END, max_tokens=3, num_beams=5**3)
    for row in range(3):
        one = Grounded(grounded.cells[row : row + 1], grounded.prior[row : row + 1])
        scores = {}
        for words in itertools.product(range(5), repeat=3):
            sentence = words[: words.index(END) + 1] if END in words else words
            read = torch.tensor([[BEGIN, *sentence[:-1]]])
            steps = decoder(read, one, IMAGES[:1]).logits[0].log_softmax(dim=1)
            scores[sentence] = steps[range(len(sentence)), list(sentence)].mean().item()
        best = max(scores, key=scores.__getitem__)
        assert found[row].tolist() == [*best, *[END] * (found.shape[1] - len(best))]


def test_one_beam_is_greedy_and_a_batch_is_its_images_one_by_one() -> None:
    decoder, grounded = decoder_and_cells()
    opening = torch.full((3, 1), BEGIN)
    greedy = greedy_search(decoder.start(opening, grounded, IMAGES), END, 6)
    assert torch.equal(beam_search(decoder.start(opening, grounded, IMAGES), END, 6, 1), greedy)
    together, _ = decoder.generate(grounded, IMAGES, BEGIN, END, 6, num_beams=3)
    assert len({tuple(row) for row in together.tolist()}) > 1
    for row in range(3):
        one = Grounded(grounded.cells[row : row + 1], grounded.prior[row : row + 1])
        alone, _ = decoder.generate(one, IMAGES[:1], BEGIN, END, 6, num_beams=3)
        assert together[row, : alone.shape[1]].tolist() == alone[0].tolist()


def test_padding_changes_no_word_before_it() -> None:
    decoder, grounded = decoder_and_cells()
    tokens = torch.tensor([[BEGIN, 4, 5, 6]] * 3)
    padded = torch.tensor([[BEGIN, 4, IGNORE, IGNORE]] * 3)
    whole, part = decoder(tokens, grounded, IMAGES), decoder(padded, grounded, IMAGES)
    assert torch.equal(whole.logits[:, :2], part.logits[:, :2])
