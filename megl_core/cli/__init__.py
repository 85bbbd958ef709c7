"""`megl <noun> <verb>`: the command line.

A noun's module is imported only when that noun is called, and frameworks only inside the verb, so
that `megl --help` answers at once.
"""

import importlib
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from megl_core.errors import MeglError

# noun or verb -> (module with `app`, one line of help)
COMMANDS = {
    "data": ("megl_core.cli.data", "Generate, import, validate, pack and look at datasets."),
    "train": ("megl_core.cli.train", "Train a model on a packed dataset."),
    "train sync": ("megl_core.cli.sync", "Send MLflow what it did not get while it was away."),
    "tune": ("megl_core.cli.tune", "Search for the settings that do best on the validation split."),
    "evaluate": ("megl_core.cli.evaluate", "Evaluate a model: accuracy, heat maps, rationales."),
    "explain": ("megl_core.cli.explain", "Explain pictures: class, heat map and rationale."),
    "models": ("megl_core.cli.models", "Look at registered models, promote them, roll them back."),
    "lineage": ("megl_core.cli.lineage", "Audit: where versions come from, and whether that still holds."),
    "pipeline": ("megl_core.cli.pipeline", "Run the pipeline here or on a cluster, schedule it."),
    "doctor": ("megl_core.cli.doctor", "Check versions, devices and services."),
}


_COMPLETION_OPTIONS = ("install_completion", "show_completion")  # typer adds them to every app


class LazyGroup(TyperGroup):
    """A group that lists its commands by name and help line, and imports one only to run it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if (pair := " ".join(args[:2])) in COMMANDS:  # a verb under a noun that is a verb itself
            args = [pair, *args[2:]]
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and _load(name), rest


def _load(name: str | None) -> Any:
    command = typer.main.get_command(importlib.import_module(COMMANDS[name or ""][0]).app)
    command.name = name
    command.params = [option for option in command.params if option.name not in _COMPLETION_OPTIONS]
    return command


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
    _unwind_on(signal.SIGTERM, signal.SIGHUP)
    try:
        return app()
    except MeglError as error:
        _fail(error)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        if error.filename is None:
            raise
        fix = "choose a folder that you may write to"
        _fail(MeglError(str(error.strerror).lower(), where=str(error.filename), fix=fix))
    except ModuleNotFoundError as error:
        from megl_core.cli.extras import missing_package

        if (problem := missing_package(error.name or "")) is None:
            raise
        _fail(problem)


def _unwind_on(*numbers: signal.Signals) -> None:
    """Let these signals unwind the stack as Ctrl-C does, so that children are stopped and temporary
    files removed; one that is ignored, as under nohup, stays so."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface's arguments)
        raise SystemExit(128 + number)

    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, leave)


def _fail(error: MeglError) -> NoReturn:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, highlight=False)
    sys.exit(error.exit_code)
