"""Compiles the training pipeline to the YAML that a cluster runs."""

import tempfile
from pathlib import Path

from kfp import compiler

from megl_core.errors import GateError
from megl_core.files import write_bytes
from pipelines.training import training


def compiled() -> bytes:
    """The pipeline's YAML as the code stands now."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "training.yaml"
        compiler.Compiler().compile(training, str(target))
        return target.read_bytes()


def compile_pipeline(target: Path) -> None:
    """Write the YAML to `target`."""
    write_bytes(target, compiled())


def check_compiled(target: Path) -> None:
    """Make sure that `target` is what the code compiles to.

    Raises:
        GateError: the file is missing or stale.
    """
    if not target.is_file() or target.read_bytes() != compiled():
        raise GateError(
            "the compiled pipeline is stale", where=str(target), fix="run `make compile` and commit the file"
        )
