"""`megl train sync`: what runs could not send to MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config
from megl_core.errors import UnavailableError

app = typer.Typer()


@app.command()
def sync(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="The workspace whose runs are meant.")
    ] = Path("workspace"),
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send MLflow what it did not get while it was away: metrics, tags, artifacts, the end of runs.

    The next run in the same workspace does so too. What cannot be sent yet stays; the exit code is then 5.

    Example: megl train sync

    Example, another server: megl train sync --set registry.tracking_uri=https://mlflow.example.org
    """
    from megl_core.registry.outbox import Outbox, sync
    from megl_core.registry.tracking import resolve_tracking_uri

    config = resolve_config(params, set_)
    synced = sync(resolve_tracking_uri(config.registry, workspace), workspace)
    if as_json:
        print_json({"sent": synced.sent, "waiting": synced.waiting})
    for run_id in () if as_json else synced.sent:
        console.print(f"{run_id}  sent", markup=False, highlight=False, soft_wrap=True)
    if synced.waiting:
        raise UnavailableError(
            "\n".join(f"run {run_id} waits: {why}" for run_id, why in synced.waiting.items()),
            where=str(Outbox(workspace).folder),
            fix="try again later, or at the store where the run was made",
        )
    if not (as_json or synced.sent):
        console.print("Nothing waits.")
