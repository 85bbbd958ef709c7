"""Pictures of an evaluation: the best, the worst and random cases of a split.

`gallery/<split>.json` lists the cases, each with its PNG: the image, the image with its mask's outline
(where there is a mask) and the heat map of the predicted class, side by side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from megl_core import files
from megl_core.data.images import decode_image, decode_mask
from megl_core.data.packed import PackedDataset
from megl_core.evaluation.predict import Prediction
from megl_core.explain.drawing import fit, outline, overlay
from megl_core.explain.explanation import Explained
from megl_core.explain.many import explain_each
from megl_core.models.megl import MEGL

GALLERY = "gallery"
KINDS = ("best", "worst", "random")

_SIDE = 192
_GAP = 6
_SEED = 0


def choose_cases(predictions: Sequence[Prediction], count: int) -> dict[str, list[Prediction]]:
    """At most `count` cases of each of `KINDS`, no case twice.

    Best is right with the highest confidence, and nothing else; worst wrong with the highest, and where too
    few are wrong, the least confident right ones follow. Random cases come from the rest, by a fixed seed.
    """
    ranked = sorted(predictions, key=lambda case: -case.confidence if case.correct else case.confidence)
    share = min(count, -(-len(ranked) // len(KINDS)))
    num_best = min(share, sum(case.correct for case in ranked))
    best, rest = ranked[:num_best], ranked[num_best:]
    worst = rest[::-1][:share]
    rest = rest[: len(rest) - len(worst)]
    drawn = np.random.default_rng(_SEED).permutation(len(rest))[:share]
    return {"best": best, "worst": worst, "random": [rest[index] for index in sorted(drawn)]}


def write_gallery(
    folder: Path,
    split: str,
    predictions: Sequence[Prediction],
    model: MEGL,
    data: PackedDataset,
    count: int,
) -> None:
    """Write `gallery/<split>.json` and the cases' PNG panels into `folder`."""
    chosen = choose_cases(predictions, count)
    cases = [(kind, number, case) for kind in KINDS for number, case in enumerate(chosen[kind], start=1)]
    rows = [data[case.row] for _, _, case in cases]
    pictures = (decode_image(row.image) for row in rows)
    entries = []
    for (kind, number, case), row, explained in zip(cases, rows, explain_each(model, pictures), strict=True):
        name = f"{split}-{kind}-{number:02d}.png"
        mask = None if row.mask is None else decode_mask(row.mask)
        with files.atomic_file(folder / GALLERY / name) as temporary:
            _panel(explained, mask).save(temporary, "PNG")
        entries.append(_entry(name, kind, case, explained, model.labels))
    files.write_json(folder / GALLERY / f"{split}.json", entries)


def _panel(explained: Explained, mask: NDArray[np.bool_] | None) -> Image.Image:
    shown = fit(explained.image, _SIDE)
    cells = [shown, overlay(shown, explained.heat_map)]
    if mask is not None:
        cells.insert(1, outline(shown, mask))
    width = len(cells) * (shown.width + _GAP) - _GAP
    panel = Image.new("RGB", (width, shown.height), "white")
    for position, cell in enumerate(cells):
        panel.paste(cell, (position * (shown.width + _GAP), 0))
    return panel


def _entry(
    name: str, kind: str, case: Prediction, explained: Explained, labels: Sequence[str]
) -> dict[str, Any]:
    return {
        "file": name,
        "kind": kind,
        "id": case.id,
        "label": labels[case.label],
        "predicted": labels[case.predicted],
        "confidence": case.confidence,
        "energy_in_mask": None if case.mask_scores is None else case.mask_scores["energy_in_mask"],
        "rationale": explained.rationale,
        "references": list(case.references),
    }
