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
    data: Annotated[Path, typer.Argument(help="Packed data, as `megl data pack` writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")] = Path(
        "runs/model"
    ),
    processes: Annotated[
        int, typer.Option("--processes", "-n", min=1, help="Processes on this machine, through torchrun.")
    ] = 1,
    workspace: Annotated[Path, typer.Option(help="Folder of the local MLflow store.")] = Path("workspace"),
    track: Annotated[bool, typer.Option("--track/--no-track", help="Log the run to MLflow.")] = True,
    resume: Annotated[bool, typer.Option("--resume/--restart", help="Go on from a stopped run.")] = True,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on a packed dataset.

    A run that was stopped goes on from its last checkpoint when it is started again with the same data
    and settings.

    Example: megl train runs/packed --output runs/model --set train.epochs=3

    Example, two processes: megl train runs/packed -n 2
    """
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(_torchrun(processes))
    from megl_core.registry.steps import train_tracked

    config = resolve_config(params, set_)
    result = train_tracked(data, output, config, workspace, track=track, resume=resume)
    if result is None:  # not the main process
        return
    summary = {
        "model": str(output),
        "model_digest": result.model_digest,
        "run_id": result.run_id,
        **result.metrics,
    }
    if as_json:
        print_json(summary)
        return
    console.print(f"model      {output}\ndigest     {result.model_digest[:12]}", highlight=False)
    for name in ("loss", "val_accuracy", "val_energy_in_mask"):
        if name in result.metrics:
            console.print(f"{name:<18} {result.metrics[name]:.4g}", highlight=False)


def _torchrun(processes: int) -> int:
    """Start this very command once for each process, and return the launcher's exit code."""
    import subprocess

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command = [sys.executable, "-m", "megl_core.cli", *sys.argv[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.call([*launcher, f"--nproc-per-node={processes}", *command], env=environment)
