from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megl_core.data.tokenizer import BEGIN, END, IGNORE, PAD, UNKNOWN, PretrainedTokenizer, WordTokenizer

TEXTS = ["A red disc, in the middle.", "The blue disc is small."]


def test_a_sentence_survives_the_round_trip() -> None:
    tokenizer = WordTokenizer.learn(TEXTS)
    tokens = tokenizer.encode("a blue DISC, in the middle.", 20)
    assert tokens[0] == BEGIN
    assert tokens[-1] == END
    assert UNKNOWN not in tokens
    assert tokenizer.decode([*tokens, PAD, PAD]) == "A blue disc, in the middle."


def test_words_of_real_captions_stay_whole() -> None:
    text = "He's holding a t-shirt (red) and 3.5 apples, isn't he?"
    tokenizer = WordTokenizer.learn([text])
    assert tokenizer.decode(tokenizer.encode(text, 40)) == text


def test_rare_and_unseen_words_are_unknown() -> None:
    tokenizer = WordTokenizer.learn(TEXTS, min_count=2)
    assert tokenizer.encode("disc zebra red", 20)[2:-1] == [UNKNOWN, UNKNOWN]
    assert len(tokenizer) == 4 + 3  # special tokens; ".", "disc", "the"


def test_the_vocabulary_does_not_depend_on_the_order() -> None:
    one, other = WordTokenizer.learn(TEXTS), WordTokenizer.learn(reversed(TEXTS))
    assert one.encode(TEXTS[0], 20) == other.encode(TEXTS[0], 20)


def test_long_texts_are_cut_and_still_end() -> None:
    tokens = WordTokenizer.learn(TEXTS).encode(TEXTS[0], 3)
    assert len(tokens) == 5
    assert tokens[-1] == END


def test_a_saved_tokenizer_reads_the_same(tmp_path: Path) -> None:
    tokenizer = WordTokenizer.learn(TEXTS)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert WordTokenizer.load(tmp_path / "tokenizer.json").encode(TEXTS[1], 9) == tokenizer.encode(
        TEXTS[1], 9
    )


def byte_pairs(begin: str, end: str) -> PretrainedTokenizer:
    """As in checkpoints: an alphabet of bytes, with `begin` and `end` as tokens 0 and, if another, 1."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=list(dict.fromkeys([begin, end])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PretrainedTokenizer.between(tokenizer.to_str(), begin, end)


@pytest.mark.parametrize(("begin", "end"), [("<s>", "</s>"), ("<|endoftext|>", "<|endoftext|>")])
def test_a_pretrained_tokenizer_begins_ends_and_cuts(begin: str, end: str, tmp_path: Path) -> None:
    tokenizer = byte_pairs(begin, end)
    assert (tokenizer.begin, tokenizer.end) == (0, 0 if begin == end else 1)
    text = "A Blue disc, naïve \u2192 x."
    tokens = tokenizer.encode(text, max_tokens=99)
    assert (tokens[0], tokens[-1]) == (tokenizer.begin, tokenizer.end)
    assert tokens[1:-1] == tokenizer.pieces(text)
    assert tokenizer.encode(text, max_tokens=3) == [*tokens[:4], tokenizer.end]
    assert tokenizer.decode([*tokens[1:], *tokens[1:]]) == text  # up to the first end
    assert tokenizer.decode(tokens[1:4] * 2).startswith(tokenizer.decode(tokens[1:4]))  # none in it
    assert len(tokenizer) == 280
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = PretrainedTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode(text, 99) == tokens
    assert (loaded.begin, loaded.end) == (tokenizer.begin, tokenizer.end)


def test_a_tokenizers_own_truncation_and_padding_are_left_behind() -> None:
    source = Tokenizer.from_str(byte_pairs("<s>", "</s>")._serialised)
    source.enable_truncation(max_length=4)
    source.enable_padding(length=64)
    tokenizer = PretrainedTokenizer.between(source.to_str(), "<s>", "</s>")
    assert tokenizer.encode("A blue disc.", 99) == byte_pairs("<s>", "</s>").encode("A blue disc.", 99)


def test_nothing_that_a_tokenizer_makes_is_padding() -> None:
    for tokenizer in (WordTokenizer.learn(TEXTS), byte_pairs("<s>", "</s>")):
        assert min(tokenizer.encode("an unheard-of word", 9)) >= 0 > IGNORE
