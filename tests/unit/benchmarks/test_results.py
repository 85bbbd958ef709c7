import shutil
from pathlib import Path

import pytest

from benchmarks.cells import Cell, run_of
from benchmarks.findings import Findings
from benchmarks.method import RESULTS, SEARCHES, finder
from benchmarks.results import Results
from benchmarks.searches import SearchResults, searches
from megl_core.errors import DataError
from tests.unit.benchmarks.tiny import CODE, record

RUN = run_of(Cell("headline", "megl", 5, {}, (10, 11)), 10)
OTHER_SEED = run_of(RUN.cell, 11)


def test_a_result_is_found_by_settings_seed_and_code(tmp_path: Path) -> None:
    path = tmp_path / "made" / "results.jsonl"
    Results(path, CODE).add(record(RUN, 0.75))
    found = Results(path, CODE).find(RUN)
    assert found == record(RUN, 0.75)
    assert found is not None
    assert found.get("ood", "accuracy") == 0.75
    assert found.get("ood", "slot_accuracy") is None
    assert Results(path, CODE).find(OTHER_SEED) is None
    changed = run_of(Cell("headline", "megl", 5, {"objective.text": 0.5}, (10,)), 10)
    assert Results(path, CODE).find(changed) is None


def test_results_of_other_code_count_only_if_asked_for_and_only_where_there_are_no_newer_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.jsonl"
    Results(path, "old").add(record(RUN, 0.25, code="old"))
    assert Results(path, CODE).find(RUN) is None
    stale = Results(path, CODE, keep_stale=True).find(RUN)
    assert stale is not None
    assert stale.code == "old"
    Results(path, CODE).add(record(RUN, 0.75))
    Results(path, "old").add(record(RUN, 0.5, code="old"))
    newest = Results(path, CODE, keep_stale=True).find(RUN)
    assert newest is not None
    assert newest.get("ood", "accuracy") == 0.75


def test_every_result_in_the_repository_is_found(tmp_path: Path) -> None:
    """A change of the configuration that gives the same runs other digests would lose them all."""
    path = tmp_path / "method.jsonl"
    shutil.copyfile(RESULTS, path)  # reading mends a torn line
    results = Results(path, CODE, keep_stale=True)
    shutil.copyfile(SEARCHES, tmp_path / "searches.jsonl")
    tuned = SearchResults(tmp_path / "searches.jsonl", CODE, keep_stale=True).cells(searches())
    assert len(tuned) == len((tmp_path / "searches.jsonl").read_text().splitlines()) > 0
    assert len(Findings(finder(results), tuned).all_records()) == len(results) > 0


def test_the_line_that_a_killed_process_left_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = Results(path, CODE)
    results.add(record(RUN, 0.75))
    results.add(record(OTHER_SEED, 0.5))
    path.write_bytes(path.read_bytes()[:-20])
    again = Results(path, CODE)
    assert again.find(RUN) is not None
    assert again.find(OTHER_SEED) is None
    again.add(record(OTHER_SEED, 0.5))
    assert Results(path, CODE).find(OTHER_SEED) == record(OTHER_SEED, 0.5)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"cell": "headline/megl@5"}\n')
    with pytest.raises(DataError, match="not a result"):
        Results(path, CODE)
