"""`megl tune`: search for settings."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config

if TYPE_CHECKING:
    from megl_core.tuning import Tuned

app = typer.Typer()

_SHOWN = 10


@app.command()
def tune(
    data: Annotated[
        str, typer.Argument(help="Packed data with a validation split: a folder, or its s3:// address.")
    ],
    space: Annotated[Path, typer.Option("--space", "-s", help="What to try: a YAML file (docs/tuning.md).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the search.")] = Path("runs/tune"),
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials in all, with earlier ones.")] = 30,
    processes: Annotated[int, typer.Option("--processes", "-n", min=1, help="Trials at a time.")] = 1,
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the local MLflow store.")
    ] = Path("workspace"),
    track: Annotated[bool, typer.Option("--track/--no-track", help="Log every trial to MLflow.")] = True,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the settings that do best on the validation split.

    A search that was stopped goes on when it is started again; more --trials make it longer.

    Example: megl tune runs/packed --space tune.yaml --trials 40 -n 2

    Example, train with the best: megl train runs/packed --params runs/tune/best.yaml
    """
    config = resolve_config(params, set_)
    from megl_core.tuning import read_space
    from megl_core.tuning import tune as search

    found = search(
        data,
        read_space(space, config),
        config,
        output,
        workspace,
        trials=trials,
        processes=processes,
        track=track,
    )
    if as_json:
        attempts = [asdict(attempt) for attempt in found.attempts]
        print_json({"best": asdict(found.best), "trials": attempts, "params": str(output / "best.yaml")})
        return
    console.print(_table(found))
    console.print(f"megl train {data} --params {output / 'best.yaml'}", highlight=False)


def _table(found: "Tuned") -> Table:
    """The best trials, best first."""
    ended = [attempt for attempt in found.attempts if attempt.state == "complete"]
    ended.sort(key=lambda attempt: -(attempt.score or 0.0))
    names = list(found.best.values)
    headings = (Column(name, overflow="fold") for name in names)
    table = Table("trial", "score", *headings, title=f"{len(found.attempts)} trials, the best of them")
    for attempt in ended[:_SHOWN]:
        values = (attempt.values[name] for name in names)
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        table.add_row(str(attempt.number), f"{attempt.score:.4f}", *cells)
    return table
