"""The benchmark of the training: what MEGL's step, map, runs, loader, processes and pipeline cost.

    python -m benchmarks.training                    all of it, about a quarter of an hour on two cores
    python -m benchmarks.training --only steps       one section; the others stay as they were
    python -m benchmarks.training --only gpu         where there is a GPU; without it this section is left out
    python -m benchmarks.training --quick            a tenth of it, to see that it works; see --help
    python -m benchmarks.training --page             the page alone, from the results that exist

Every finished section is kept in benchmarks/results/training.json; the page is docs/benchmarks/training.md.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.command import start
from benchmarks.training_gpu import measure_gpu
from benchmarks.training_loader import measure_loader
from benchmarks.training_maps import measure_maps
from benchmarks.training_page import write_page
from benchmarks.training_plan import QUICK, Size
from benchmarks.training_runs import measure_pipeline, measure_runs, measure_scaling
from benchmarks.training_steps import measure_steps
from benchmarks.worker import machine
from megl_core.code import code_digest
from megl_core.errors import ConfigError
from megl_core.files import read_json, write_json

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "training.json"
PAGE = REPOSITORY / "docs" / "benchmarks" / "training.md"
QUICK_FOLDER = REPOSITORY / "runs" / "benchmark-training"

GPU = "gpu"
SECTIONS: Mapping[str, Callable[[Size, Path], dict[str, list[float]]]] = {
    "steps": measure_steps,
    "maps": lambda size, _: measure_maps(size),
    "runs": measure_runs,
    "pipeline": measure_pipeline,
    "loader": measure_loader,
    "scaling": measure_scaling,
    GPU: measure_gpu,
}


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Little of everything; results and page go to {QUICK_FOLDER}.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAMES", help=f"Some of {', '.join(SECTIONS)}, with commas.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Measure nothing; write the page from what is there.")
    ] = False,
) -> None:
    """Measure what training costs, and write the page about it."""
    results = QUICK_FOLDER / RESULTS.name if quick else RESULTS
    if not page:
        measure(chosen(only), QUICK if quick else Size(), results)
    target = QUICK_FOLDER / PAGE.name if quick else PAGE
    write_page(read_json(results), target)
    print(f"page: {target}")


def chosen(only: str | None) -> list[str]:
    """The sections that a comma-separated list names; where there is none, all that can run here.

    Raises:
        ConfigError: there is no such section.
    """
    if only is None:
        return [name for name in SECTIONS if name != GPU or torch.cuda.is_available()]
    names = only.split(",")
    for name in names:
        if name not in SECTIONS:
            raise ConfigError(
                f"no section {name!r}", where="--only", fix=f"choose from {', '.join(SECTIONS)}"
            )
    return names


def measure(names: list[str], size: Size, results: Path) -> None:
    """Measure sections, one after another; each is written when it is finished."""
    results.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="megl-benchmark-") as folder:
            section = measure_section(name, size, Path(folder))
        known = read_json(results) if results.is_file() else {}
        write_json(results, known | {name: section})
        print(f"{name}: {section['seconds']:.0f} s")


def measure_section(name: str, size: Size, folder: Path) -> dict[str, Any]:
    """What is kept of a section: its numbers, and how they came about.

    `load` is the number of processes that wanted a core, on the mean of the minute before it began.
    """
    started, load = time.monotonic(), os.getloadavg()[0]
    measured = SECTIONS[name](size, folder)
    return {
        "measured": measured,
        "code": code_digest(),
        "finished": datetime.now(UTC).date().isoformat(),
        "load": load,
        "machine": machine(),
        "seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    start(main)
