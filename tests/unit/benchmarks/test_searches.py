"""A whole search with trainings so small that their numbers mean nothing."""

from pathlib import Path

import pytest

from benchmarks.cells import ENERGY, run_of
from benchmarks.method import finder
from benchmarks.page import write_page
from benchmarks.results import Results
from benchmarks.searches import (
    FRESH_SEEDS,
    SEED,
    Search,
    Searched,
    SearchResults,
    carry_out,
    searches,
)
from megl_core.code import code_digest
from megl_core.tuning.space import Range
from tests.unit.benchmarks.tiny import CODE, MACHINE, TINY, record

SEARCH = Search("energy", ENERGY, {"objective.visual": Range(low=0.1, high=10.0, log=True)}, TINY, trials=2)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return carry_out(SEARCH, tmp_path_factory.mktemp("search"), code_digest())


def test_a_search_begins_with_the_method_as_it_is_and_takes_the_best(searched: Searched) -> None:
    assert len(searched.trials) == 2
    assert searched.trials[0]["values"] == {"objective.visual": 1.0}
    complete = [trial["score"] for trial in searched.trials if trial["state"] == "complete"]
    assert searched.score == pytest.approx(max(complete), abs=1e-5)


def test_the_best_setting_is_trained_with_seeds_that_no_search_saw(
    searched: Searched, tmp_path: Path
) -> None:
    results = SearchResults(tmp_path / "searches.jsonl", code_digest())
    assert results.cells([SEARCH]) == []
    results.add(searched)
    (cell,) = SearchResults(tmp_path / "searches.jsonl", code_digest()).cells([SEARCH])
    assert SEED not in cell.seeds
    config = run_of(cell, FRESH_SEEDS[0], TINY).config
    assert config.objective.visual == searched.best["objective.visual"]
    assert config.data.scenes.seed == FRESH_SEEDS[0]
    assert config.train.epochs == TINY["train.epochs"]
    assert SearchResults(tmp_path / "searches.jsonl", "other").find(SEARCH) is None
    assert SearchResults(tmp_path / "searches.jsonl", "other", keep_stale=True).find(SEARCH) == searched


def test_every_method_has_the_same_ranges_and_centered_maps() -> None:
    plan = {search.method: search for search in searches()}
    assert set(plan) == {"megl", "energy", "rrr", "haics", "gradia", "res_g", "res_l", "text-only"}
    assert {search.run.config.model.saliency for search in plan.values()} == {"centered"}
    weights = {search.ranges[f"objective.{_weighed(name)}"] for name, search in plan.items()}
    rates = {search.ranges["train.learning_rate"] for search in plan.values()}
    assert len(weights) == len(rates) == 1
    assert {name for name, search in plan.items() if len(search.ranges) > 2} == {"megl"}


def test_the_page_tells_of_the_searches_and_of_who_is_ahead(tmp_path: Path) -> None:
    """GRADIA 97 % against MEGL's 96 % out of distribution, with maps that are as good."""
    plan = {search.method: search for search in searches()}
    found = SearchResults(tmp_path / "searches.jsonl", CODE)
    results = Results(tmp_path / "method.jsonl", CODE)
    for method, accuracy in {"megl": 0.96, "gradia": 0.97}.items():
        search, best = plan[method], {"train.learning_rate": 0.002}
        trials = [{"state": "complete", "score": 1.25}, {"state": "pruned", "score": 1.0}]
        found.add(Searched(method, search.digest, CODE, "d" * 64, best, 1.5, trials, "2026-01-02", MACHINE))
        for seed in FRESH_SEEDS:
            results.add(record(run_of(search.cell(best), seed), accuracy))
    write_page(finder(results), found, tmp_path / "method.md")
    text = (tmp_path / "method.md").read_text()
    assert "| GRADIA | learning_rate 0.002 | 150.0 | 125.0 | 1 complete, 1 pruned |" in text
    assert "| 5 % | GRADIA | 3 | 97.0 ± 0.0 |" in text
    assert "+1.0 (+1.0 to +1.0)" in text
    assert "- OOD: GRADIA above MEGL 96.0 ± 0.0" in text
    assert "energy in mask on OOD images:" not in text
    assert "Not run: energy, RES-L, RES-G, HAICS, text only, RRR." in text


def _weighed(method: str) -> str:
    return "text" if method == "text-only" else "visual"
