"""The page from a handful of made-up numbers, and what it says of the sets from the sets themselves."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.photo_cells import DATASETS, PhotoCell, photo_cells
from benchmarks.photo_page import write_page
from benchmarks.results import Results
from megl_core.config import SplitConfig
from megl_core.data.contract import Sample, read_annotations
from megl_core.data.split import assign_splits
from megl_core.errors import DataError
from megl_core.metrics.text import common_phrase
from tests.conftest import shared_data
from tests.unit.benchmarks.tiny import CODE, add_photos

Metrics = dict[str, dict[str, float]]


def cell(name: str) -> PhotoCell:
    return next(cell for cell in photo_cells() if cell.name == name)


def scenes(test: float, aligned: float, conflicting: float, energy: float = 0.5) -> Metrics:
    metrics = {
        "accuracy": test,
        "aligned_accuracy": aligned,
        "conflicting_accuracy": conflicting,
        "energy_in_mask": energy,
    }
    return {"test": metrics, "test_new": {"accuracy": test - 0.25}}


def tiles(accuracy: float, macro_f1: float) -> Metrics:
    return {"test": {"accuracy": accuracy, "macro_f1": macro_f1}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    made = Results(tmp_path_factory.mktemp("results") / "photos.jsonl", CODE)
    add_photos(
        made,
        cell("eth80_scenes/megl@100"),
        {0: scenes(0.78, 0.84, 0.77), 1: scenes(0.75, 0.78, 0.74), 2: scenes(0.72, 0.80, 0.70)},
    )
    add_photos(
        made,
        cell("eth80_scenes/energy@100"),
        {0: scenes(0.70, 0.9, 0.66, 0.75), 1: scenes(0.66, 0.9, 0.62, 0.75), 2: scenes(0.64, 0.9, 0.6, 0.75)},
    )
    add_photos(made, cell("eth80_scenes/specification@100"), {0: scenes(0.77, 0.9, 0.75)})
    add_photos(
        made,
        cell("eth80_scenes/without-text@100"),
        {0: scenes(0.79, 0.84, 0.78), 1: scenes(0.76, 0.78, 0.75), 2: scenes(0.73, 0.80, 0.71)},
    )
    add_photos(made, cell("eth80_scenes/without-mix@100"), {0: scenes(0.79, 0.84, 0.78)})
    add_photos(made, cell("eth80_scenes/without-region@100"), {0: scenes(0.78, 0.84, 0.77)})
    add_photos(made, cell("magnetic_tile/megl-defaults@100"), {0: tiles(0.75, 0.25)})
    add_photos(made, cell("magnetic_tile/energy@100"), {0: tiles(0.5, 0.25)})
    for name, accuracy in (("cross-entropy", 0.5), ("text-only", 0.75)):
        found = {"val": {"accuracy": accuracy, "cider": 1.25}}
        add_photos(made, cell(f"ucm_captions/{name}@0"), {0: found, 1: found})
    return Results(made.path, CODE)


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "photos.md"
    write_page(results, path)
    return path


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text()


def test_bars_are_checked_with_and_without_the_seed_of_the_trials(text: str) -> None:
    """Test: 78, 75, 72, then 75 and 72. Gaps: 7, 4 and 10, then 4 and 10."""
    start = "| MEGL, 100 % masks: "
    assert start + "test at least 75 % | 75.0 ± 3.0 (n 3) | yes | 73.5 ± 2.1 (n 2) | **no** |" in text
    assert start + "gap at most 5 points | 7.0 ± 3.0 (n 3) | **no** | 7.0 ± 4.2 (n 2) | **no** |" in text
    assert "| MEGL, 10 % masks: gap at most 5 points | - | not known | - | not known |" in text


def test_the_table_of_scenes(text: str) -> None:
    """Energy's gaps are 24, 28 and 30; it writes nothing."""
    row = next(line for line in text.splitlines() if line.startswith("| 100 % | energy | 3 | 66.7"))
    assert row.split(" | ")[3:9] == [
        "66.7 ± 3.1",
        "41.7 ± 3.1",
        "90.0 ± 0.0",
        "62.7 ± 3.1",
        "27.3 ± 3.1",
        "-",
    ]
    assert row.endswith(" | 75.0 ± 0.0 | - | - | - |")


def test_differences_are_taken_in_pairs(text: str) -> None:
    """Energy less MEGL on test: -8, -9, -8; the half interval is 4.303 * 0.577 / sqrt(3) = 1.43."""
    assert "| energy, 100 % masks | -8.3 (-9.8 to -6.9) | -8.3 (-9.8 to -6.9) |" in text
    assert "| specification, 100 % masks | -1.0 (one seed) |" in text


def test_who_is_ahead_of_megl_is_said(text: str) -> None:
    assert "- Clearly above MEGL on test: without text.\n" in text
    assert "- Above MEGL on test by the mean alone: without mix.\n" in text
    assert "- Level with MEGL on test or below it, by the mean alone: specification, 100 % masks.\n" in text
    assert "- Clearly below MEGL on test: energy, 100 % masks.\n" in text


def test_a_change_without_any_effect_is_said(text: str) -> None:
    assert "- The very numbers of MEGL, so that the change has no effect here: without region.\n" in text


def test_where_energy_alone_beats_megl_is_said(text: str) -> None:
    """In aligned accuracy by 6, 12 and 10 points, and in the mask by 25."""
    assert (
        "Energy alone has a better mean than MEGL in: aligned +9.3 (+1.7 to +16.9), "
        "in mask +25.0 (+25.0 to +25.0)." in text
    )
    assert "Energy alone has a better mean than MEGL in none of: test, macro F1." in text


def test_the_other_sets(text: str) -> None:
    assert "| 100 % | MEGL, defaults | 1 | 75.0 | 25.0 | - | - | - |" in text
    assert "| 0 % | text only | 2 | 75.0 ± 0.0 | - | - | - | 1.2 ± 0.0 |" in text
    assert "Captions less cross-entropy, in points of accuracy: +25.0 (+25.0 to +25.0)." in text


def test_what_is_missing_and_where_the_numbers_come_from_is_said(text: str) -> None:
    assert "- eth80_scenes/specification@100: 1 of 3 seeds\n" in text
    assert "- eth80_scenes/megl@100:" not in text
    assert "- 18 runs, 0.2 core hours, one thread each, finished 2026-01-02" in text
    assert "- command: `make benchmark-photos DATA=FOLDER`" in text
    assert "| `train.epochs` | 20 |" in text


def test_the_picture_is_there_and_small(page: Path, text: str) -> None:
    picture = page.with_name("photos-scenes.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 100_000
    assert "](photos-scenes.png)" in text


def test_one_set_alone_makes_a_page_without_the_others(tmp_path: Path) -> None:
    results = Results(tmp_path / "photos.jsonl", CODE)
    add_photos(results, cell("eth80_scenes/without-mix@100"), {0: {"test": {"accuracy": 0.5}}})
    write_page(results, tmp_path / "photos.md")
    text = (tmp_path / "photos.md").read_text()
    assert "| 100 % | without mix | 1 | 50.0 |" in text
    assert "## Small defects" not in text
    assert not (tmp_path / "photos-scenes.png").exists()


def test_without_results_a_page_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "photos.md"
    page.write_text("earlier")
    with pytest.raises(DataError, match="no results of this code"):
        write_page(Results(tmp_path / "photos.jsonl", CODE), page)
    assert page.read_text() == "earlier"


# --- what the page says of the sets ----------------------------------------------------------


def samples(name: str) -> list[Sample]:
    rows = [row for _, row in read_annotations(shared_data(name)) if isinstance(row, Sample)]
    fields = ("id", "label", "group", "split")
    ids, labels, groups, splits = ([getattr(row, field) for row in rows] for field in fields)
    assigned = assign_splits(ids, labels, groups, splits, SplitConfig())
    return [
        Sample(row.id, row.image, row.label, row.mask, row.explanations, split, row.group, row.extra)
        for row, split in zip(rows, assigned, strict=True)
    ]


def test_the_scenes_are_as_described(text: str) -> None:
    rows = samples("eth80_scenes")
    assert f"{len(rows)} photographs of eight classes" in text
    assert all(row.mask and len(row.explanations) == 2 for row in rows)
    (places,) = (dataset.overrides["evaluation.slot_phrases"]["place"] for dataset in DATASETS[:1])
    assert all(common_phrase(row.explanations, places) for row in rows)
    pairs = Counter((row.label, row.extra["scene"]) for row in rows if row.split == "train")
    aligned = {label: scene for (label, scene), _ in reversed(pairs.most_common())}
    test = [row for row in rows if row.split == "test"]
    agreeing = sum(aligned[row.label] == row.extra["scene"] for row in test)
    assert f"({agreeing} of {len(test)})" in text
    groups = Counter((row.label, row.extra["scene"]) for row in test)
    assert f"({sum(n >= 10 for n in groups.values())} of {len(groups)})" in text


def test_the_tiles_are_as_described(text: str) -> None:
    rows = samples("magnetic_tile")
    masked = [row for row in rows if row.mask]
    assert f"{len(rows)} grey photographs" in text
    assert f"masks on {len(masked)}." in text
    assert f"{100 * sum(row.label == 'free' for row in rows) / len(rows):.0f} % without a defect" in text
    assert sum(row.extra["area_frac"] < 1 / 64 for row in masked) > len(masked) / 2
    test = Counter(row.label for row in rows if row.split == "test")
    label, majority = test.most_common(1)[0]
    share = majority / test.total()
    macro_f1 = 2 * share / (share + 1) / len(test)  # precision is the share, recall is 1
    assert (
        f"Always answering `{label}` is right for {100 * share:.1f} % of the test images, "
        f"with a macro F1 of {100 * macro_f1:.1f} %." in text
    )


def test_the_captions_are_as_described(text: str) -> None:
    rows = samples("ucm_captions")
    assert f"{len(rows)} aerial photographs of {len({row.label for row in rows})} classes" in text
    assert {len(row.explanations) for row in rows} == {5}
    assert {row.mask for row in rows} == {None}
    known = {caption for row in rows if row.split == "train" for caption in row.explanations}
    val = [row for row in rows if row.split == "val"]
    captions = [caption for row in val for caption in row.explanations]
    repeated = sum(caption in known for caption in captions) / len(captions)
    words = text.replace("\n", " ")
    assert f"the {len(val)} validation images" in words
    assert f"{100 * repeated:.0f} % stand word for word among the training captions" in words
