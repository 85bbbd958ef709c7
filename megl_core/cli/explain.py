"""`megl explain`: class, heat map and rationale of pictures."""

from pathlib import Path
from typing import Annotated

import typer

from megl_core.cli.common import JsonOption, console, print_json

app = typer.Typer()


@app.command()
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.", show_default=False)],
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="A model folder, or an MLflow URI such as models:/megl@champion.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write one PNG for each picture to.")
    ] = Path("explanations"),
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Explain each IMAGE: what it shows, how sure the model is, where it looked and why.

    All pictures are checked first; if some cannot be read, all of those are named, nothing is written
    and the exit code is 3.

    Example: megl explain photo.jpg --model runs/model --output explanations/
    """
    from megl_core.explain.many import explain_files

    results = explain_files(model, images, output, device)
    if as_json:
        print_json(results)
        return
    for result in results:
        console.print(
            f"{result['image']}: {result['label']} ({result['probability']:.1%})",
            markup=False,
            soft_wrap=True,
        )
        if result["rationale"]:
            console.print(f"  {result['rationale']}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  {result['panel']}", markup=False, highlight=False, soft_wrap=True)
