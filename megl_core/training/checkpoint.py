"""Checkpoints: everything a run needs to go on as if it had never stopped, in safetensors and JSON.

    <folder>/step-00000150/
      model.safetensors      weights and buffers
      optimizer.safetensors  <index>.<name> of each parameter's optimizer tensors
      state.json             step and history

A checkpoint appears under its name only when it is complete, so the newest one is always whole.
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from megl_core.errors import DataError
from megl_core.files import atomic_directory, read_json, write_json
from megl_core.models.weights import load_tensors, unique_tensors

_PREFIX = "step-"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    step: int,
    history: list[dict[str, float]],
    keep: int,
) -> None:
    """Write a checkpoint atomically and remove all but the newest `keep`."""
    with atomic_directory(folder / f"{_PREFIX}{step:08d}", marker="state.json") as target:
        save_file(unique_tensors(model), target / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), target / "optimizer.safetensors")
        write_json(target / "state.json", {"step": step, "history": history})
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder."""
    return _folders(folder)[::-1]


def restore(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, list[dict[str, float]]]:
    """Load weights and optimizer state in place; returns the step and the history.

    Raises:
        DataError: the checkpoint is damaged; model and optimizer are as they were.
    """
    try:
        saved = read_json(checkpoint / "state.json")
        weights = load_file(checkpoint / "model.safetensors")
        tensors = load_file(checkpoint / "optimizer.safetensors")
    except (DataError, OSError, SafetensorError) as error:
        raise DataError(f"the checkpoint {checkpoint.name} cannot be read: {error}") from None
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    load_tensors(model, weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return saved["step"], saved["history"]


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, values in state.items()
        for name, tensor in values.items()
    }


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())
