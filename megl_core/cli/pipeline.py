"""`megl pipeline`: run the whole loop, or compile it for a cluster."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config
from megl_core.config import Config
from megl_core.errors import UnavailableError

app = typer.Typer(no_args_is_help=True)

COMPILED = Path("pipelines/compiled/training.yaml")
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder of datasets, runs, MLflow store and reports.")
]


@app.command()
def run(
    data: Annotated[
        Path | None, typer.Option(help="A dataset folder; without it the procedural set is made.")
    ] = None,
    workspace: WorkspaceOption = Path("workspace"),
    stage: Annotated[str, typer.Option(help="Stage for a model that passes the gate.")] = "Staging",
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Reuse results of the same code, settings and bytes.")
    ] = True,
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole pipeline on this machine: data, validation, training, evaluation, registry, report.

    Example: megl pipeline run --workspace workspace

    Example, own images: megl pipeline run --data photos --set model.image_size=128
    """
    config = _with_data(resolve_config(params, set_), data)
    result = _load("run_local")(config, workspace, stage=stage, cache=cache)
    if as_json:
        print_json(result)
    else:
        _show(result)


@app.command("compile")
def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML file.")] = COMPILED,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the file is fresh.")] = False,
) -> None:
    """Compile the pipeline to YAML for a Kubeflow cluster.

    Exit code 4 under --check where the file differs from what the code compiles to.

    Example: megl pipeline compile --check
    """
    if check:
        _load("check_compiled")(output)
        console.print(f"{output} is fresh", highlight=False)
        return
    _load("compile_pipeline")(output)
    console.print(f"wrote {output}", highlight=False)


def _with_data(config: Config, data: Path | None) -> Config:
    """The configuration with `--data` as its source: a folder in the form of the contract."""
    if data is None:
        return config
    source = {"importer": "folder", "source": str(data.resolve()), "name": data.resolve().name}
    return config.model_copy(update={"data": config.data.model_copy(update=source)})


def _load(name: str) -> Any:
    """A function of the pipelines package, found by entry point: megl_core does not import it."""
    found = list(entry_points(group="megl.pipelines", name=name))
    if not found:
        raise UnavailableError(
            "the pipelines are not installed", fix="uv pip install 'megl[pipeline]', or run make setup"
        )
    return found[0].load()


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="Result", title_justify="left", show_header=True, header_style="bold")
    table.add_column("split")
    names = {
        "accuracy": "accuracy",
        "worst_group_accuracy": "worst group",
        "energy_in_mask": "energy in mask",
        "pointing_game": "pointing game",
        "bleu4": "BLEU-4",
        "rouge_l": "ROUGE-L",
        "slot_accuracy": "slots right",
        "cue_flip_rate": "cue flips",
    }
    shown = {name: title for name, title in names.items() if any(name in m for m in result["metrics"].values())}
    for title in shown.values():
        table.add_column(title, justify="right")
    for split, metrics in result["metrics"].items():
        cells = [f"{metrics[name]:.3f}" if name in metrics else "-" for name in shown]
        table.add_row(split, *cells)
    console.print(table)
    if not set(result["ran"]) & {"validate", "pack", "train", "evaluate"}:
        console.print(
            "[bold]Nothing changed[/] since an earlier run: same data, settings and code, so its results are reused."
        )
    verdict = "passed the gate" if result["gate_passed"] else "did not pass the gate"
    lines = {
        "model": f"{result['model_name']} version {result['version']}, {verdict}, stage {result['stage']}",
        "data": f"{result['data_digest'][:12]} ({result['num_samples']} images)",
        "report": result["report"],
        "took": f"{result['seconds']} s; ran {', '.join(result['ran'])}",
        "MLflow": f"mlflow ui --backend-store-uri {result['tracking_uri']}",
    }
    for name, text in lines.items():
        console.print(f"[bold]{name:<7}[/] ", end="")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
