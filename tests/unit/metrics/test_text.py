import math

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from megl_core.metrics import text

CANDIDATES = [
    "it is round because of the small red ring in the top left",
    "the blue square has sharp corners",
    "a green cross in the middle",
    "a red thing",
]
REFERENCES = [
    ["it is round because the small red ring in the top left has no corners", "the red ring has no corners"],
    ["the blue square has four sharp corners and lies below", "it is boxy because of the blue square"],
    [
        "a large green cross in the centre",
        "the green cross has two bars",
        "it is crossed because of two bars",
    ],
    ["a small blue disc at the top"],
]


def test_tokenise():
    assert text.tokenise("A DARK-blue disc, 3 cm wide!") == ["a", "dark", "blue", "disc", "3", "cm", "wide"]
    assert text.tokenise(" ... ") == []


def test_bleu_clips_repeated_words():
    # Papineni's example: 7 times "the", which the references hold twice at most
    scores = text.bleu(
        ["the the the the the the the"],
        [["The cat is on the mat.", "There is a cat on the mat."]],
    )
    assert scores == pytest.approx([2 / 7, 0.0, 0.0, 0.0])


def test_bleu_by_hand_with_brevity_penalty():
    # words 3/3, pairs 2/2; 3 words against 4: exp(1 - 4/3)
    scores = text.bleu(["a red ring"], [["a red ring here"]], max_order=2)
    assert scores == pytest.approx([math.exp(-1 / 3)] * 2)


def test_bleu_takes_the_closest_reference_length_and_no_penalty_for_length():
    assert text.bleu(["a b c d"], [["a b c d e", "a b c", "x"]], max_order=1) == pytest.approx([1.0])


def test_bleu_pools_counts_over_the_corpus():
    # 1 of 1 and 1 of 3 words: 2/4, not the mean 2/3
    assert text.bleu(["a", "b x y"], [["a"], ["b c d"]], max_order=1) == pytest.approx([0.5])


def test_bleu_of_silence_is_zero():
    assert text.bleu([""], [["a red ring"]]) == [0.0] * 4
    assert text.bleu([], []) == [0.0] * 4


def test_rouge_l_by_hand():
    # longest common subsequence "the ring red": P 3/3, R 3/4
    weight = 1.2**2
    expected = (1 + weight) * 1.0 * 0.75 / (0.75 + weight * 1.0)
    assert text.rouge_l(["the ring red"], [["the ring is red"]]) == pytest.approx(expected)
    assert text.rouge_l(["red the"], [["the red"]]) == pytest.approx(0.5)
    assert text.rouge_l(["nothing"], [["the red"]]) == 0.0


def test_cider_by_hand():
    # 2 documents without a common word: every n-gram weighs log 2. Candidate 1 equals its reference:
    # orders 1 and 2 have cosine 1, orders 3 and 4 are empty -> 10 * 2/4; candidate 2 shares nothing.
    assert text.cider(["red ring", "x y"], [["red ring"], ["blue square"]]) == pytest.approx(2.5)


def test_cider_needs_more_than_one_document():
    assert text.cider(["red ring"], [["red ring"]]) == 0.0
    assert math.isnan(text.cider([], []))


def test_scores_match_the_public_caption_evaluation():
    """The expected values come from pycocoevalcap 1.2 on the same sentences."""
    assert text.bleu(CANDIDATES, REFERENCES) == pytest.approx(
        [0.644123394, 0.585546389, 0.536697916, 0.490929239]
    )
    assert text.rouge_l(CANDIDATES, REFERENCES) == pytest.approx(0.6272851608898351)
    assert text.cider(CANDIDATES, REFERENCES) == pytest.approx(2.287273719462071)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_match_the_public_code_on_drawn_sentences(seed):
    """Words from a list of twelve, so that longer phrases match too; the public code is fed our tokens."""
    random = np.random.default_rng(seed)
    words = ["a", "the", "red", "blue", "small", "ring", "square", "in", "of", "left", "upper", "and"]

    def sentence():
        return " ".join(random.choice(words, random.integers(1, 15)))

    candidates = [sentence() for _ in range(20)]
    references = [[sentence() for _ in range(random.integers(1, 4))] for _ in candidates]
    for place in range(0, 20, 3):
        candidates[place] = references[place][0]
    theirs = (dict(enumerate(references)), {place: [text] for place, text in enumerate(candidates)})
    assert text.bleu(candidates, references) == pytest.approx(
        Bleu(4).compute_score(*theirs, verbose=0)[0], abs=1e-6
    )
    assert text.rouge_l(candidates, references) == pytest.approx(Rouge().compute_score(*theirs)[0])
    assert text.cider(candidates, references) == pytest.approx(Cider().compute_score(*theirs)[0])


def test_scoring_twice_gives_the_same():
    """Sentences are remembered between calls, and nothing that is remembered may change."""
    first = (text.bleu(CANDIDATES, REFERENCES), text.cider(CANDIDATES, REFERENCES))
    assert (text.bleu(CANDIDATES, REFERENCES), text.cider(CANDIDATES, REFERENCES)) == first


def test_a_rationale_that_equals_a_reference_is_perfect():
    sentences = [references[0] for references in REFERENCES]
    assert text.bleu(sentences, REFERENCES) == pytest.approx([1.0] * 4)
    assert text.rouge_l(sentences, REFERENCES) == pytest.approx(1.0)
    assert text.cider(sentences, [[sentence] for sentence in sentences]) == pytest.approx(10.0)


def test_the_common_phrase_is_what_all_texts_say():
    places = ["in the centre", "in the upper centre", "on the left"]
    assert text.common_phrase(["A cow in the centre.", "In the CENTRE, a cow."], places) == "in the centre"
    assert text.common_phrase(["a cow in the upper centre"], places) == "in the upper centre"
    assert text.common_phrase(["a cow in the centre", "a cow"], places) is None
    assert text.common_phrase(["in the centre or on the left"], places) is None
    assert text.common_phrase([], places) is None


def test_slot_accuracy_by_name():
    texts = ["A red ring in the upper left.", "A reddish disc."]
    slots = [{"colour": "red", "place": "upper left"}, {"colour": "red", "shape": "Disc"}]
    assert text.slot_accuracy(texts, slots) == {"colour": 0.5, "place": 1.0, "shape": 1.0}


def test_a_slot_of_two_words_must_be_said_in_one_piece():
    assert text.slot_accuracy(["left of the upper edge"], [{"place": "upper left"}]) == {"place": 0.0}
