"""MEGL: one network that classifies an image, shows where it looked, and says why."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import ModelConfig, parse
from megl_core.data.tokenizer import Tokenizer, load_tokenizer
from megl_core.data.transforms import image_to_tensor
from megl_core.errors import DataError
from megl_core.files import read_json, write_json
from megl_core.models.attribution import BY_GRADIENT, check_saliency, saliency_map
from megl_core.models.backbone import Features, build_backbone
from megl_core.models.decoder import Words, build_decoder
from megl_core.models.grounding import ground
from megl_core.models.saliency import display_form
from megl_core.models.weights import load_tensors, merged_tensors

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Output:
    """What a training step needs.

    Attributes:
        logits: (B, C).
        saliency: (B, h, w) raw map of the target class.
        words: scores of the next words and their attention; None without a decoder or tokens.
        pixels: (B, 3, S, S) the normalised images, upstream of `logits`; None unless they were asked for.
    """

    logits: Tensor
    saliency: Tensor
    words: Words | None
    pixels: Tensor | None = None


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
        word_attention: (B, T, h, w) where each generated token looked; None where that is not known.
    """

    logits: Tensor
    predicted: Tensor
    target: Tensor
    saliency: Tensor
    heat_map: Tensor
    rationales: list[str]
    word_attention: Tensor | None


class MEGL(nn.Module):
    """Backbone, linear head, the saliency of both, and a decoder grounded in that saliency.

    `encoder` and `decoder` describe those of a saved model, which are built without their checkpoints.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: list[str],
        tokenizer: Tokenizer | None = None,
        encoder: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.labels = labels
        self.tokenizer = tokenizer if config.decoder.name != "none" else None
        self.backbone = build_backbone(config, encoder)
        check_saliency(config.saliency, self.backbone)
        self.image_size, self.map_size = self.backbone.image_size, self.backbone.map_size
        self.head = nn.Linear(self.backbone.num_channels, len(labels))
        if self.tokenizer is not None:
            self.decoder = build_decoder(
                config, self.tokenizer, self.backbone.num_channels, self.map_size**2, decoder
            )

    @property
    def can_write(self) -> bool:
        """Whether the model writes rationales."""
        return self.tokenizer is not None

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(
        self,
        images: Tensor,
        target: Tensor,
        tokens: Tensor | None,
        leak: float,
        *,
        input_gradients: bool = False,
    ) -> Output:
        """One training pass.

        Args:
            images: (B, 3, S, S) uint8.
            target: (B,) class whose map is made: the label.
            tokens: (B, T) rationale so far, or None.
            leak: eta of the grounding prior.
            input_gradients: return the pixels too, ready for gradients of every order.
        """
        features, logits, saliency = self._look(images, target, trace=input_gradients)
        words = None
        if self.can_write and tokens is not None:
            grounded = ground(features.cells, saliency, self.config.grounding, leak)
            words = self.decoder(tokens, grounded, images)
        return Output(logits, saliency, words, features.pixels if input_gradients else None)

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
        return image_to_tensor(image, self.image_size)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and tokenizer.json into an existing folder."""
        from safetensors.torch import save_file

        write_json(
            folder / CONFIG_FILE,
            {
                "format_version": FORMAT_VERSION,
                "labels": self.labels,
                "model": self.config.model_dump(mode="json"),
                "encoder": self.backbone.description,
                "decoder": None if self.tokenizer is None else self.decoder.description,
            },
        )
        save_file(merged_tensors(self), folder / WEIGHTS_FILE)
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
                f"model format {saved.get('format_version')!r} is not {FORMAT_VERSION}",
                where=str(folder),
                fix="train it again, or load it with the version of MEGL that wrote it",
            )
        config = parse(ModelConfig, saved["model"], where=str(folder))
        tokenizer_file = folder / TOKENIZER_FILE
        tokenizer = load_tokenizer(config.decoder, tokenizer_file) if tokenizer_file.is_file() else None
        model = cls(config, saved["labels"], tokenizer, saved["encoder"], saved["decoder"])
        try:
            load_tensors(model, load_file(folder / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataError(f"cannot load {WEIGHTS_FILE}: {error}", where=str(folder)) from None
        return model.to(device).eval()

    def _look(
        self, images: Tensor, target: Tensor | None, *, trace: bool = False
    ) -> tuple[Features, Tensor, Tensor]:
        """Features, logits and the raw map of `target` (None: of the predicted class).

        A map made of gradients needs a graph even where the caller wants none; its traces end here.
        """
        kind, wanted = self.config.saliency, torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted or kind in BY_GRADIENT):
            features: Features = self.backbone(images, trace=trace or kind in BY_GRADIENT)
            logits = self.head(features.pooled)
            if target is None:
                target = logits.argmax(dim=1)
            create_graph = wanted and self.config.second_order
            saliency = saliency_map(
                kind, features, logits, self.head.weight, target, create_graph=create_graph
            )
        return (features, logits, saliency) if wanted else (features, logits.detach(), saliency.detach())

    def _explain(self, images: Tensor, targets: Tensor | None, write: bool) -> Explanation:
        features, logits, saliency = self._look(images, targets)
        predicted = logits.argmax(dim=1)
        size = images.shape[-2:]
        shown = display_form(saliency)[:, None]
        heat_map = F.interpolate(shown, size=size, mode="bilinear", align_corners=False)[:, 0]
        rationales: list[str] = []
        attention = None
        if write and self.tokenizer is not None:
            rationales, attention = self._write(self.tokenizer, images, features, saliency)
        target = predicted if targets is None else targets
        return Explanation(logits, predicted, target, saliency, heat_map, rationales, attention)

    def _write(
        self, tokenizer: Tokenizer, images: Tensor, features: Features, saliency: Tensor
    ) -> tuple[list[str], Tensor | None]:
        """A sentence for each image, and where each of its tokens looked, (B, T, h, w)."""
        config = self.config.decoder
        grounded = ground(features.cells, saliency, self.config.grounding, self.config.grounding.leak_end)
        tokens, attention = self.decoder.generate(
            grounded, images, tokenizer.begin, tokenizer.end, config.max_tokens, config.num_beams
        )
        if attention is not None:
            attention = attention.reshape(*attention.shape[:2], self.map_size, self.map_size)
        return [tokenizer.decode(row) for row in tokens.tolist()], attention
