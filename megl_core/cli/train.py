"""`megl train`: one run, in this process or in several."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config

app = typer.Typer()

DEFAULT_OUTPUT = Path("runs/model")


@app.command()
def train(
    data: Annotated[
        str,
        typer.Argument(help="Packed data: a folder, or the s3:// address that it was uploaded to."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")] = Path(
        "runs/model"
    ),
    processes: Annotated[
        int, typer.Option("--processes", "-n", min=1, help="Processes on this machine, through torchrun.")
    ] = 1,
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the local MLflow store.")
    ] = Path("workspace"),
    track: Annotated[bool, typer.Option("--track/--no-track", help="Log the run to MLflow.")] = True,
    resume: Annotated[bool, typer.Option("--resume/--restart", help="Go on from a stopped run.")] = True,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="File for a Chrome trace of a few steps.")
    ] = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on a packed dataset.

    A run that was stopped goes on from its last checkpoint when it is started again with the same data
    and settings. What the model was made of is written beside it, to `<output>.provenance.json`. What
    MLflow could not be told is kept: `megl train sync` sends it later.

    Example: megl train runs/packed --output runs/model --set train.epochs=3

    Example, two processes: megl train runs/packed -n 2

    Example, data that stay on S3: megl train s3://bucket/packed --set storage.cache=/scratch/megl
    """
    config = resolve_config(params, set_)
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        from megl_core.data.packed import read_info
        from megl_core.data.streaming import open_packed
        from megl_core.remote.torchrun import Nodes, run_processes
        from megl_core.training import check_places

        check_places(output, profile)  # what is wrong is said once, not by every process
        with open_packed(data, config.storage) as files:
            read_info(files)
        raise typer.Exit(run_processes(["-m", "megl_core.cli", *sys.argv[1:]], Nodes(processes)).code)
    from megl_core.provenance.statement import statement_file
    from megl_core.registry.steps import train_tracked

    result = train_tracked(data, output, config, workspace, track=track, resume=resume, profile=profile)
    if result is None:  # not the main process
        return
    summary = {
        "model": str(output),
        "model_digest": result.model_digest,
        "provenance": str(statement_file(output)),
        "run_id": result.run_id,
        **result.metrics,
    }
    if as_json:
        print_json(summary)
        return
    for name in ("model", "provenance", "model_digest"):
        text = summary[name]
        console.print(f"{name:<18} {text}", markup=False, highlight=False, soft_wrap=True)
    for name in ("loss", "val_accuracy", "val_energy_in_mask"):
        if name in result.metrics:
            console.print(f"{name:<18} {result.metrics[name]:.4g}", highlight=False)
