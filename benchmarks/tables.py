"""Tables that more than one section of the method's page has, and how they name what is measured."""

from collections.abc import Iterable, Sequence

from benchmarks.cells import BASE, Cell
from benchmarks.findings import Findings
from benchmarks.markdown import interval, paragraphs, spread, table

LABELS = {
    "megl": "MEGL",
    "megl-defaults": "MEGL, defaults",
    "defaults-without-mix": "MEGL, defaults without mix",
    "cross-entropy": "cross-entropy",
    "text-lexicon": "text + lexicon",
    "rrr": "RRR",
    "haics": "HAICS",
    "gradia": "GRADIA",
    "res_g": "RES-G",
    "res_l": "RES-L",
    "path-saliency": "text through saliency only",
    "path-features": "text through features only",
    "path-off": "text path off",
    "map-plain": "plain map",
    "map-contrastive": "contrastive map",
    "region-lexicon": "region from the lexicon",
}
_ACCURACY = {
    "OOD": ("ood", "accuracy"),
    "conflict": ("conflict", "accuracy"),
    "test": ("test", "accuracy"),
    "worst group": ("ood", "worst_group_accuracy"),
    "flips": ("ood", "cue_flip_rate"),
}
_MAPS = {
    "in mask, test": ("test", "energy_in_mask"),
    "in mask": ("ood", "energy_in_mask"),
    "in cue": ("ood", "energy_in_cue"),
    "pointing": ("ood", "pointing_game"),
    "slots": ("ood", "slot_accuracy"),
}


def accuracy_table(findings: Findings, cells: Sequence[Cell]) -> str:
    rows = [
        [
            f"{cell.share} %",
            label(cell),
            str(len(findings.records(cell))),
            *(spread(findings.summary(cell, *where)) for where in _ACCURACY.values()),
            interval(findings.difference(cell, findings.reference(cell))),
            _seconds(findings, cell),
        ]
        for cell in cells
    ]
    columns = ["masks", "method", "seeds", *_ACCURACY, "OOD less MEGL\\*", "training, s"]
    note = "\\* with as many masks; without masks: less cross-entropy. Points, with the 95 % interval."
    return paragraphs(table(columns, rows), note)


def maps_table(findings: Findings, cells: Sequence[Cell]) -> str:
    rows = [
        [
            f"{cell.share} %",
            label(cell),
            *(spread(findings.summary(cell, *where)) for where in _MAPS.values()),
        ]
        for cell in cells
    ]
    return table(["masks", "method", *_MAPS], rows)


def label(cell: Cell) -> str:
    return named(cell.method)


def named(method: str) -> str:
    """A method as tables name it."""
    return LABELS.get(method, method.replace("-", " "))


def names(cells: Iterable[Cell]) -> str:
    return ", ".join(label(cell) for cell in cells) or "none"


def is_plain(cell: Cell) -> bool:
    return bool(cell.overrides.get("model.saliency", BASE["model.saliency"]) == "plain")


def _seconds(findings: Findings, cell: Cell) -> str:
    seconds = [record.training_seconds for record in findings.records(cell).values()]
    return f"{sum(seconds) / len(seconds):.0f}" if seconds else "-"
