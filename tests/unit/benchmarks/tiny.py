"""Results made up by hand, and runs so small that their numbers mean nothing."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import BASE, ENERGY, Cell, Run, run_of, runs_of
from benchmarks.photo_cells import PhotoCell
from benchmarks.results import Record, Results
from benchmarks.runner import Runner
from megl_core.code import code_digest
from tests.unit.data.build import encode, noise, write_rows

TINY = {
    **BASE,
    "data.scenes.num_train": 64,
    "data.scenes.num_val": 8,
    "data.scenes.num_test": 8,
    "data.scenes.size": 24,
    "model.image_size": 24,
    "model.backbone.widths": [8, 16],
    "model.backbone.depths": [1, 1],
    "train.epochs": 1,
    "evaluation.max_texts": 8,
}
CODE = "c" * 64
MACHINE = {"processor": "abacus", "cores": "2", "python": "3.11.0", "torch": "2.9.0", "numpy": "2.0.0"}


def record(
    run: Run,
    ood: float,
    *,
    val: tuple[float, float] = (0.9, 0.5),
    energy: float = 0.5,
    code: str = CODE,
) -> Record:
    """A result with this OOD accuracy; `val` is accuracy and energy in mask of the validation images."""
    shifted = {
        "accuracy": ood,
        "energy_in_mask": energy,
        "cue_flip_rate": 0.25,
        "worst_group_accuracy": 0.125,
    }
    return Record(
        cell=run.cell.name,
        seed=run.seed,
        config=run.config_digest,
        code=code,
        data="d" * 64,
        overrides=dict(run.overrides),
        metrics={
            "val": {"accuracy": val[0], "energy_in_mask": val[1]},
            "test": {"accuracy": 0.95, "energy_in_mask": energy},
            "ood": shifted,
            "conflict": shifted,
        },
        training_seconds=30.0,
        core_seconds=36.0,
        steps=900,
        finished="2026-01-02",
        machine=MACHINE,
    )


def add(results: Results, cell: Cell, accuracies: dict[int, float], **fields: object) -> None:
    """Results of a cell by seed."""
    for seed, accuracy in accuracies.items():
        results.add(record(run_of(cell, seed), accuracy, **fields))  # type: ignore[arg-type]


def add_photos(results: Results, cell: PhotoCell, metrics: dict[int, dict[str, dict[str, float]]]) -> None:
    """Results of a cell: `{seed: {split: {metric: value}}}`."""
    for seed, measured in metrics.items():
        run = cell.run(seed, Path(cell.dataset))
        results.add(replace(record(run, 0.0), metrics=measured))


def write_photos(folder: Path, num_train: int = 16, num_test: int = 8) -> list[dict[str, Any]]:
    """A set of 24 pixels a side, all with a mask and a place; returns its rows.

    In training cats stand on sand and dogs on grass, in val and test half of either on each.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    names = [f"train{number}" for number in range(num_train)]
    names += [f"{split}{number}" for split in ("val", "test") for number in range(num_test)]
    rows = [_photo(name, number) for number, name in enumerate(names)]
    mask = np.zeros((24, 24), dtype=np.uint8)
    mask[4:12, 4:12] = 255
    for number, row in enumerate(rows):
        (folder / row["image"]).write_bytes(encode(noise(number, 24, 24)))
        (folder / row["mask"]).write_bytes(encode(mask))
    write_rows(folder, rows)
    return rows


def _photo(name: str, number: int) -> dict[str, Any]:
    is_cat, turned = number % 2 == 0, number % 4 > 1 and not name.startswith("train")
    return {
        "id": name,
        "image": f"images/{name}.png",
        "label": "cat" if is_cat else "dog",
        "mask": f"masks/{name}.png",
        "explanations": [f"It is a {'cat' if is_cat else 'dog'}, for in the centre there are ears."],
        "split": name.rstrip("0123456789"),
        "scene": "sand" if is_cat != turned else "grass",
    }


def tiny_runs() -> list[Run]:
    """Four runs: two with rationales, two without, on data of two seeds."""
    cells = [Cell("headline", "megl", 25, {}, (10, 11)), Cell("headline", "energy", 25, ENERGY, (10, 11))]
    return runs_of(cells, TINY)


def tiny_runner(folder: Path) -> Runner:
    """One process at a time, results and cache below a folder."""
    return Runner(Results(folder / "results.jsonl", code_digest()), folder / "cache", num_processes=1)


if __name__ == "__main__":  # what the test of a killed benchmark starts
    with tiny_runner(Path(sys.argv[1])).open() as runner:
        runner.run(tiny_runs())
