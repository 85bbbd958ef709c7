"""The benchmark of the method: MEGL, its parts and its rivals on the procedural set.

    python -m benchmarks.method                   the short form, less than half an hour on two cores
    python -m benchmarks.method --full            all of it, some hours
    python -m benchmarks.method --only 'headline/megl@*'
    python -m benchmarks.method --page            the page alone, from the results that exist

It can be stopped at any time; the same command goes on. The results go to benchmarks/results/method.jsonl
and method-searches.jsonl, the page to docs/benchmarks/method.md.
"""

import functools
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cells import Cell, chosen_cells, fixed_cells, run_of, runs_of, select
from benchmarks.command import start, tell
from benchmarks.page import write_page
from benchmarks.results import Find, Results
from benchmarks.runner import Runner
from benchmarks.searches import SearchResults, carry_out, searches
from benchmarks.selection import choose
from megl_core.code import code_digest
from megl_core.errors import MeglError

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "method.jsonl"
SEARCHES = RESULTS.with_name("method-searches.jsonl")
PAGE = REPOSITORY / "docs" / "benchmarks" / "method.md"
CACHE = REPOSITORY / "runs" / "benchmark-method"
SHORT_BUDGET = 27.0
"""Minutes after which the short form starts no further run: it ends within half an hour anywhere."""


def main(
    full: Annotated[
        bool, typer.Option("--full/--short", help="Every cell and seed, or the useful ones.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Cells whose name fits, as in 'headline/megl@*'.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Run nothing; write the page from what is there.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES", help="Start no run after that; 27 for the short form.", show_default=False
        ),
    ] = None,
    keep_stale: Annotated[
        bool, typer.Option("--keep-stale", help="Accept results of other code where there are no newer ones.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; one for each core.", show_default=False)
    ] = None,
) -> None:
    """Run what is missing of the benchmark of the method, and write its page."""
    results = Results(RESULTS, code_digest(), keep_stale=keep_stale)
    searched = SearchResults(SEARCHES, code_digest(), keep_stale=keep_stale)
    if budget is None and not full:
        budget = SHORT_BUDGET
    if page:
        failures = {}
    else:
        runner = Runner(
            results,
            CACHE,
            jobs or len(os.sched_getaffinity(0)),
            deadline=float("inf") if budget is None else time.monotonic() + 60 * budget,
        )
        with runner.open():
            run_plan(runner, full, only)
            if full:
                tune_alike(runner, searched, only)
        failures = runner.failures
    tell(failures)
    write_page(finder(results), searched, PAGE)
    print(f"page: {PAGE}")
    if failures:
        raise typer.Exit(1)


def run_plan(runner: Runner, full: bool, only: str | None) -> None:
    """Run the cells that are known, then those that the grid decides about."""
    find = finder(runner.results)
    cells = fixed_cells(full)
    _announce(runner, cells, full, only)
    runner.run(runs_of(select(cells, only)))
    choices = choose([cell for cell in cells if cell.group == "grid"], find)
    final = [choice.cell for choice in choices if choice.is_final]
    runner.run(runs_of(select(chosen_cells(final, full), only)))


def tune_alike(runner: Runner, searched: SearchResults, only: str | None) -> None:
    """Search for each method's settings, and train with the best before the next method's turn."""
    for search in select(searches(), only):
        if searched.find(search) is None:
            if time.monotonic() >= runner.deadline:
                runner.say(f"the time is up: {search.name} is not searched")
                continue
            runner.say(f"{search.name}: searching")
            try:
                searched.add(carry_out(search, runner.folder, searched.code))
            except MeglError as error:
                runner.failures[search.name] = str(error)
        runner.run(runs_of(searched.cells([search])))


def finder(results: Results) -> Find:
    """Results by cell and seed."""
    resolve = functools.cache(run_of)
    return lambda cell, seed: results.find(resolve(cell, seed))


def _announce(runner: Runner, cells: list[Cell], full: bool, only: str | None) -> None:
    """Say what is to be run, how long that takes, and what the short form leaves out."""
    runner.announce(runs_of(select(cells, only)))
    if full:
        return
    planned = {(cell.name, seed) for cell in cells for seed in cell.seeds}
    for group in ("headline", "ablation", "grid", "converged"):
        all_cells = [cell for cell in fixed_cells(full=True) if cell.group == group]
        left = [cell for cell in all_cells if any((cell.name, seed) not in planned for seed in cell.seeds)]
        runs = sum((cell.name, seed) not in planned for cell in all_cells for seed in cell.seeds)
        names = ", ".join(dict.fromkeys(f"{cell.method}@{cell.share}" for cell in left))
        runner.say(f"left out without --full: {group}, {runs} runs of {names}")
    runner.say(
        "left out without --full: further seeds of the published losses, training until convergence, "
        "and the searches"
    )


if __name__ == "__main__":
    start(main)
