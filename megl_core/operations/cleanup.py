"""Removes what runs left in a workspace and nobody will ask for: by age, and only what is surely ours."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from megl_core.progress import get_reporter

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"\.?step-\d{8}.*")
_RUN = re.compile(r"megl-[a-z-]+(-\d+){7}")


def clean_up(workspace: Path, keep_days: float) -> list[Path]:
    """Remove stale checkpoints, artifacts that no cached step and no result refers to, and from the folder
    `exchange` trainings that ended or were given up, and data of which no training is left.

    A training writes checkpoints every minute and removes them at its end, so those that nobody has written
    to for days belong to one that was given up.

    Args:
        keep_days: what is younger stays in any case.

    Returns:
        The folders that were removed.
    """
    before = time.time() - keep_days * 24 * 3600
    stale = [
        folder
        for folder in (
            *_checkpoints(workspace / "checkpoints"),
            *_unused(workspace / "pipeline"),
            *_trainings(workspace / "exchange" / "trainings"),
        )
        if _newest(folder) < before
    ]
    _remove(stale, keep_days)
    unread = [folder for folder in _unnamed_data(workspace / "exchange") if _newest(folder) < before]
    _remove(unread, keep_days)
    return stale + unread


def _remove(folders: list[Path], keep_days: float) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        get_reporter().message(f"removed {folder}: untouched for {keep_days:g} days")


def _checkpoints(folder: Path) -> Iterator[Path]:
    """Folders of one training each, which hold checkpoints and nothing else."""
    for training in _folders(folder):
        names = [path.name for path in training.iterdir()]
        if _FINGERPRINT.fullmatch(training.name) and all(map(_CHECKPOINT.fullmatch, names)):
            yield training


def _trainings(folder: Path) -> Iterator[Path]:
    """Trainings on nodes: folders with an order, named by its fingerprint."""
    for training in _folders(folder):
        if _FINGERPRINT.fullmatch(training.name) and (training / "order.json").is_file():
            yield training


def _unnamed_data(exchange: Path) -> Iterator[Path]:
    """Packed data that no order speaks of, named by their digest."""
    orders = [path.read_text(errors="replace") for path in (exchange / "trainings").glob("*/order.json")]
    for data in _folders(exchange / "data"):
        if _DIGEST.fullmatch(data.name) and not any(data.name in order for order in orders):
            yield data


def _unused(folder: Path) -> Iterator[Path]:
    """Artifact folders of runs that neither the cache nor the result of any run speaks of."""
    artifacts = folder / "artifacts"
    spoken_of = [
        path.read_text(errors="replace")
        for path in (*artifacts.glob(".kfp_cache/*.json"), *folder.glob("runs/*/result.json"))
    ]
    for run in _folders(artifacts):
        if _RUN.fullmatch(run.name) and not any(run.name in text for text in spoken_of):
            yield run


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _newest(folder: Path) -> float:
    """When the folder or anything in it was last written to, in seconds since the epoch."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
