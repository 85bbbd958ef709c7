"""What `megl doctor` looks at. Nothing here imports a framework but torch, to ask it for devices."""

import os
from collections.abc import Iterator
from pathlib import Path

from megl_core.cli import extras
from megl_core.operations import machine, services
from megl_core.operations.findings import Finding

LIBRARIES = ("torch", "transformers", "mlflow", "kfp", "dvc", "great-expectations")


def examine() -> list[Finding]:
    """Every finding, in the order to show them."""
    return [*_versions(), *_extras(), *_devices(), *_services()]


def _versions() -> Iterator[Finding]:
    yield machine.python()
    for name in (extras.DISTRIBUTION, *LIBRARIES):
        yield machine.package(name)


def _extras() -> Iterator[Finding]:
    for extra, packages in extras.requirements().items():
        missing = [package for package in packages if extras.version(package) is None]
        yield Finding(
            "extras",
            extra,
            "missing" if missing else "ok",
            f"lacks {', '.join(missing)}" if missing else f"complete ({len(packages)} packages)",
            extras.how_to_complete(extra) if missing else "",
            required=extra == extras.CORE,
        )


def _devices() -> Iterator[Finding]:
    yield machine.processors()
    yield machine.memory()
    yield machine.disk("disk", Path.cwd())
    yield machine.gpus()


def _services() -> Iterator[Finding]:
    yield services.mlflow(os.environ.get("MLFLOW_TRACKING_URI"))
    yield services.dvc_remote(Path.cwd())
    yield services.kfp(os.environ.get("KFP_ENDPOINT"))
    yield services.docker(os.environ)
    yield services.kubernetes(os.environ)
