"""The machine: Python, its packages, processors, memory, disks and GPUs. Only GPUs need torch imported."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from megl_core.operations.findings import Finding, State

_GIB = 2**30


def python() -> Finding:
    """Whether this Python is one that MEGL runs on."""
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding(
        "versions",
        "python",
        "ok" if supported else "missing",
        f"{platform.python_version()} ({sys.executable})",
        "" if supported else "install Python 3.11, then `make setup`",
        required=True,
    )


def package(name: str, *, required: bool = False) -> Finding:
    """The installed version of a package; nothing is imported."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", name, "missing", "not installed", "make setup", required)
    return Finding("versions", name, "ok", version, required=required)


def processors() -> Finding:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("devices", "cpu", "ok", f"{cores} cores, {platform.machine()}")


def memory() -> Finding:
    """The machine's memory."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("devices", "memory", "ok", f"{size / _GIB:.1f} GiB")


def disk(name: str, folder: Path, *, free_gib: float = 0.0) -> Finding:
    """The free space of the disk that a folder lies on, or will lie on."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    usage = shutil.disk_usage(there)
    enough = usage.free >= free_gib * _GIB
    asked = f", {free_gib:g} GiB are asked for" if free_gib else ""
    return Finding(
        "devices",
        name,
        "ok" if enough else "missing",
        f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free at {there}{asked}",
        "" if enough else f"free some space at {there}, or give it a larger disk",
        required=bool(free_gib),
    )


def writable(name: str, folder: Path) -> Finding:
    """Whether files can be made in a folder, which is made itself if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".writable.", dir=folder) as file:
            file.write(b"1")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        who = f"user {os.getuid()}, group {os.getgid()}"
        fix = f"let {who} write to {folder}: its owner, its mode, or the volume's access mode"
        return Finding("devices", name, "missing", f"{folder}: {error.strerror or error}", fix, required=True)
    return Finding("devices", name, "ok", str(folder), required=True)


def gpus(asked: int = 0) -> Finding:
    """The GPUs that torch can use, each of them tried, against the number that was asked for."""
    try:
        import torch

        count = torch.cuda.device_count()
        names = [torch.cuda.get_device_name(index) for index in range(count)]
        for index in range(count):
            torch.zeros(1, device=f"cuda:{index}")
    except ImportError:
        count, found = 0, "torch is not installed, so none can be used"
    except RuntimeError as error:
        count, found = 0, str(error).splitlines()[0]
    else:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        found = ", ".join(names) or f"none that torch can use (torch is {build})"
    if asked:
        fix = "" if count >= asked else "give the pod its GPUs (pods.steps), or set train.device=cpu"
        state: State = "ok" if count >= asked else "missing"
        return Finding("devices", "gpu", state, f"{count} of {asked} asked for: {found}", fix, True)
    if count:
        return Finding("devices", "gpu", "ok", found)
    return Finding("devices", "gpu", "unused", f"{found}; training runs on the CPU")
