"""Image encoders: images (B, 3, S, S) in; a map of cells (B, K, h, w) and what the head reads of it out."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from megl_core.config import BackboneConfig, ModelConfig
from megl_core.errors import ConfigError

# The usual statistics of natural images.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
DEFAULT_IMAGE_SIZE = 32
Pooling = Literal["mean", "normed mean", "class token"]


@dataclass(frozen=True)
class Features:
    """What an encoder makes of its images.

    Attributes:
        cells: (B, K, h, w).
        pooled: (B, K), what the head reads.
        pixels: (B, 3, S, S) the normalised images; a leaf that takes gradients in a traced pass.
        activations: what Grad-CAM weighs, upstream of `pooled`: a map (B, K, h, w), or tokens (B, T, K)
            whose last h w are the cells.
        attentions: (B, H, T, T) of each block, first to last, rows summing to 1; only where the model's
            saliency asks for them.
    """

    cells: Tensor
    pooled: Tensor
    pixels: Tensor
    activations: Tensor
    attentions: tuple[Tensor, ...] = ()

    def at_least_single(self) -> "Features":
        """What head and closed-form maps read, in no less than float32."""
        return replace(self, cells=at_least_single(self.cells), pooled=at_least_single(self.pooled))


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Backbone(nn.Module):
    """What all encoders share: normalisation, sizes, and which of their parts are trained.

    Attributes:
        image_size: S, the side of the images.
        stride: pixels of the image for each cell of the map, along one side.
        num_channels: K.
        pooling: what `pooled` is: the `mean` of the cells, a `normed mean`, or the `class token`.
        description: JSON from which the encoder can be built without its checkpoint; None where the
            configuration is enough.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        stride: int,
        num_channels: int,
        pooling: Pooling = "mean",
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if image_size % stride:
            raise ConfigError(
                f"model.image_size {image_size} is not a multiple of the backbone's stride {stride}",
                fix=f"choose a multiple of {stride}",
            )
        self.image_size = image_size
        self.stride = stride
        self.num_channels = num_channels
        self.pooling = pooling
        self.description = description
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)
        self._trained: list[nn.Module] | None = None

    @property
    def map_size(self) -> int:
        """h = w, the side of the map."""
        return self.image_size // self.stride

    def forward(self, images: Tensor, *, trace: bool = False) -> Features:
        """Encode (B, 3, S, S) uint8 images.

        A traced pass lets everything in it take gradients, pixels and frozen parts too, and gradients of
        gradients: fused attention has none of those.
        """
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.deviation
        attention: AbstractContextManager[object] = nullcontext()
        if trace:
            pixels.requires_grad_()
            attention = sdpa_kernel(SDPBackend.MATH)
        with attention:
            return self.encode(pixels)

    def encode(self, pixels: Tensor) -> Features:
        """The features of normalised images (B, 3, S, S)."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """As for every module, except that frozen parts keep their statistics and drop nothing."""
        super().train(mode)
        if self._trained is not None:
            for child in self.children():
                child.eval()
            for part in self._trained:
                part.train(mode)
        return self

    def freeze_all_but(
        self, trainable: Literal["all", "none"] | int, stages: Sequence[nn.Module], norm: nn.Module | None
    ) -> None:
        """Freeze what `trainable` leaves out; the norm after the last of `stages` goes with it.

        Raises:
            ConfigError: more stages than there are.
        """
        if trainable == "all":
            return
        number = 0 if trainable == "none" else trainable
        if number > len(stages):
            raise ConfigError(
                f"model.backbone.trainable is {number}, and this encoder has {len(stages)} stages",
                fix=f"choose all, none or 1 to {len(stages)}",
            )
        self._trained = list(stages[len(stages) - number :])
        if norm is not None and number:
            self._trained.append(norm)
        self.requires_grad_(False)
        for part in self._trained:
            part.requires_grad_()
        self.train(self.training)


class SmallBackbone(Backbone):
    """A compact ResNet from scratch.

    Its batch norms are on purpose. Norms with statistics of the single image (group, layer, instance)
    carry a cue from where it lies into every cell of the map, so that a clean heat map no longer means
    that the cue is unused.
    """

    def __init__(self, config: BackboneConfig, image_size: int | None) -> None:
        from transformers import ResNetConfig, ResNetModel
        from transformers.models.resnet.modeling_resnet import ResNetConvLayer

        if len(config.widths) != len(config.depths):
            raise ConfigError(
                f"model.backbone: {len(config.widths)} widths but {len(config.depths)} depths",
                fix="give one width and one depth for each stage",
            )
        super().__init__(
            image_size=image_size or DEFAULT_IMAGE_SIZE,
            stride=config.stem_stride * 2 ** (len(config.widths) - 1),
            num_channels=config.widths[-1],
        )
        resnet = ResNetModel(
            ResNetConfig(
                embedding_size=config.widths[0],
                hidden_sizes=config.widths,
                depths=config.depths,
                layer_type="basic",
            )
        )
        if config.stem_stride < 4:
            resnet.embedder.embedder = ResNetConvLayer(
                3, config.widths[0], kernel_size=3, stride=config.stem_stride
            )
            resnet.embedder.pooler = nn.Identity()
        self.embedder = resnet.embedder
        self.encoder = resnet.encoder
        # Convolutions are up to a third faster with channels last, on a CPU too.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.freeze_all_but(config.trainable, list(self.encoder.stages), norm=None)

    def encode(self, pixels: Tensor) -> Features:
        rows = pixels.contiguous(memory_format=torch.channels_last)
        cells: Tensor = self.encoder(self.embedder(rows)).last_hidden_state
        return Features(cells, cells.mean(dim=(2, 3)), pixels, activations=cells)


def cells_of(tokens: Tensor, side: int) -> Tensor:
    """The map (B, K, side, side) of tokens (B, T, K): the last side x side of them, row by row.

    What stands before them (a class token, registers) belongs to no place.
    """
    patches = tokens[:, tokens.shape[1] - side * side :].transpose(1, 2)
    return patches.reshape(*patches.shape[:2], side, side)


def build_backbone(config: ModelConfig, description: Mapping[str, Any] | None = None) -> Backbone:
    """The encoder that a configuration names.

    Args:
        config: of the model.
        description: of a saved encoder, which is then built without its checkpoint and without its
            weights; None: a new one, with the weights of the checkpoint.

    Raises:
        ConfigError: sizes that do not fit, or a checkpoint of another architecture.
        DataError: a checkpoint that is broken, or has no safetensors weights.
        UnavailableError: a checkpoint that cannot be fetched.
    """
    if config.backbone.name == "small":
        return SmallBackbone(config.backbone, config.image_size)
    from megl_core.models.pretrained import PretrainedBackbone

    return PretrainedBackbone(config, description)
