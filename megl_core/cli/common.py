"""What several nouns share: the consoles, the configuration options, JSON output."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from megl_core.config import Config, load_config

DEFAULT_PARAMS = Path("params.yaml")

console = Console()
errors = Console(stderr=True)

ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        "-p",
        help="Parameter file; params.yaml of this folder if there is one.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one parameter, as in train.epochs=3."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def resolve_config(params: Path | None, overrides: list[str] | None) -> Config:
    """The configuration that a verb runs with: defaults, the parameter file, then overrides."""
    if params is None and DEFAULT_PARAMS.is_file():
        params = DEFAULT_PARAMS
    return load_config(params, overrides or ())


def print_json(value: Any) -> None:
    """Print JSON for a program to read."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")
