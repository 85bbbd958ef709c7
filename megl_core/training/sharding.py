"""A language model in parts: each process keeps a share of every layer (FSDP2), and gathers one at a time.

Its blocks are sharded, which hold nearly all of its weights; embeddings, head and everything else are
replicated, and averaged by DistributedDataParallel. Other trainings do without the libraries that do it,
which take long to load.
"""

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from megl_core.errors import ConfigError
from megl_core.models.megl import MEGL
from megl_core.training.distributed import Process

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard_decoder(model: MEGL, process: Process) -> None:
    """Shard the blocks of the model's language model, in place.

    Raises:
        ConfigError: the decoder is no language model of transformers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    language_model = getattr(getattr(model, "decoder", None), "language_model", None)
    if language_model is None:
        raise ConfigError(
            "train.shard=decoder needs a language model", fix="set model.decoder.name to hf or llava"
        )
    mesh = init_device_mesh(process.device.type, (process.world,))
    for block in _blocks(language_model):
        fully_shard(block, mesh=mesh)


def replicate(step: nn.Module) -> DistributedDataParallel:
    """Data-parallel training of all that is not sharded. The buffers are equal by themselves."""
    sharded = [name for name, parameter in step.named_parameters() if is_sharded(parameter)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, sharded)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(step, forward_sync_buffers=False)


def gather_parameters(module: nn.Module) -> None:
    """Make all parameters whole again, to be saved; every process must call it."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if is_sharded(parameter):
                setattr(part, name, nn.Parameter(whole(parameter.detach()), parameter.requires_grad))


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of a sharded one; every process must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(tensor: Tensor, model: Tensor) -> Tensor:
    """A tensor that all processes hold, in parts where `model` is and has the same shape."""
    if not is_sharded(model) or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients together to at most `max_norm`; returns the norm that they had."""
    groups = [[p for p in parameters if is_sharded(p) == sharded] for sharded in (False, True)]
    groups = [group for group in groups if group]
    if groups == [parameters]:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    norms = [nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups]
    norm = torch.linalg.vector_norm(torch.stack([whole(part) for part in norms]))
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, max_norm, norm)
    return norm


def _blocks(language_model: Any) -> list[nn.Module]:
    """The layers that repeat: the longest list of modules of one class."""
    lists = [part for part in language_model.modules() if isinstance(part, nn.ModuleList)]
    return list(max(lists, key=len, default=()))
