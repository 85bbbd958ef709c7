"""`megl pipeline schedule`: runs that a Kubeflow Pipelines server starts by itself."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config
from megl_core.cli.on_cluster import (
    EXPERIMENT,
    SERVICE_ACCOUNT,
    AccountOption,
    ExperimentOption,
    NamespaceOption,
    TokenFileOption,
    connect,
    module,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Runs that a server starts by itself.\n\n"
    "Example: megl pipeline schedule list --cluster http://localhost:8080",
)

ServerOption = Annotated[
    str, typer.Option("--cluster", metavar="URL", help="Address of Kubeflow Pipelines.", show_default=False)
]
NameArgument = Annotated[str, typer.Argument(help="The pipeline.")]


@app.command()
def create(
    name: NameArgument,
    cluster: ServerOption,
    cron: Annotated[str, typer.Option(help="minute hour day month weekday; or six fields, seconds first.")],
    time_zone: Annotated[str, typer.Option(help="The zone that the cron line is meant in.")] = "UTC",
    server_time_zone: Annotated[
        str, typer.Option(help="CRON_SCHEDULE_TIMEZONE of the server's scheduler.")
    ] = "UTC",
    version: Annotated[
        str, typer.Option(help="A version's name or id; latest: the newest at each start.")
    ] = "latest",
    catchup: Annotated[
        bool, typer.Option("--catchup/--no-catchup", help="Start what was missed, one after the other.")
    ] = False,
    max_concurrency: Annotated[int, typer.Option(min=1, max=10, help="Runs at a time.")] = 1,
    replace: Annotated[bool, typer.Option("--replace", help="In place of one with this name.")] = False,
    namespace: NamespaceOption = None,
    experiment: ExperimentOption = EXPERIMENT,
    service_account: AccountOption = SERVICE_ACCOUNT,
    token_file: TokenFileOption = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the server start a pipeline by a cron line, with these settings.

    The same command once more changes nothing; with other settings it needs --replace.

    Example: megl pipeline schedule create retraining --cluster http://localhost:8080 --cron '0 3 * * 1'
    """
    config = resolve_config(params, set_)
    when = module("schedules").timing(
        cron, time_zone, server_time_zone, max_concurrency=max_concurrency, catchup=catchup
    )
    made = module("remote").schedule(
        connect(cluster, namespace, token_file),
        name,
        config,
        when,
        reference=version,
        experiment=experiment,
        service_account=service_account,
        replace=replace,
    )
    if as_json:
        print_json(made)
        return
    console.print(
        f"{made['done']}: {name} at {made['cron']} ({made['time_zone']}), version {made['version']}",
        markup=False,
        highlight=False,
    )


@app.command("list")
def list_(
    cluster: ServerOption,
    namespace: NamespaceOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the schedules, and how their last runs went.

    Example: megl pipeline schedule list --cluster http://localhost:8080
    """
    rows = module("schedules").list_schedules(connect(cluster, namespace, token_file))
    if as_json:
        print_json(rows)
    elif rows:
        console.print(_table(rows))
    else:
        console.print("No schedule of ours on this server.")


@app.command()
def pause(
    name: NameArgument,
    cluster: ServerOption,
    namespace: NamespaceOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Start no more runs until it is resumed.

    Example: megl pipeline schedule pause retraining --cluster http://localhost:8080
    """
    module("schedules").pause(connect(cluster, namespace, token_file), name)
    console.print(f"{name} is paused", markup=False, highlight=False)


@app.command()
def resume(
    name: NameArgument,
    cluster: ServerOption,
    namespace: NamespaceOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Start runs again.

    Example: megl pipeline schedule resume retraining --cluster http://localhost:8080
    """
    module("schedules").resume(connect(cluster, namespace, token_file), name)
    console.print(f"{name} is resumed", markup=False, highlight=False)


@app.command()
def delete(
    name: NameArgument,
    cluster: ServerOption,
    namespace: NamespaceOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Remove a schedule; the runs that it started stay.

    Example: megl pipeline schedule delete retraining --cluster http://localhost:8080
    """
    module("schedules").delete(connect(cluster, namespace, token_file), name)
    console.print(f"{name} is deleted", markup=False, highlight=False)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("name", "cron", "zone", "state", "version", "last run", "its state")
    for row in rows:
        table.add_row(
            *(escape(str(row[key])) for key in ("name", "cron", "time_zone")),
            "on" if row["enabled"] else "[bold]paused[/]",
            escape(row["version"]),
            (row["last_started"] or "")[:16].replace("T", " "),
            escape(row["last_state"] or ""),
        )
    return table
