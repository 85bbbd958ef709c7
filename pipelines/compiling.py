"""Compiles the pipelines to the YAML that a cluster runs."""

import tempfile
from pathlib import Path

from kfp import compiler

from megl_core.config import PodsConfig
from megl_core.errors import GateError
from megl_core.files import write_bytes
from pipelines.catalog import PIPELINES, Pipeline


def compiled(pipeline: Pipeline, pods: PodsConfig) -> bytes:
    """A pipeline's YAML as the code stands now, for pods with these settings."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline.build(pods), str(target))
        return target.read_bytes()


def compile_pipelines(folder: Path, pods: PodsConfig) -> list[Path]:
    """Write `<pipeline>.yaml` of each pipeline into a folder."""
    files = _files(folder)
    for pipeline, target in files.items():
        write_bytes(target, compiled(PIPELINES[pipeline], pods))
    return list(files.values())


def check_compiled(folder: Path, pods: PodsConfig) -> list[Path]:
    """Make sure that a folder holds what the code compiles to.

    Raises:
        GateError: a file is missing or stale.
    """
    files = _files(folder)
    for pipeline, target in files.items():
        if not target.is_file() or target.read_bytes() != compiled(PIPELINES[pipeline], pods):
            raise GateError(
                "the compiled pipeline is stale",
                where=str(target),
                fix="run `make compile` and commit the file",
            )
    return list(files.values())


def _files(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.yaml" for name in PIPELINES}
