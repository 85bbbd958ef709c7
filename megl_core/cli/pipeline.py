"""`megl pipeline`: run a pipeline, here or on a cluster, or compile them all."""

import os
import re
import shlex
import shutil
import sys
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
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
    run_there,
)
from megl_core.cli.schedule import app as schedule
from megl_core.config import Config, parse
from megl_core.errors import ConfigError, DataError, UnavailableError

app = typer.Typer(no_args_is_help=True)
app.add_typer(schedule, name="schedule")

COMPILED = Path("pipelines/compiled")
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder of datasets, runs, MLflow store and reports.")
]


class Stage(StrEnum):
    """Where a model that passes the gate may go."""

    STAGING = "Staging"
    PRODUCTION = "Production"


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="training, retraining or promotion.")] = "training",
    data: Annotated[
        Path | None, typer.Option(help="A dataset folder; without it the procedural set is made.")
    ] = None,
    workspace: WorkspaceOption = Path("workspace"),
    stage: Annotated[
        Stage | None,
        typer.Option(
            case_sensitive=False,
            help="Stage for a model that passes the gates. [default: Staging; of promotion: Production]",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="promotion: number or alias. [default: staging]", show_default=False),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="promotion: why, for the record.", show_default=False)
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse results of the same code, settings and bytes.")
    ] = True,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Run on this Kubeflow Pipelines server.", show_default=False),
    ] = None,
    namespace: NamespaceOption = None,
    experiment: ExperimentOption = EXPERIMENT,
    service_account: AccountOption = SERVICE_ACCOUNT,
    token_file: TokenFileOption = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="On a cluster: show how it fares until it ends.")
    ] = True,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline: training (the whole loop), retraining (if the data are new), promotion (to a stage).

    On this machine, or with --cluster on a Kubeflow Pipelines server. Ctrl-C stops a run here, and lets a
    run on a server go on.

    Example: megl pipeline run --workspace workspace

    Example, own images: megl pipeline run --data photos --set model.image_size=128

    Example, on a cluster: megl pipeline run retraining --cluster http://localhost:8080 --namespace megl

    Example, to Production: megl pipeline run promotion --version 3 --reason "better on new cameras"
    """
    options = {"stage": stage.value if stage else None, "version": version, "reason": reason}
    if cluster is not None:
        _refuse_what_is_local(data, cache)
        run_there(
            connect(cluster, namespace, token_file),
            name,
            resolve_config(params, set_),
            experiment=experiment,
            service_account=service_account,
            follow=follow,
            as_json=as_json,
            **options,
        )
        return
    _refuse_what_is_of_a_cluster(
        {
            "--namespace": namespace is not None,
            "--experiment": experiment != EXPERIMENT,
            "--service-account": service_account != SERVICE_ACCOUNT,
            "--token-file": token_file is not None,
            "--no-follow": not follow,
        }
    )
    config = _with_data(resolve_config(params, set_), data)
    result = _load("run_local")(name, config, workspace, cache=cache, **options)
    if as_json:
        print_json(result)
    elif "metrics" in result:
        _show(result)
    else:
        _show_briefly(result)


@app.command("compile")
def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the YAML files.")] = COMPILED,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the files are fresh.")] = False,
    params: ParamsOption = None,
    set_: SetOption = None,
) -> None:
    """Compile the pipelines to YAML for a Kubeflow cluster, with the settings of their pods.

    Exit code 4 under --check where a file differs from what the code compiles to.

    Example: megl pipeline compile --check

    Example: megl pipeline compile -o compiled --set pods.image=registry.example.com/megl:0.1.0
    """
    pods = resolve_config(params, set_).pods
    files = _load("check_compiled" if check else "compile_pipelines")(output, pods)
    for file in files:
        console.print(f"{file} is fresh" if check else f"wrote {file}", highlight=False)


def _refuse_what_is_local(data: Path | None, cache: bool) -> None:
    if data is not None:
        raise ConfigError(
            "--data names a folder of this machine",
            fix="on a cluster, --set data.importer=... and data.source=...: a place that its pods reach",
        )
    if not cache:
        raise ConfigError("--no-cache is for runs on this machine", fix="leave it out")


def _refuse_what_is_of_a_cluster(given: dict[str, bool]) -> None:
    if names := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(
            f"{', '.join(names)}: only for runs on a cluster",
            fix="name its server with --cluster, or leave this out",
        )


def _with_data(config: Config, data: Path | None) -> Config:
    """The configuration with `--data` as its source: a folder in the form of the contract.

    Raises:
        DataError: there is no such folder.
    """
    if data is None:
        return config
    if not data.is_dir():
        raise DataError(
            "no such dataset folder",
            where=f"--data {data}",
            fix="--data names a folder of this machine; for others --set data.importer=... data.source=...",
        )
    folder = data.resolve()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-.") or "data"
    source = {"importer": "folder", "source": str(folder), "path": None, "revision": None, "name": name}
    return parse(Config, config.model_dump() | {"data": config.data.model_dump() | source}, where="--data")


def _load(name: str) -> Any:
    """A function of the pipelines package, found by entry point: megl_core does not import it."""
    found = list(entry_points(group="megl.pipelines", name=name))
    if not found:
        raise UnavailableError(
            "the pipelines are not installed", fix="uv pip install 'megl[pipeline]', or run make setup"
        )
    return found[0].load()


# What the table shows of a split's metrics, and under which heading.
_COLUMNS = {
    "accuracy": "accuracy",
    "worst_group_accuracy": "worst",
    "energy_in_mask": "in mask",
    "pointing_game": "points",
    "bleu4": "BLEU",
    "rouge_l": "ROUGE",
    "slot_accuracy": "slots",
    "cue_flip_rate": "flips",
}
_NOTES = {
    "worst_group_accuracy": "worst: lowest accuracy of a group that is large enough",
    "energy_in_mask": "in mask: share of the heat map's energy",
    "pointing_game": "points: maps with their maximum in the mask",
    "slot_accuracy": "slots: facts right in the rationale",
    "cue_flip_rate": "flips: predictions that change with the cue alone",
}


def _show_briefly(result: dict[str, Any]) -> None:
    """The result of a run that trained nothing."""
    if "novelty" in result:
        lines = {"nothing": f"to train: {result['novelty']['why']}"}
    else:
        lines = {"model": f"{result['model_name']} version {result['version']} is in {result['stage']}"}
    _print_lines(lines | {"took": f"{result['seconds']} s"})


def _show(result: dict[str, Any]) -> None:
    console.print(_table(result["metrics"], result["main_splits"]))
    notes = [note for name, note in _NOTES.items() if any(name in row for row in result["metrics"].values())]
    if notes:
        console.print("; ".join(notes), style="dim", highlight=False)
    if not set(result["ran"]) & {"validate", "pack", "train", "evaluate"}:
        console.print(
            "[bold]Nothing changed[/]: same data, settings and code as before, so the results are reused."
        )
    verdict = "passed the gate" if result["gate_passed"] else "did not pass the gate"
    asked = [_asked(row) for row in result["gate"]["rows"] if not row["passed"]]
    lines = {
        "model": f"{result['model_name']} version {result['version']}, {verdict}, stage {result['stage']}",
        **({"gate": "; ".join(asked)} if asked else {}),
        "data": f"{result['data_digest'][:12]} ({result['num_samples']} images)",
        "report": result["report"],
        "took": f"{result['seconds']} s; ran {', '.join(result['ran'])}",
        "MLflow": _screen(result["tracking_uri"]),
        "explain": f"{_program('megl')} explain IMAGE --model {shlex.quote(result['model'])}",
    }
    _print_lines(lines)


def _print_lines(lines: dict[str, str]) -> None:
    for name, text in lines.items():
        console.print(f"[bold]{name:<7}[/] ", end="")
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _program(name: str) -> str:
    """How to call a program of this environment, which need not be activated."""
    return name if shutil.which(name) else shlex.quote(os.path.relpath(Path(sys.executable).with_name(name)))


def _screen(uri: str) -> str:
    """How to open MLflow's screen: a server's address, or the command for a local store."""
    return (
        uri if uri.startswith("http") else f"{_program('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"
    )


def _asked(row: dict[str, Any]) -> str:
    """A failed bound of the gate in words."""
    value = row["note"] if row["value"] is None else f"{row['value']:.3f}"
    return f"{row['metric']} is {value}, asked is {row['bound']}"


def _table(metrics: dict[str, dict[str, float]], main_splits: list[str | None]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("split", no_wrap=True)
    shown = [name for name in _COLUMNS if any(name in values for values in metrics.values())]
    for name in shown:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    first = [split for split in main_splits if split in metrics]
    for split in [*first, *(split for split in metrics if split not in first)]:
        cells = [f"{metrics[split][name]:.3f}" if name in metrics[split] else "-" for name in shown]
        table.add_row(split, *cells)
    return table
