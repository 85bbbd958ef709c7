"""Tiny checkpoints of each architecture, as save_pretrained writes them: 16 pixels, cells of 8 pixels."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers as t

_TOKENS = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
_SQUARE = {"height": 16, "width": 16}
MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
_COLOURS = {"image_mean": MEAN, "image_std": DEVIATION}


def _vit() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    config = t.ViTConfig(image_size=16, intermediate_size=16, **_TOKENS)
    return t.ViTModel(config), t.ViTImageProcessorPil(size=_SQUARE, **_COLOURS)


def _resnet() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    config = t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return t.ResNetModel(config), t.ConvNextImageProcessorPil(size={"shortest_edge": 16}, **_COLOURS)


def _convnext() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    config = t.ConvNextConfig(num_stages=2, hidden_sizes=[4, 8], depths=[1, 1], layer_scale_init_value=0.5)
    return t.ConvNextModel(config), t.ConvNextImageProcessorPil(size={"shortest_edge": 16}, **_COLOURS)


def _bit() -> t.BaseImageProcessor:
    return t.BitImageProcessorPil(size={"shortest_edge": 18}, crop_size=_SQUARE, **_COLOURS)


def _dinov2() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    # As in the published checkpoints, positions were learnt at another size than the processor's.
    return t.Dinov2Model(t.Dinov2Config(image_size=24, mlp_ratio=2, **_TOKENS)), _bit()


def _dinov2_with_registers() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    config = t.Dinov2WithRegistersConfig(image_size=24, mlp_ratio=2, num_register_tokens=3, **_TOKENS)
    return t.Dinov2WithRegistersModel(config), _bit()


def _clip() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    words = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = {**words, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**_TOKENS, "image_size": 16, "intermediate_size": 16}
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=4)
    return t.CLIPModel(config), t.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size=_SQUARE, **_COLOURS
    )


MAKERS: dict[str, Callable[[], tuple[t.PreTrainedModel, t.BaseImageProcessor]]] = {
    "resnet": _resnet,
    "convnext": _convnext,
    "vit": _vit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "clip": _clip,
}


def save_checkpoint(kind: str, folder: Path) -> Path:
    """Write a checkpoint of this kind with weights large enough that its features differ."""
    torch.manual_seed(0)
    model, processor = MAKERS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
