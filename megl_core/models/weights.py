"""Weights as safetensors holds them: each tensor once, although a model may know it by several names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def unique_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module on the CPU, shared (tied) tensors under the first of their names only."""
    state = module.state_dict()
    return {name: state[name].detach().cpu().contiguous() for name in unique_names(module)}


def unique_names(module: nn.Module) -> list[str]:
    """The names in a module's state, of shared tensors the first alone."""
    return [name for name, first in _first_names(module).items() if name == first]


def merged_tensors(module: nn.Module) -> dict[str, Tensor]:
    """`unique_tensors` of the same module without LoRA: its adapters are added to the weights they adapt."""
    tensors = unique_tensors(module)
    for prefix, layer in module.named_modules():
        if not hasattr(layer, "get_delta_weight"):
            continue
        for name in [name for name in tensors if name.startswith(f"{prefix}.")]:
            tensor = tensors.pop(name)
            if name.startswith(f"{prefix}.base_layer."):
                tensors[name.replace(".base_layer.", ".")] = tensor
        weight = layer.base_layer.weight.detach()
        merged = weight + layer.get_delta_weight(layer.active_adapter[0]).detach()
        tensors[f"{prefix}.weight"] = merged.to(weight.dtype).cpu().contiguous()
    return tensors


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a module with what `unique_tensors` took from one like it.

    Raises:
        RuntimeError: tensors are missing, or there are others, or they have other shapes.
    """
    shared = {name: tensors[first] for name, first in _first_names(module).items() if first in tensors}
    module.load_state_dict({**tensors, **shared})


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: what safetensors tells of as an error of its own: the disk is full, or fails.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        if found := _OS_ERROR.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _first_names(module: nn.Module) -> dict[str, str]:
    """For each name of a tensor the first name of the same tensor."""
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
