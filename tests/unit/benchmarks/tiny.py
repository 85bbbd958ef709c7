"""Results made up by hand, and runs so small that their numbers mean nothing."""

import sys
from pathlib import Path

from benchmarks.cells import BASE, ENERGY, Cell, Run, run_of, runs_of
from benchmarks.results import Record, Results
from benchmarks.runner import Runner
from megl_core.code import code_digest

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
