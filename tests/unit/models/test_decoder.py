"""The small decoder: generation agrees with teacher forcing."""

import torch

from megl_core.config import DecoderConfig
from megl_core.data.tokenizer import BEGIN, END
from megl_core.models.decoder import SmallDecoder
from megl_core.models.grounding import Grounded


def decoder_and_cells() -> tuple[SmallDecoder, Grounded]:
    torch.manual_seed(5)
    decoder = SmallDecoder(DecoderConfig(width=16, dropout=0.0), vocabulary_size=9, beta=1.0).eval()
    prior = torch.rand(3, 4)
    return decoder, Grounded(torch.rand(3, 4, 16), prior / prior.sum(dim=1, keepdim=True))


def test_greedy_words_are_the_best_words_of_teacher_forcing() -> None:
    decoder, grounded = decoder_and_cells()
    tokens, attention = decoder.generate(grounded, BEGIN, END, max_tokens=6)
    read = torch.cat([torch.full((3, 1), BEGIN), tokens[:, :-1]], dim=1)
    words = decoder(read, grounded)
    best = words.logits.argmax(dim=2)
    for row in range(3):
        ends = (tokens[row] == END).nonzero()
        length = int(ends[0]) + 1 if len(ends) else tokens.shape[1]
        assert tokens[row, :length].tolist() == best[row, :length].tolist()
        assert (tokens[row, length:] == END).all()
        assert torch.allclose(attention[row, :length], words.attention[row, :length], atol=1e-6)


def test_generation_stops_when_every_sentence_has_ended() -> None:
    decoder, grounded = decoder_and_cells()
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.zero_()
        decoder.output.bias[END] = 1.0
    tokens, _ = decoder.generate(grounded, BEGIN, END, max_tokens=6)
    assert tokens.tolist() == [[END], [END], [END]]
