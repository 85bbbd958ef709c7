"""The page from a results file with a handful of made-up numbers."""

from pathlib import Path

import pytest

from benchmarks.cells import CROSS_ENTROPY, ENERGY, TEXT_ONLY, Cell, grid
from benchmarks.findings import Findings
from benchmarks.method import finder
from benchmarks.page import write_page
from benchmarks.results import Results
from benchmarks.searches import SearchResults
from megl_core.errors import DataError
from tests.unit.benchmarks.tiny import CODE, add

MEGL_5 = Cell("headline", "megl", 5, {}, (10, 11, 12))
WITHOUT_TEXT = Cell("ablation", "without-text", 5, {"objective.text": 0.0}, (10, 11, 12))
WITHOUT_MIX = Cell("ablation", "without-mix", 5, {"train.mix_backgrounds": 0.0}, (10, 11, 12))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """MEGL 96, 97 and 98; without text 96, 96 and 99 (a draw); without mixing each 10 points lower."""
    path = tmp_path_factory.mktemp("results") / "method.jsonl"
    made = Results(path, CODE)
    add(made, MEGL_5, {10: 0.96, 11: 0.97, 12: 0.98}, energy=0.75)
    add(made, WITHOUT_TEXT, {10: 0.96, 11: 0.96, 12: 0.99})
    add(made, WITHOUT_MIX, {10: 0.86, 11: 0.87, 12: 0.88})
    add(made, Cell("headline", "megl", 100, {}, (10,)), {10: 0.9})
    add(made, Cell("headline", "megl", 10, {}, (10, 11)), {10: 0.99, 11: 0.95})
    add(made, Cell("headline", "cross-entropy", 0, CROSS_ENTROPY, (10, 11)), {10: 0.45, 11: 0.47})
    add(made, Cell("headline", "text-only", 0, TEXT_ONLY, (10, 11)), {10: 0.3, 11: 0.31})
    add(made, Cell("headline", "energy", 5, ENERGY, (10, 11)), {10: 0.9, 11: 0.91}, energy=0.5)
    weak, strong = (
        next(cell for cell in grid(full=True) if cell.name == f"grid/haics@100/plain-{weight}")
        for weight in ("1", "10")
    )
    add(made, weak, {10: 0.95}, val=(0.5, 0.5), energy=0.25)
    add(made, strong, {10: 0.92}, val=(0.9, 0.9), energy=0.875)
    return Results(path, CODE)


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "method.md"
    write_page(finder(results), SearchResults(path.with_name("searches.jsonl"), CODE), path)
    return path


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text()


def test_bars_are_checked_with_mean_and_spread(results: Results) -> None:
    holds = {bar.text.partition(":")[0]: bar.holds for bar in Findings(finder(results)).bars()}
    assert holds == {
        "MEGL, 10 % masks": False,  # the mean of 97 is enough, a spread of 2.8 is too much
        "MEGL, 5 % masks": True,
        "MEGL, 2 % masks": None,
        "cross-entropy": False,
        "text only, no mask": False,  # 30.5, but two seeds say 24.1 to 36.9
        "text + lexicon, no mask": None,
    }


def test_the_bars_on_the_page(text: str) -> None:
    assert "| MEGL, 5 % masks: OOD at least 95 %, spread at most 2 | 97.0 ± 1.0 (n 3) | yes |" in text
    assert "| cross-entropy: OOD below 40 % | 46.0 ± 1.4 (n 2) | **no** |" in text
    assert "| MEGL, 2 % masks: OOD at least 85 % | - | not known |" in text


def test_the_table_pairs_seeds(text: str) -> None:
    """Energy less MEGL: -6 on both seeds; text only less cross-entropy: -15 and -16."""
    row = next(line for line in text.splitlines() if line.startswith("| 5 % | energy | 2 "))
    assert "| 90.5 ± 0.7 |" in row
    assert "| -6.0 (-6.0 to -6.0) |" in row
    row = next(line for line in text.splitlines() if line.startswith("| 0 % | text only | 2 "))
    assert "-15.5 (-21.9 to -9.1)" in row
    assert "- 5 % masks: energy worse than MEGL." in text


def test_a_part_that_does_not_pay_is_named(text: str) -> None:
    """Without text: 0, -1, +1, an interval around zero."""
    assert "| without text | 97.0 ± 1.7 | +0.0 (-2.5 to +2.5) | not shown |" in text
    assert "| without mix | 87.0 ± 1.0 | -10.0 (-10.0 to -10.0) | pays |" in text
    assert "- Clearly worse than MEGL: without mix." in text
    assert (
        "- Not told apart from MEGL (the interval includes zero, or there is one seed): without text." in text
    )


def test_a_baseline_that_wins_is_named(text: str) -> None:
    assert "| 100 % | HAICS | 10 | plain | 2 of 12 | 90.0 | 90.0 | 92.0 | 95.0 |" in text
    assert "- HAICS with 100 % masks has a higher mean than MEGL, by points: +2.0 (one seed);" in text
    assert "MEGL was not tuned" in text


def test_maps_that_mislead_are_named(text: str) -> None:
    """Of cross-entropy and text only, all with energy 50 %."""
    assert "Of the 4 runs below 60 % out of distribution" in text
    assert "has 50.0 % of their energy in the mask" in text


def test_what_is_missing_is_said(text: str) -> None:
    assert "- ablation: 6 of 72 runs; incomplete: " in text
    assert "without visual (5, 2 %)" in text
    assert "without text (2 %)" in text


def test_where_the_numbers_come_from(text: str) -> None:
    assert "- 20 runs, 0.2 core hours, one thread each, finished 2026-01-02" in text  # 20 * 36 s
    assert "abacus, 2 cores, numpy 2.0.0, python 3.11.0, torch 2.9.0" in text
    words = text.replace("\n", " ")
    assert "settled while looking at OOD numbers of dataset seeds 0 and 1" in words
    assert "runs other seeds, 10 to 14" in words


def test_the_protocol_is_that_of_the_cells(text: str) -> None:
    assert "| `train.epochs` | 12 |" in text
    assert "| MEGL | nothing |" in text
    row = next(line for line in text.splitlines() if line.startswith("| text only | `"))
    assert "`objective.visual` 0.0, `objective.consistency` 0.0, `objective.region` 0.0" in row


def test_the_pictures_are_there_and_small(page: Path, text: str) -> None:
    for name in ("masks", "ablations", "alignment"):
        picture = page.with_name(f"method-{name}.png")
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert picture.stat().st_size < 100_000
        assert f"({picture.name})" in text


def test_without_results_a_page_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "method.md"
    page.write_text("earlier")
    with pytest.raises(DataError, match="no results of this code"):
        write_page(lambda cell, seed: None, SearchResults(page.with_name("searches.jsonl"), CODE), page)
    assert page.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [page]
