"""MEGL: one network that classifies an image, shows where it looked, and says why."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import ModelConfig, parse
from megl_core.data.tokenizer import BEGIN, END, WordTokenizer
from megl_core.data.transforms import image_to_tensor, normalise
from megl_core.errors import ConfigError, DataError
from megl_core.files import read_json, write_json
from megl_core.models.backbone import Backbone
from megl_core.models.decoder import SmallDecoder, Words
from megl_core.models.grounding import Grounding
from megl_core.models.saliency import class_map, class_weights, display_form

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Output:
    """What a training step needs.

    Attributes:
        logits: (B, C).
        saliency: (B, h, w) raw map of the target class.
        words: scores of the next words and their attention; None without a decoder or tokens.
    """

    logits: Tensor
    saliency: Tensor
    words: Words | None


@dataclass(frozen=True)
class Explanation:
    """What a person sees.

    Attributes:
        logits: (B, C).
        predicted: (B,) most probable class.
        target: (B,) the class that is explained.
        saliency: (B, h, w) raw map of the target.
        heat_map: (B, S, S) in [0, 1], positive evidence relative to its maximum, bilinear.
        rationales: one sentence for each image; empty where none were asked for.
        word_attention: (B, T, h, w) where each generated token looked; None without sentences.
    """

    logits: Tensor
    predicted: Tensor
    target: Tensor
    saliency: Tensor
    heat_map: Tensor
    rationales: list[str]
    word_attention: Tensor | None


class MEGL(nn.Module):
    """Backbone, pooled linear head with closed-form saliency, and a decoder grounded in that saliency."""

    def __init__(
        self, config: ModelConfig, labels: list[str], tokenizer: WordTokenizer | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.labels = labels
        self.tokenizer = tokenizer if config.decoder.name != "none" else None
        self.backbone = Backbone(config.backbone)
        self.map_size = _map_size(config.image_size, self.backbone.stride)
        self.head = nn.Linear(self.backbone.num_channels, len(labels))
        if self.tokenizer is not None:
            self.grounding = Grounding(
                config.grounding, self.backbone.num_channels, self.map_size**2, config.decoder.width
            )
            self.decoder = SmallDecoder(config.decoder, len(self.tokenizer), config.grounding.beta)

    @property
    def can_write(self) -> bool:
        """Whether the model writes rationales."""
        return self.tokenizer is not None

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, images: Tensor, target: Tensor, tokens: Tensor | None, leak: float) -> Output:
        """One training pass.

        Args:
            images: (B, 3, S, S) uint8.
            target: (B,) class whose map is made: the label.
            tokens: (B, T) rationale so far, or None.
            leak: eta of the grounding prior.
        """
        features, logits, saliency = self._look(images, target)
        words = None
        if self.can_write and tokens is not None:
            words = self.decoder(tokens, self.grounding(features, saliency, leak))
        return Output(logits, saliency, words)

    @torch.no_grad()
    def explain(self, images: Tensor, targets: Tensor | None = None, *, write: bool = True) -> Explanation:
        """Classify and explain (B, 3, S, S) uint8 images, the predicted class unless `targets` (B,) is given.

        Leaves the model's mode and gradients as it found them.
        """
        was_training = self.training
        self.eval()
        try:
            return self._explain(images.to(self.device), targets, write)
        finally:
            self.train(was_training)

    def preprocess(self, image: "Image") -> Tensor:
        """A picture of any size as the model's input, (3, S, S) uint8."""
        return image_to_tensor(image, self.config.image_size)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and tokenizer.json into an existing folder."""
        from safetensors.torch import save_file

        write_json(
            folder / CONFIG_FILE,
            {
                "format_version": FORMAT_VERSION,
                "labels": self.labels,
                "model": self.config.model_dump(mode="json"),
            },
        )
        state = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)
        (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it readable by its owner only
        if self.tokenizer is not None:
            self.tokenizer.save(folder / TOKENIZER_FILE)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "MEGL":
        """Read a saved model, in evaluation mode.

        Raises:
            DataError: the folder holds no model, or one of another format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        saved = read_json(folder / CONFIG_FILE)
        if saved.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"model format {saved.get('format_version')!r} is not {FORMAT_VERSION}", where=str(folder)
            )
        tokenizer_file = folder / TOKENIZER_FILE
        tokenizer = WordTokenizer.load(tokenizer_file) if tokenizer_file.is_file() else None
        model = cls(parse(ModelConfig, saved["model"], where=str(folder)), saved["labels"], tokenizer)
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataError(f"cannot load {WEIGHTS_FILE}: {error}", where=str(folder)) from None
        return model.to(device).eval()

    def _look(self, images: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features, logits and the raw map of `target` (None: of the predicted class)."""
        features = self.backbone(normalise(images))
        logits = self.head(features.mean(dim=(2, 3)))
        if target is None:
            target = logits.argmax(dim=1)
        weights = class_weights(self.head.weight, target, logits, self.config.saliency)
        return features, logits, class_map(features, weights)

    def _explain(self, images: Tensor, targets: Tensor | None, write: bool) -> Explanation:
        features, logits, saliency = self._look(images, targets)
        predicted = logits.argmax(dim=1)
        size = images.shape[-2:]
        shown = display_form(saliency)[:, None]
        heat_map = F.interpolate(shown, size=size, mode="bilinear", align_corners=False)[:, 0]
        rationales: list[str] = []
        attention = None
        if write and self.tokenizer is not None:
            grounded = self.grounding(features, saliency, self.config.grounding.leak_end)
            tokens, looked = self.decoder.generate(grounded, BEGIN, END, self.config.decoder.max_tokens)
            rationales = [self.tokenizer.decode(row) for row in tokens.tolist()]
            attention = looked.reshape(*looked.shape[:2], self.map_size, self.map_size)
        target = predicted if targets is None else targets
        return Explanation(logits, predicted, target, saliency, heat_map, rationales, attention)


def _map_size(image_size: int, stride: int) -> int:
    if image_size % stride:
        raise ConfigError(
            f"model.image_size {image_size} is not a multiple of the backbone's stride {stride}",
            fix=f"choose a multiple of {stride}",
        )
    return image_size // stride
