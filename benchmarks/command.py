"""What the commands of the benchmarks share: how they start, and how they end."""

import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer

from megl_core.errors import MeglError


def start(main: Callable[..., Any]) -> None:
    """Run a command; what a user can cause is told without a traceback."""
    signal.signal(signal.SIGTERM, _leave)  # unwinds the stack, so that the runs are stopped too
    try:
        typer.run(main)
    except MeglError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def tell(failures: Mapping[str, str]) -> None:
    """Say what went wrong, by the name of the run."""
    for name, error in failures.items():
        print(f"\nfailed, will be tried again: {name}\n{error.rstrip()}", file=sys.stderr)


def _leave(number: int, frame: object) -> None:  # noqa: ARG001 (the interface's arguments)
    sys.exit(128 + number)
