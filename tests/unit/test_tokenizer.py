from pathlib import Path

from megl_core.data.tokenizer import BEGIN, END, PAD, UNKNOWN, WordTokenizer

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
