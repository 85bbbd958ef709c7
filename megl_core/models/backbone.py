"""Image encoders: images (B, 3, S, S) in, a feature map (B, K, h, w) out."""

from torch import Tensor, nn

from megl_core.config import BackboneConfig
from megl_core.errors import ConfigError


class Backbone(nn.Module):
    """A transformers ResNet without its pooling.

    Its batch norms are on purpose. Norms with statistics of the single image (group, layer, instance)
    carry a cue from where it lies into every cell of the map, so that a clean heat map no longer means
    that the cue is unused.

    Attributes:
        num_channels: K, the channels of the feature map.
        stride: pixels of the image for each cell of the map, along one side.
    """

    def __init__(self, config: BackboneConfig) -> None:
        from transformers import ResNetConfig, ResNetModel
        from transformers.models.resnet.modeling_resnet import ResNetConvLayer

        super().__init__()
        if len(config.widths) != len(config.depths):
            raise ConfigError(
                f"model.backbone: {len(config.widths)} widths but {len(config.depths)} depths",
                fix="give one width and one depth for each stage",
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
        self.num_channels = config.widths[-1]
        self.stride = config.stem_stride * 2 ** (len(config.widths) - 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images to (B, K, S / stride, S / stride) features."""
        features: Tensor = self.encoder(self.embedder(images)).last_hidden_state
        return features
