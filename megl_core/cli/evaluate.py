"""`megl evaluate`: measure a model on packed data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megl_core.cli.common import JsonOption, ParamsOption, SetOption, console, print_json, resolve_config

if TYPE_CHECKING:
    from megl_core.evaluation import Evaluation

app = typer.Typer()

# metric -> its heading
_COLUMNS = {
    "n": "n",
    "accuracy": "accuracy",
    "worst_group_accuracy": "worst",
    "cue_flip_rate": "flips",
    "energy_in_mask": "in mask",
    "pointing_game": "points",
    "bleu4": "BLEU",
    "rouge_l": "ROUGE",
    "slot_accuracy": "slots",
}


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder of a trained model.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            help="Packed data: a folder, or the s3:// address that it was uploaded to.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path(
        "runs/evaluation"
    ),
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    params: ParamsOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy, heat maps and rationales of MODEL on every split of DATA but train.

    Writes evaluation.json, predictions.parquet and a gallery of the best, worst and random cases.

    Example: megl evaluate runs/model runs/packed --output runs/evaluation
    """
    config = resolve_config(params, set_)

    from megl_core.evaluation import evaluate as run

    result = run(model, data, config.evaluation, output, device=device, storage=config.storage)
    if as_json:
        print_json(
            {
                "folder": str(result.folder),
                "model_digest": result.model_digest,
                "data_digest": result.data_digest,
                "labels": result.labels,
                "metrics": result.metrics,
            }
        )
    else:
        _show(result)


def _show(result: "Evaluation") -> None:
    from rich import box
    from rich.table import Table

    columns = [name for name in _COLUMNS if any(name in metrics for metrics in result.metrics.values())]
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True, header_style="bold"
    )
    table.add_column("split", no_wrap=True)
    for name in columns:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    for split, metrics in result.metrics.items():
        shown = [_figure(name, metrics[name]) if name in metrics else "" for name in columns]
        table.add_row(split, *shown)
    console.print(table)
    console.print(f"written to {result.folder}", markup=False, highlight=False, soft_wrap=True)


def _figure(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "n" else f"{value:.3f}"
