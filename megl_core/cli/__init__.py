"""`megl <noun> <verb>`: the command line.

A noun's module is imported only when that noun is called, and frameworks only inside the verb, so
that `megl --help` answers at once.
"""

import importlib
import sys
from typing import Any

import typer
from typer import _click as click
from typer.core import TyperGroup

from megl_core.errors import MeglError

# noun or verb -> (module with `app`, one line of help)
COMMANDS = {
    "data": ("megl_core.cli.data", "Generate, import, validate, pack and look at datasets."),
    "train": ("megl_core.cli.train", "Train a model on a packed dataset."),
    "evaluate": ("megl_core.cli.evaluate", "Evaluate a model: accuracy, heat maps, rationales."),
    "explain": ("megl_core.cli.explain", "Explain pictures: class, heat map and rationale."),
    "models": ("megl_core.cli.models", "Look at registered models, register and promote them."),
    "pipeline": ("megl_core.cli.pipeline", "Run and compile the training pipeline."),
    "doctor": ("megl_core.cli.doctor", "Check versions, devices and services."),
}


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (the interface's argument)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, help_line = COMMANDS[cmd_name]
        if _only_lists_commands():
            return click.Command(cmd_name, help=help_line)
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name = cmd_name
        return command


def _only_lists_commands() -> bool:
    return not any(argument in COMMANDS for argument in sys.argv[1:])


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multimodal Explanation-Guided Learning: from annotated images to a registered, explained model.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
) -> None:
    if version:
        from megl_core import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> Any:
    """Run the command line; a `MeglError` becomes a message on standard error and its exit code."""
    try:
        return app()
    except MeglError as error:
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True)
        console.print("[bold red]error:[/] ", end="")
        console.print(str(error), markup=False, highlight=False)
        sys.exit(error.exit_code)
