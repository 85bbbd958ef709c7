"""Batch norm over the global batch: with several processes the same statistics as with one.

torch's SyncBatchNorm runs on GPUs only, and has no gradients of gradients. This one is made of
differentiable sums over processes, and runs wherever they do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from megl_core.objectives.reduce import global_stack, is_distributed


def share_batch_norm(module: nn.Module) -> None:
    """Let all batch norms below `module` see the batches of all processes; names of tensors stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, GlobalBatchNorm(child))


class GlobalBatchNorm(_BatchNorm):
    """A batch norm like `norm`, with its very parameters and buffers, over the batches of all processes.

    In one process, and in evaluation mode, it is torch's own. Every process must run it equally often,
    with at least one value for each channel.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
        )
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, K, ...)."""
        if not (self.training and is_distributed()):
            return super().forward(x)
        mean, variance, count = global_moments(x)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        buffers: Any = self  # torch's stubs do not know that these are there
        buffers.num_batches_tracked += 1
        momentum = 1 / buffers.num_batches_tracked if self.momentum is None else self.momentum
        buffers.running_mean.lerp_(mean, momentum)
        buffers.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions after the channels."""


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (K,) of each channel of (B, K, ...) over all processes, and the number of values.

    Each process's own moments are joined, which loses fewer digits than a mean of squares (Chan, Golub and
    LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979).
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, dim=[0, *range(2, x.ndim)], correction=0)
    values = torch.full_like(mean, x.numel() / x.shape[1])
    counts, means, variances = global_stack(torch.stack([values, mean, variance])).unbind(dim=1)
    count = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / count
    spread = (counts * (variances + (means - mean).square())).sum(dim=0)
    return mean, spread / count, count
