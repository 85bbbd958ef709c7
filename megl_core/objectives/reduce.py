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


class _AllReduce(torch.autograd.Function):
    """The sum over processes; each of them depends on the sum, so its gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004 (the interface's argument)
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """The mean of the kept values over all processes, scaled for gradient averaging.

    DistributedDataParallel divides the summed gradients by the number of processes W; the local loss is
    therefore W * local sum / global count. With nothing kept anywhere it is zero, with zero gradients.

    Args:
        values: (...) one loss each.
        keep: (...) 0 or 1, or a weight.
    """
    keep = keep.to(values.dtype)
    count = global_sum(keep.sum().detach())
    return (values * keep).sum() * world_size() / count.clamp(min=1)


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def reported_mean(term: Tensor) -> Tensor:
    """The global value of a local loss made by `masked_mean`, for the log."""
    if not is_distributed():
        return term.detach()
    with torch.no_grad():
        return global_sum(term.detach().clone()) / world_size()
