"""Encoders from checkpoints of transformers: one line of `ARCHITECTURES` for each kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig

from megl_core.config import ModelConfig
from megl_core.errors import ConfigError
from megl_core.models.backbone import Backbone, Features, Pooling, cells_of
from megl_core.models.checkpoints import (
    load_weights,
    loading,
    portable,
    read_image_processor,
    require_checkpoint,
)


def _patch(config: Any) -> int:
    return int(config.patch_size)


def _resnet_stride(config: Any) -> int:
    return int(2 ** (len(config.depths) + 1 + bool(config.downsample_in_first_stage)))


def _convnext_stride(config: Any) -> int:
    return int(config.patch_size * 2 ** (len(config.depths) - 1))


@dataclass(frozen=True)
class Architecture:
    """How one kind of encoder is read.

    Attributes:
        model: its class in transformers.
        stages: where its stages (convolutions) or blocks (transformers) are.
        stride: pixels of the image for each cell of the map, from its configuration.
        summary: what the heads of its checkpoints read.
        norm: its last norm, trained together with the last stage.
        normed: whether its last hidden state has passed `norm`.
        build: further arguments of its class.
        call: further arguments of its forward pass.
    """

    model: str
    stages: str
    stride: Callable[[Any], int]
    summary: Pooling
    norm: str | None = None
    normed: bool = True
    build: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


_RESIZE = {"interpolate_pos_encoding": True}
_NO_POOLER = {"add_pooling_layer": False}
_CLASS: Final = "class token"
ARCHITECTURES = {
    "resnet": Architecture("ResNetModel", "encoder.stages", _resnet_stride, "mean"),
    "convnext": Architecture(
        "ConvNextModel", "encoder.stages", _convnext_stride, "normed mean", "layernorm", normed=False
    ),
    "vit": Architecture("ViTModel", "layers", _patch, _CLASS, "layernorm", build=_NO_POOLER, call=_RESIZE),
    "dinov2": Architecture("Dinov2Model", "encoder.layer", _patch, _CLASS, "layernorm"),
    "dinov2_with_registers": Architecture(
        "Dinov2WithRegistersModel", "encoder.layer", _patch, _CLASS, "layernorm"
    ),
    "clip_vision_model": Architecture(
        "CLIPVisionModel", "encoder.layers", _patch, _CLASS, "post_layernorm", normed=False, call=_RESIZE
    ),
}


class PretrainedBackbone(Backbone):
    """An encoder of transformers, its last hidden state as cells.

    Cells have passed the encoder's last norm, each by itself. With pooling `checkpoint` the head reads what
    the checkpoint's own head read: the mean (ResNet), the normed mean (ConvNeXt) or the class token. A
    transformer mixes its cells globally: what a cell shows need not come from where it lies.

    The patches that leave a transformer's last block do not reach its class token any more and have no
    gradient: there, Grad-CAM looks at the tokens that enter the last block.
    """

    def __init__(self, config: ModelConfig, description: Mapping[str, Any] | None = None) -> None:
        path = str(config.backbone.path)
        known = description or read_description(path)
        encoder_config = AutoConfig.for_model(**known["encoder"])
        architecture = ARCHITECTURES[encoder_config.model_type]
        super().__init__(
            image_size=config.image_size or known["image_size"],
            stride=architecture.stride(encoder_config),
            num_channels=known["num_channels"],
            pooling="mean" if config.backbone.pooling == "mean" else architecture.summary,
            mean=known["mean"],
            deviation=known["deviation"],
            description=known,
        )
        options, self._call = dict(architecture.build), dict(architecture.call)
        if self.pooling == _CLASS:
            self._call["output_hidden_states"] = True
        if self.pooling == _CLASS and config.saliency in ("attention", "relevance"):
            options["attn_implementation"] = "eager"  # fused attention hides its matrix
            self._call["output_attentions"] = True
        model = getattr(transformers, architecture.model)
        if description is None:
            self.encoder = load_weights(path, model, **options)
        else:
            self.encoder = model._from_config(encoder_config, dtype=torch.float32, **options)
        self._outer_norm = None if architecture.normed else architecture.norm
        norm = self.encoder.get_submodule(architecture.norm) if architecture.norm else None
        stages = cast(nn.ModuleList, self.encoder.get_submodule(architecture.stages))
        self.freeze_all_but(config.backbone.trainable, list(stages), norm)
        for name, parameter in self.encoder.named_parameters():
            if name.endswith("mask_token"):  # of masked pretraining: no image uses it
                parameter.requires_grad_(False)

    def encode(self, pixels: Tensor) -> Features:
        output = self.encoder(pixels, **self._call)
        hidden: Tensor = output.last_hidden_state
        tokens = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
        if self._outer_norm is not None:
            tokens = self.encoder.get_submodule(self._outer_norm)(tokens)
        cells = cells_of(tokens, self.map_size)
        if self.pooling == "mean":
            return Features(cells, cells.mean(dim=(2, 3)), pixels, activations=cells)
        if self.pooling == "normed mean":
            return Features(cells, output.pooler_output, pixels, activations=hidden)
        entering = output.hidden_states[-2]
        return Features(cells, tokens[:, 0], pixels, entering, output.attentions or ())


def read_description(path: str) -> dict[str, Any]:
    """What is needed to build a checkpoint's encoder without the checkpoint, as JSON.

    Raises:
        ConfigError: no such folder, an unknown architecture, or no image processor.
        DataError: the checkpoint is broken, or has no safetensors weights.
        UnavailableError: it cannot be fetched.
    """
    require_checkpoint(path, "model.backbone.path")
    with loading(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    config = getattr(config, "vision_config", config)  # CLIP: one of its two towers
    if config.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"an encoder of kind {config.model_type!r} cannot be used",
            where=path,
            fix=f"choose a checkpoint of {', '.join(ARCHITECTURES)}",
        )
    image_size, mean, deviation = read_image_processor(path)
    widths = getattr(config, "hidden_sizes", None)
    return {
        "encoder": portable(config),
        "num_channels": widths[-1] if widths else config.hidden_size,
        "image_size": image_size,
        "mean": mean,
        "deviation": deviation,
    }
