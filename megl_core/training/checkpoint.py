"""Checkpoints: everything a run needs to go on as if it had never stopped, in safetensors and JSON.

    <folder>/step-00000150/
      model.safetensors      what is trained, and the buffers: frozen weights come from elsewhere
      optimizer.safetensors  <parameter>/<name> of each parameter's optimizer tensors
      state.json             the place in the run, the SHA-256 of both files, and that of all this

A checkpoint appears under its name only when it is complete. Its tensors are whole, however many processes
share them. Random numbers are derived from the step's number, so that there is no state of theirs.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from megl_core.errors import DataError, UnavailableError
from megl_core.files import atomic_directory, read_json, sha256_file, sha256_json, write_json
from megl_core.locks import locked_folder
from megl_core.models.weights import load_tensors, save_tensors, unique_names
from megl_core.training.sharding import sharded_like, whole

_PREFIX = "step-"
_STATE = "state.json"
_WEIGHTS, _OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_DIGEST = "sha256"
_HELD_SECONDS = 30.0
_POLL_SECONDS = 0.2
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps, in memory of its own.

    Attributes:
        step: how many steps are done.
        state: JSON, what else there is to know.
    """

    step: int
    state: Mapping[str, Any]
    weights: Tensors
    optimizer: Tensors


def take_snapshot(model: nn.Module, optimizer: Optimizer, step: int, state: Mapping[str, Any]) -> Snapshot:
    """Copy what is trained; every process must call it where parts of the model are sharded."""
    return Snapshot(
        step,
        state,
        {name: _copy(tensor) for name, tensor in _changing(model).items()},
        {
            f"{parameter}/{name}": _copy(tensor)
            for parameter, state in _optimizer_state(model, optimizer).items()
            for name, tensor in state.items()
        },
    )


class CheckpointWriter:
    """Writes snapshots in a thread of its own, one at a time, and keeps the newest `keep`.

    The end of a `with` block waits for what is being written.

    Args:
        saved: is called with each checkpoint's folder, in that thread, before the next one may be written.
    """

    def __init__(self, folder: Path, keep: int, saved: Callable[[Path], None] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self._saved = saved
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._ended = time.monotonic()
        for unfinished in folder.glob(f".{_PREFIX}*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True)

    @property
    def age(self) -> float:
        """Seconds since the last one was written; 0 while one is.

        Raises:
            MeglError: it could not be written.
        """
        if self._writing is None:
            return time.monotonic() - self._ended
        if self._writing.done():
            self.wait()
        return 0.0

    def submit(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot, once the one before it is written.

        Raises:
            MeglError: the one before could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Return when all is on the disk.

        Raises:
            MeglError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._ended = time.monotonic()

    def _write(self, snapshot: Snapshot) -> None:
        written = write_checkpoint(self.folder, snapshot, self.keep)
        if self._saved is not None:
            self._saved(written)


def write_checkpoint(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Write a checkpoint atomically, remove all but the newest `keep`, and return its folder.

    Those of this step and of later ones go first: a run that comes to this step could not read them.

    Raises:
        MeglError: the disk fails; the checkpoints of earlier steps are as they were.
    """
    checkpoint = folder / _name(snapshot.step)
    for unreadable in _folders(folder):
        if unreadable.name >= checkpoint.name:
            shutil.rmtree(unreadable)
    with atomic_directory(checkpoint, marker=_STATE) as target:
        save_tensors(snapshot.weights, target / _WEIGHTS)
        save_tensors(snapshot.optimizer, target / _OPTIMIZER)
        files = {name: sha256_file(target / name) for name in (_WEIGHTS, _OPTIMIZER)}
        state = {**snapshot.state, "step": snapshot.step, "files": files}
        write_json(target / _STATE, {**state, _DIGEST: sha256_json(state)})
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old)
    return checkpoint


@contextlib.contextmanager
def held(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Keep others from writing checkpoints in a folder; it is gone afterwards where it holds none.

    Raises:
        UnavailableError: another process holds it, for longer than one that was told to end.
    """
    with contextlib.ExitStack() as stack:
        _take(folder, stack, announce)
        try:
            yield
        finally:
            if not newest_first(folder):
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another run's checkpoints may lie beside ours
                    folder.parent.rmdir()


def _take(folder: Path, stack: contextlib.ExitStack, announce: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _HELD_SECONDS
    has_told = False
    while True:
        try:
            stack.enter_context(locked_folder(folder, wait=False))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "another training of the same data and settings writes its checkpoints here",
                    where=str(folder),
                    fix="wait for its end, stop it, or choose another output",
                ) from None
        else:
            return
        if not has_told:
            announce("another training writes its checkpoints here: waiting for its end")
            has_told = True
        time.sleep(_POLL_SECONDS)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder."""
    return _folders(folder)[::-1]


def check(checkpoint: Path) -> None:
    """Read all of a checkpoint's bytes.

    Raises:
        DataError: they are not those that were written.
    """
    try:
        damaged = next(_damaged(checkpoint), None)
    except (DataError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"the checkpoint {checkpoint.name} cannot be read: {error}") from None
    if damaged:
        raise DataError(f"the checkpoint {checkpoint.name} cannot be read: {damaged} is damaged")


def restore(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Load weights and optimizer state in place; returns the snapshot's state, with its `step`.

    Raises:
        DataError: the checkpoint cannot be read; model and optimizer are as they were.
    """
    try:
        saved: dict[str, Any] = read_json(checkpoint / _STATE)
        weights = load_file(checkpoint / _WEIGHTS)
        tensors = load_file(checkpoint / _OPTIMIZER)
    except (DataError, OSError, SafetensorError) as error:
        raise DataError(f"the checkpoint {checkpoint.name} cannot be read: {error}") from None
    state = model.state_dict()
    placed = {name: sharded_like(tensor, state[name]) for name, tensor in weights.items()}
    load_tensors(model, {**state, **placed})
    _load_optimizer(model, optimizer, tensors)
    return saved


def _damaged(checkpoint: Path) -> Iterator[str]:
    """The files whose bytes are not those that were written."""
    state = read_json(checkpoint / _STATE)
    if state.pop(_DIGEST, None) != sha256_json(state) or checkpoint.name != _name(state["step"]):
        yield _STATE
    for name, digest in state["files"].items():
        if sha256_file(checkpoint / name) != digest:
            yield name


def _changing(model: nn.Module) -> Tensors:
    """What a step may change: trained parameters and buffers, each tensor once."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = model.state_dict()
    return {name: state[name] for name in unique_names(model) if name not in frozen}


def _optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensors]:
    """The optimizer's tensors by the names of their parameters."""
    state: Mapping[Any, Tensors] = optimizer.state
    return {name: state[tensor] for name, tensor in model.named_parameters() if tensor in state}


def _load_optimizer(model: nn.Module, optimizer: Optimizer, tensors: Tensors) -> None:
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {parameter: name for name, parameter in model.named_parameters()}
    index = {names[parameter]: number for number, parameter in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        placed = sharded_like(tensor, parameters[index[name]])
        state.setdefault(index[name], {})[kind] = placed
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _copy(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())
