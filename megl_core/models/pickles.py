"""No model of ours holds a pickle, for reading one runs what it says."""

from pathlib import Path

from megl_core.errors import DataError

_SUFFIXES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})


def refuse_pickles(folder: Path) -> None:
    """Look for files that may hold a pickle, by their suffix.

    Raises:
        DataError: naming each.
    """
    found = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in _SUFFIXES
    )
    if found:
        raise DataError(
            "the model folder holds files that may be pickles; MEGL loads safetensors only",
            where=str(folder),
            fix="convert them to safetensors, or remove them",
            problems=found,
        )
