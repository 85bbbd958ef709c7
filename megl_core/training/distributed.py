"""One process or several: the process group that torchrun describes, or none."""

import contextlib
import functools
import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from megl_core.errors import ConfigError, UnavailableError
from megl_core.processes import when_parent_ends

_PATIENCE = timedelta(hours=1)
"""For a process that has much to do before it joins, such as hashing the data."""
_GROUPS = itertools.count()  # a process may train more than once
_ended: list[Any] = []
"""Groups that were left. Whoever frees a gloo group waits for its threads while it holds the interpreter, and
they may wait for the interpreter to free a tensor: so nobody frees one before the process ends."""


@dataclass(frozen=True)
class Process:
    """This process among its peers. Only the process of rank 0 writes files and logs.

    Attributes:
        store: what the processes tell each other outside of the training steps; None for a lone one.
    """

    rank: int
    world: int
    device: torch.device
    store: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def seed(self, number: int) -> None:
        """Seed whatever random numbers a step draws.

        `torch.manual_seed` takes about a hundredth of a small model's step: it keeps the seed, with a stack
        trace, for every kind of device that is not in use.
        """
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def meet(self, place: str) -> None:
        """Wait until all processes are here, for as long as it takes. A place serves once in a run."""
        if self.world == 1:
            return
        if self.store.add(f"{place}/arrived", 1) == self.world:
            self.store.set(f"{place}/all", "")
        self._wait_for(f"{place}/all")

    def from_main(self, name: str, value: str | None) -> str:
        """The main process's value, which the others wait for as long as it takes. A name serves once."""
        if self.world == 1:
            return value or ""
        if self.is_main:
            self.store.set(name, value or "")
        self._wait_for(name)
        found: bytes = self.store.get(name)
        return found.decode()

    def agree(self, values: Tensor, more: list[float]) -> list[float]:
        """The largest of all processes' values for each entry of (N,) and `more`; one wait for the device."""
        if self.world == 1:
            return [*values.tolist(), *more]
        joined = torch.cat([values, values.new_tensor(more)])
        dist.all_reduce(joined, dist.ReduceOp.MAX)
        found: list[float] = joined.tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def _wait_for(self, key: str) -> None:
        while not self.store.check([key]):  # a signal gets through, which a blocking wait would hold up
            time.sleep(0.02)


@contextlib.contextmanager
def process_group(device: str, stall_seconds: float) -> Iterator[Process]:
    """Join the group that torchrun set up (gloo on CPU, NCCL on GPU), or run alone.

    Args:
        device: `auto`, `cpu` or `cuda`.
        stall_seconds: how long a process waits for the others within a step.

    Raises:
        UnavailableError: a GPU is asked for and there is none.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Process(0, 1, chosen)
        return
    _stop_with_launcher()
    store, rank, world = next(rendezvous("env://", timeout=_PATIENCE))
    store = PrefixStore(f"megl/{next(_GROUPS)}", store)
    process = Process(rank, world, chosen, store)
    process.meet("start")  # from here on nobody is late
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=stall_seconds),
    )
    try:
        yield process
    finally:
        _ended.append(dist.group.WORLD)
        dist.destroy_process_group()


@functools.cache  # a process may train more than once
def _stop_with_launcher() -> None:
    """A launcher that is killed leaves nobody behind who trains beside its successor."""
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def _choose_device(name: str, local_rank: int) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not has_gpu):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(f"unknown device {name!r}", fix="train.device is auto, cpu or cuda")
    if not has_gpu:
        raise UnavailableError(
            "no CUDA device is visible", fix="set train.device=cpu, or run where a GPU is granted"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
