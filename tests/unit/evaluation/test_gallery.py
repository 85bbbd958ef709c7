import numpy as np

from megl_core.evaluation.gallery import choose_cases
from tests.unit.evaluation.test_scores import made


def ids(cases):
    return {kind: [case.id for case in part] for kind, part in cases.items()}


def test_best_are_right_and_sure_worst_are_wrong_and_sure():
    predictions = [
        made(0, 0, 0, confidence=0.9),
        made(1, 0, 0, confidence=0.99),
        made(2, 0, 1, confidence=0.6),
        made(3, 0, 1, confidence=0.95),
        made(4, 0, 0, confidence=0.55),
    ]
    cases = ids(choose_cases(predictions, 2))
    assert cases["best"] == ["s1", "s0"]
    assert cases["worst"] == ["s3", "s2"]
    assert cases["random"] == ["s4"]


def test_where_too_few_are_wrong_the_least_sure_follow():
    predictions = [made(row, 0, 0, confidence=0.9 - row / 20) for row in range(6)]
    cases = ids(choose_cases(predictions, 2))
    assert cases["best"] == ["s0", "s1"]
    assert cases["worst"] == ["s5", "s4"]
    assert sorted(cases["random"]) == ["s2", "s3"]


def test_wrong_cases_are_never_among_the_best():
    predictions = [made(row, 0, int(row > 0), confidence=0.5 + row / 20) for row in range(6)]
    cases = ids(choose_cases(predictions, 2))
    assert cases["best"] == ["s0"]
    assert cases["worst"] == ["s5", "s4"]


def test_no_case_appears_twice_and_the_choice_is_the_same_every_time():
    random = np.random.default_rng(0)
    predictions = [made(row, 0, row % 2, confidence=0.5 + random.random() / 2) for row in range(40)]
    cases = ids(choose_cases(predictions, 6))
    chosen = [one for part in cases.values() for one in part]
    assert [len(part) for part in cases.values()] == [6, 6, 6]
    assert len(set(chosen)) == 18
    assert ids(choose_cases(predictions, 6)) == cases


def test_few_samples_are_shared_out():
    assert ids(choose_cases([made(0, 0, 0), made(1, 0, 1)], 6)) == {
        "best": ["s0"],
        "worst": ["s1"],
        "random": [],
    }
    assert ids(choose_cases([made(0, 0, 0)], 0)) == {"best": [], "worst": [], "random": []}
