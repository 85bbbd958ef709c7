import bert_score
import pytest
import torch

from megl_core.errors import ConfigError
from megl_core.metrics.bertscore import BertScore, greedy_f1
from tests.unit.metrics.test_text import CANDIDATES, REFERENCES
from tests.unit.metrics.tiny import save_bert


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = {word for texts in [CANDIDATES, *REFERENCES] for text in texts for word in text.split()}
    save_bert(folder, [*sorted(words - {"corners"}), "corner", "##s"])
    return str(folder)


def test_greedy_matching_by_hand():
    # candidate tokens e1, e2; reference tokens e1 and the diagonal: cosines [[1, r], [0, r]], r = sqrt(1/2)
    root = 0.5**0.5
    candidate, reference = torch.eye(2), torch.tensor([[1.0, 0.0], [root, root]])
    every = torch.tensor([True, True])
    precision, recall = (1 + root) / 2, (1 + root) / 2
    assert greedy_f1(candidate, every, reference, every) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )
    second = torch.tensor([False, True])
    # e2 alone counts, and may still be matched with all: precision r, recall unchanged
    assert greedy_f1(candidate, second, reference, every) == pytest.approx(
        2 * root * recall / (root + recall)
    )
    assert greedy_f1(candidate, ~every, reference, every) == 0.0


@pytest.mark.parametrize("layer", [1, 2, 3, None])
def test_scores_match_the_public_package(tiny_bert, layer):
    public = bert_score.BERTScorer(model_type=tiny_bert, num_layers=layer or 3, device="cpu")
    expected = public.score(CANDIDATES, REFERENCES)[2]
    assert BertScore(tiny_bert, layer).score(CANDIDATES, REFERENCES) == pytest.approx(
        expected.tolist(), abs=1e-5
    )
    assert expected.std() > 0.01  # the examples differ, so that agreement says something


def test_batches_and_order_change_nothing(tiny_bert):
    scorer = BertScore(tiny_bert)
    whole = scorer.score(CANDIDATES, REFERENCES)
    backwards = scorer.score(CANDIDATES[::-1], REFERENCES[::-1], batch_size=1)
    assert backwards[::-1] == pytest.approx(whole, abs=1e-5)


def test_the_same_sentence_is_perfect_and_an_empty_one_nothing(tiny_bert):
    scorer = BertScore(tiny_bert)
    same, empty, silent, best = scorer.score(
        ["the red ring", "", "the red ring", "the red ring"],
        [["the red ring "], ["the red ring"], [" "], ["a green cross", "the red ring"]],
    )
    assert same == pytest.approx(1.0, abs=1e-6)
    assert (empty, silent) == (0.0, 0.0)
    assert best == same
    assert scorer.score([], []) == []


def test_long_sentences_are_cut(tiny_bert):
    assert BertScore(tiny_bert).score(["red " * 500], [["red " * 400]]) == pytest.approx([1.0], abs=1e-5)


def test_a_wrong_model_or_layer_is_named(tiny_bert, tmp_path):
    with pytest.raises(ConfigError, match=r"bertscore_model cannot be loaded: no such folder"):
        BertScore("bert-base-uncased")
    with pytest.raises(ConfigError, match="bertscore_model cannot be loaded"):
        BertScore(str(tmp_path))
    with pytest.raises(ConfigError, match="bertscore_layer is 4, but the model has 3"):
        BertScore(tiny_bert, layer=4)
