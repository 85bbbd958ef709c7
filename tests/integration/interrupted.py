"""What the tests of interruptions run in processes of their own, which have the libraries loaded."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import mlflow.pyfunc  # loaded once, by the server that the processes are forked from
import torch

from megl_core.models.megl import MEGL
from megl_core.registry.models import Stage, promote, register

__all__ = ["MEGL", "mlflow", "torch"]


def start(function: Any, *arguments: Any, actor: str = "somebody") -> Any:
    """Call one of the functions below in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(function, arguments, actor))
    process.start()
    return process


def kill(process: Any) -> None:
    """As a machine that fails does it; returns when the process is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=30)


def move(name: str, version: int, stage: str, uri: str) -> None:
    promote(name, version, Stage(stage), uri, reason="a test", force=True)


def add(folder: Path, reports: dict[str, Path], statement: Path, name: str, uri: str, run_id: str) -> None:
    register(folder, reports, name, uri, run_id, statement=statement)


def _run(function: Any, arguments: tuple[Any, ...], actor: str) -> None:
    os.environ["MEGL_ACTOR"] = actor
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    function(*arguments)
