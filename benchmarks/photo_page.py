"""docs/benchmarks/photos.md and its picture, made of the results that exist.

Every sentence about a result is computed from the numbers; nothing here knows what came out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.markdown import image, interval, lines, paragraphs, provenance, spread, table
from benchmarks.page import named
from benchmarks.photo_cells import DATASETS, METHODS, PHOTOS, PhotoCell, photo_cells
from benchmarks.results import Record, Results
from benchmarks.stats import Interval, Summary, paired_difference, summarise
from megl_core.errors import DataError
from megl_core.files import write_text

Value = Callable[[Record], float | None]
Records = dict[int, Record]
"""Results by seed."""

_SCENES, _TILES, _CAPTIONS = (dataset.name for dataset in DATASETS)
_BAR, _GAP = 75.0, 5.0

_OPENING = """\
# Benchmark on photographs

<!-- Written by benchmarks/photos.py; changes go there. -->

Three sets of real photographs, of different kinds of supervision. They are not part of this repository, for
their licences do not allow it; the command below runs on any folder that holds them. All numbers are per
cent, mean ± sample standard deviation over seeds; a seed decides the initial weights, the batches and which
training images keep their mask. Differences are taken in pairs, with 95 % intervals by Student's t: with
two or three seeds these are wide.

**What is fair here and what is not.** Network, schedule and settings of MEGL were found in trials on
`eth80_scenes` with seed 0 that looked at *test*; seeds 1 and 2 are fresh weights and fresh choices of
masks, but the same images. The rivals have the same network, schedule and quota; the weights of their terms
were not searched. All networks are trained from scratch: what a pretrained encoder would make of these
sets, nobody could try here."""

_ABOUT = {
    _SCENES: """\
3280 photographs of eight classes of objects, each pasted on an aerial scene. In training the scene tells
the class 19 times in 20; in *test* it tells nothing, and *new* holds objects that were never seen.
*Aligned* are the test images whose scene is the one that went with their class (72 of 512), *conflict* all
others. Every image has a mask; its two rationales are made from templates, and each names the place.""",
    _TILES: """\
1344 grey photographs of tile surfaces, 71 % without a defect, five kinds of defects, masks on 388. Defects
are small: more than half of the masks cover less than a cell of an 8 x 8 map, so this network has maps of
16 x 16. Tiles that were shot several times never stand on both sides of the split.""",
    _CAPTIONS: """\
1890 aerial photographs of 21 classes with five human captions each and not one mask. Numbers are of the
validation images, for the set declares no test split.""",
}


def write_page(results: Results, page: Path) -> None:
    """Write the page and its picture.

    Raises:
        DataError: there is no result.
    """
    found = {cell.name: records_of(results, cell) for cell in photo_cells()}
    records = [record for records in found.values() for record in records.values()]
    if not records:
        raise DataError("no results to make a page of", where=str(page), fix="run the benchmark")
    page.parent.mkdir(parents=True, exist_ok=True)
    picture = page.with_name(f"{page.stem}-scenes.png")
    sections = [
        _OPENING,
        provenance(records, "python -m benchmarks.photos --data FOLDER", "photos.jsonl"),
        _bars(found),
        _scenes(found, picture),
        _tiles(found),
        _captions(found),
        _missing(found),
        _protocol(),
    ]
    write_text(page, "\n\n".join(section for section in sections if section) + "\n")


def records_of(results: Results, cell: PhotoCell) -> Records:
    """The results of a cell; the folder of the set is no part of a run's identity."""
    runs = {seed: cell.run(seed, Path(cell.dataset)) for seed in cell.seeds}
    return {seed: record for seed, run in runs.items() if (record := results.find(run)) is not None}


# --- sections --------------------------------------------------------------------------------


def _bars(found: dict[str, Records]) -> str:
    rows = []
    for share in (100, 10):
        records = found[f"{_SCENES}/megl@{share}"]
        accuracy, gap = summary(records, at("test", "accuracy")), summary(records, _gap)
        rows += [
            [f"MEGL, {share} % masks: test at least {_BAR:.0f} %", *_judged(accuracy, _BAR, at_least=True)],
            [f"MEGL, {share} % masks: gap at most {_GAP:.0f} points", *_judged(gap, _GAP, at_least=False)],
        ]
    return "## The bars\n\n" + table(["bar, on eth80_scenes", "measured", "met"], rows)


def _judged(found: Summary | None, bound: float, *, at_least: bool) -> tuple[str, str]:
    if found is None:
        return "-", "not known"
    met = found.mean >= bound if at_least else found.mean <= bound
    return f"{spread(found)} (n {found.n})", "yes" if met else "**no**"


def _scenes(found: dict[str, Records], picture: Path) -> str:
    cells = _measured(_SCENES, found)
    if not cells:
        return ""
    _draw(cells, found, picture)
    columns = {
        "test": at("test", "accuracy"),
        "new": at("test_new", "accuracy"),
        "aligned": at("test", "aligned_accuracy"),
        "conflict": at("test", "conflicting_accuracy"),
        "gap": _gap,
        "worst group": at("test", "worst_group_accuracy"),
        "in mask": at("test", "energy_in_mask"),
        "pointing": at("test", "pointing_game"),
        "place": at("test", "slot_accuracy"),
        "BLEU-4": at("test", "bleu4"),
    }
    parts = [
        f"## Objects on scenes that mislead (`{_SCENES}`)",
        _ABOUT[_SCENES],
        image(picture, "Accuracy where scene and class agree, and where they conflict"),
        _metrics_table(cells, found, columns),
    ]
    for share in (100, 10):
        own = found[f"{_SCENES}/megl@{share}"]
        others = [cell for cell in cells if cell.share in (share, 0) and cell.method != "megl"]
        if own and others:
            parts += [
                f"### Less MEGL with {share} % masks",
                _difference_table(others, found, own),
                _difference_words(others, found, own),
            ]
    return paragraphs(*parts)


def _tiles(found: dict[str, Records]) -> str:
    cells = _measured(_TILES, found)
    if not cells:
        return ""
    columns = {
        "test": at("test", "accuracy"),
        "macro F1": at("test", "macro_f1"),
        "in mask": at("test", "energy_in_mask"),
        "pointing": at("test", "pointing_game"),
        "BLEU-4": at("test", "bleu4"),
    }
    return paragraphs(
        f"## Small defects (`{_TILES}`)",
        _ABOUT[_TILES],
        _metrics_table(cells, found, columns),
        "Always answering `free` is right for 68.5 % of the test images, with a macro F1 of 13.6 %.",
    )


def _captions(found: dict[str, Records]) -> str:
    cells = _measured(_CAPTIONS, found)
    if not cells:
        return ""
    columns = {
        "accuracy": at("val", "accuracy"),
        "macro F1": at("val", "macro_f1"),
        "BLEU-4": at("val", "bleu4"),
        "ROUGE-L": at("val", "rouge_l"),
        "CIDEr-D, of 10": lambda record: record.get("val", "cider"),
    }
    words = ""
    plain, told = found[f"{_CAPTIONS}/cross-entropy@0"], found[f"{_CAPTIONS}/text-only@0"]
    if (difference := paired(told, plain, at("val", "accuracy"))) is not None:
        words = f"Captions less cross-entropy, in points of accuracy: {interval(difference)}."
    return paragraphs(
        f"## Captions and no masks (`{_CAPTIONS}`)",
        _ABOUT[_CAPTIONS],
        _metrics_table(cells, found, columns),
        words,
    )


def _missing(found: dict[str, Records]) -> str:
    lacking = [
        f"- {cell.name}: {len(found[cell.name])} of {len(cell.seeds)} seeds"
        for cell in photo_cells()
        if len(found[cell.name]) < len(cell.seeds)
    ]
    return paragraphs("## What is missing", lines(*lacking)) if lacking else ""


def _protocol() -> str:
    settings = [[f"`{name}`", str(value)] for name, value in PHOTOS.items()]
    changes = [
        [named(method), ", ".join(f"`{name}` {value}" for name, value in overrides.items()) or "nothing"]
        for method, overrides in METHODS.items()
    ]
    sets = [
        [dataset.name, ", ".join(f"`{name}`" for name in dataset.overrides) or "nothing"]
        for dataset in DATASETS
    ]
    return paragraphs(
        "## Protocol",
        "All else are the library's defaults.",
        table(["setting", "value"], settings),
        "What the methods change in them:",
        table(["method", "changes"], changes),
        "What the sets change ([photo_cells.py](../../benchmarks/photo_cells.py) has the values):",
        table(["set", "changes"], sets),
    )


# --- numbers ---------------------------------------------------------------------------------


def at(split: str, metric: str) -> Value:
    """A metric in per cent."""

    def value(record: Record) -> float | None:
        found = record.get(split, metric)
        return None if found is None else 100 * found

    return value


def _gap(record: Record) -> float | None:
    """Points by which the test images whose scene agrees with their class are easier than the others."""
    aligned, conflict = record.get("test", "aligned_accuracy"), record.get("test", "conflicting_accuracy")
    return None if aligned is None or conflict is None else 100 * (aligned - conflict)


def summary(records: Records, value: Value) -> Summary | None:
    values = [found for record in records.values() if (found := value(record)) is not None]
    return summarise(values) if values else None


def paired(records: Records, reference: Records, value: Value) -> Interval | None:
    """`records - reference` over the seeds that both have."""
    ours, theirs = (
        {seed: found for seed, record in side.items() if (found := value(record)) is not None}
        for side in (records, reference)
    )
    return paired_difference(ours, theirs)


# --- tables, words and the picture -----------------------------------------------------------


def _measured(dataset: str, found: dict[str, Records]) -> list[PhotoCell]:
    cells = [cell for cell in photo_cells() if cell.dataset == dataset and found[cell.name]]
    return sorted(cells, key=lambda cell: (cell.group != "headline", -cell.share))


def _metrics_table(cells: Sequence[PhotoCell], found: dict[str, Records], columns: dict[str, Value]) -> str:
    rows = [
        [
            f"{cell.share} %",
            named(cell.method),
            str(len(found[cell.name])),
            *(spread(summary(found[cell.name], value)) for value in columns.values()),
        ]
        for cell in cells
    ]
    return table(["masks", "method", "seeds", *columns], rows)


def _difference_table(others: Sequence[PhotoCell], found: dict[str, Records], own: Records) -> str:
    columns = {"test": at("test", "accuracy"), "new": at("test_new", "accuracy"), "gap": _gap}
    rows = [
        [
            named(cell.method) + (f", {cell.share} % masks" if cell.group == "headline" else ""),
            *(interval(paired(found[cell.name], own, value)) for value in columns.values()),
        ]
        for cell in others
    ]
    return table(["", *columns], rows)


def _difference_words(others: Sequence[PhotoCell], found: dict[str, Records], own: Records) -> str:
    """Whose test accuracy is clearly below or above MEGL's, and who is ahead by the mean alone."""
    sides: dict[str, list[str]] = {"Clearly below MEGL": [], "Clearly above MEGL": [], "Not told apart": []}
    for cell in others:
        difference = paired(found[cell.name], own, at("test", "accuracy"))
        if difference is None:
            continue
        side = 0 if difference.is_below else 1 if difference.is_above else 2
        sides[list(sides)[side]].append(named(cell.method))
    return lines(*(f"- {side} on test: {', '.join(names)}." for side, names in sides.items() if names))


def _draw(cells: Sequence[PhotoCell], found: dict[str, Records], path: Path) -> None:
    bars = {}
    for cell in cells:
        if cell.group == "headline":
            sides = [
                [value for record in found[cell.name].values() if (value := of(record)) is not None]
                for of in (at("test", "aligned_accuracy"), at("test", "conflicting_accuracy"))
            ]
            share = f", {cell.share} %" if cell.share else ""
            bars[named(cell.method) + share] = (sides[0], sides[1])
    plots.pairs(path, bars, ("scene agrees", "scene misleads"))
