"""One process or several: the process group that torchrun describes, or none."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megl_core.errors import ConfigError, UnavailableError


@dataclass(frozen=True)
class Process:
    """This process among its peers. Only the process of rank 0 writes files and logs."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def process_group(device: str) -> Iterator[Process]:
    """Join the group that torchrun set up (gloo on CPU, NCCL on GPU), or run alone.

    Raises:
        UnavailableError: a GPU is asked for and there is none.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = _choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Process(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Process(rank, world, chosen)
    finally:
        dist.destroy_process_group()


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
