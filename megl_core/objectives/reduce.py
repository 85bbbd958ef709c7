"""Means over the global batch, whatever share of it this process holds."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def global_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, differentiable; every process must call it."""
    if not is_distributed():
        return value
    summed: Tensor = _AllReduce.apply(value)  # type: ignore[no-untyped-call]
    return summed


def global_stack(value: Tensor) -> Tensor:
    """The values of all W processes, (W, ...) in the order of their ranks, differentiable."""
    place = torch.zeros(world_size(), *[1] * value.ndim, dtype=value.dtype, device=value.device)
    place[dist.get_rank() if is_distributed() else 0] = 1
    return global_sum(place * value)


class _AllReduce(torch.autograd.Function):
    """The sum over processes; each of them depends on the sum, so its gradients are summed as well.

    The backward pass is made of the same sum, so that gradients of gradients are right too.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004 (the interface's argument)
        summed = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return global_sum(gradient)


def masked_mean(values: Tensor, keep: Tensor, count: Tensor | None = None) -> Tensor:
    """The mean of the kept values over all processes, scaled as `global_mean`.

    With nothing kept anywhere it is zero, with zero gradients.

    Args:
        values: (...) one loss each.
        keep: (...) 0 or 1, or a weight.
        count: how many are kept in the whole step, where these are a part of it; None: those of all
            processes.
    """
    keep = keep.to(values.dtype)
    if count is None:
        count = global_sum(keep.sum().detach())
    return global_mean(values * keep, count)


def global_mean(values: Tensor, count: Tensor) -> Tensor:
    """The mean over all processes of values of which `count` count and the others are zero.

    DistributedDataParallel divides the summed gradients by the number of processes W; the local loss is
    therefore W * local sum / global count.
    """
    local = values.sum() / count.clamp(min=1)
    return local if world_size() == 1 else local * world_size()


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def reported_mean(term: Tensor) -> Tensor:
    """The global value of local losses made by `masked_mean`, for the log."""
    if not is_distributed():
        return term.detach()
    with torch.no_grad():
        return global_sum(term.detach()) / world_size()
