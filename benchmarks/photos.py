"""The benchmark on photographs: eth80_scenes, magnetic_tile and ucm_captions.

    python -m benchmarks.photos --data FOLDER              all of it, hours
    python -m benchmarks.photos --data FOLDER --only 'eth80_scenes/megl*'
    python -m benchmarks.photos --page                     the page alone, from the results that exist

FOLDER holds the sets, which are not part of the repository; one that is missing is left out. It can be
stopped at any time; the same command goes on. The results go to benchmarks/results/photos.jsonl, the page to
docs/benchmarks/photos.md.
"""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import start, tell
from benchmarks.photo_cells import PhotoCell, photo_cells, photo_runs
from benchmarks.photo_page import write_page
from benchmarks.results import Results
from benchmarks.runner import Runner
from megl_core.code import code_digest
from megl_core.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "photos.jsonl"
PAGE = REPOSITORY / "docs" / "benchmarks" / "photos.md"
CACHE = REPOSITORY / "runs" / "benchmark-photos"


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of the sets.", show_default=False)] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Cells whose name fits, as in '*/megl@*'.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Run nothing; write the page from what is there.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Start no run after that.", show_default=False)
    ] = None,
    keep_stale: Annotated[
        bool, typer.Option("--keep-stale", help="Accept results of other code where there are no newer ones.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; one for each core.", show_default=False)
    ] = None,
) -> None:
    """Run what is missing of the benchmark on photographs, and write its page."""
    results = Results(RESULTS, code_digest(), keep_stale=keep_stale)
    failures: dict[str, str] = {}
    if not page:
        runner = Runner(
            results,
            CACHE,
            jobs or len(os.sched_getaffinity(0)),
            deadline=float("inf") if budget is None else time.monotonic() + 60 * budget,
        )
        with runner.open():
            run_cells(runner, available(data, runner), only)
        failures = runner.failures
    tell(failures)
    write_page(results, PAGE)
    print(f"page: {PAGE}")
    if failures:
        raise typer.Exit(1)


def available(data: Path | None, runner: Runner) -> dict[str, Path]:
    """The sets that lie in the folder, by name.

    Raises:
        ConfigError: there is none.
    """
    if data is None:
        raise ConfigError("where are the photographs?", fix="--data FOLDER, which holds the sets")
    names = dict.fromkeys(cell.dataset for cell in photo_cells())
    found = {name: data.resolve() / name for name in names if (data / name).is_dir()}
    if not found:
        raise ConfigError("none of the sets is here", where=str(data), fix=f"it holds {', '.join(names)}")
    for name in names:
        if name not in found:
            runner.say(f"{name} is not there and is left out")
    return found


def run_cells(runner: Runner, sets: dict[str, Path], only: str | None) -> None:
    """Run the cells of the sets that are there."""
    cells: list[PhotoCell] = [cell for cell in photo_cells() if cell.dataset in sets and cell.fits(only)]
    runs = photo_runs(cells, sets)
    runner.announce(runs)
    runner.run(runs)


if __name__ == "__main__":
    start(main)
