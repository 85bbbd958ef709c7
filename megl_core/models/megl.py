"""MEGL: one network that classifies an image, shows where it looked, and says why."""

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import ModelConfig, parse
from megl_core.data.tokenizer import Tokenizer, load_tokenizer
from megl_core.data.transforms import image_to_tensor
from megl_core.errors import ConfigError, DataError, MeglError, UnavailableError
from megl_core.explain.asking import Classes, Pictures, class_indices, open_pictures
from megl_core.explain.explanation import Explanation
from megl_core.explain.model_card import CARD_FILE, UNKNOWN_LICENCE, model_card
from megl_core.files import atomic_directory, read_json, write_json, write_text
from megl_core.models.attribution import BY_GRADIENT, check_saliency, saliency_map
from megl_core.models.backbone import Features, build_backbone
from megl_core.models.decoder import Words, build_decoder
from megl_core.models.grounding import ground
from megl_core.models.pickles import refuse_pickles
from megl_core.models.saliency import display_form
from megl_core.models.weights import load_tensors, merged_tensors, save_tensors

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
    def explain(
        self,
        images: Pictures | Tensor,
        target: Classes | None = None,
        *,
        write: bool = True,
    ) -> Explanation:
        """Classify images and say where and why, in one batch.

        Leaves the modes of all modules and all gradients as it found them.

        Args:
            images: pictures of any sizes, as `open_pictures` takes them, or (B, 3, S, S) uint8.
            target: the class to explain, by name or index, for all images or for each of them; None:
                the predicted one.
            write: whether to write rationales, where the model can.

        Raises:
            DataError: images that cannot be read.
            ConfigError: a class that the model does not know.
        """
        if not isinstance(images, Tensor):
            images = open_pictures(images)
        inputs = self._inputs(images)
        targets = None
        if target is not None:
            indices = class_indices(target, self.labels, len(inputs))
            targets = torch.tensor(indices, device=self.device)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            features, logits, saliency = self._look(inputs, targets)
            rationale, attention = [""] * len(inputs), None
            if write and self.tokenizer is not None:
                rationale, attention = self._write(self.tokenizer, inputs, features, saliency)
        finally:
            for module, mode in modes:
                module.training = mode
        predicted = logits.argmax(dim=1)
        shown = display_form(saliency)[:, None]
        return Explanation(
            labels=self.labels,
            probabilities=logits.float().softmax(dim=1),
            predicted_index=predicted,
            target_index=predicted if targets is None else targets,
            saliency=saliency,
            heat_map=F.interpolate(shown, size=self.image_size, mode="bilinear", align_corners=False),
            rationale=rationale,
            word_attention=attention,
            images=images,
        )

    def preprocess(self, image: "Image") -> Tensor:
        """A picture of any size as the model's input, (3, S, S) uint8."""
        return image_to_tensor(image, self.image_size)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu") -> "MEGL":
        """A trained model, ready to explain. Reads JSON and safetensors only.

        Args:
            source: a model folder, or an MLflow URI: models:/name@alias, models:/name/3, runs:/<run>/name.
                What it names is downloaded, and compared with its registered digest.
            device: `cpu`, `cuda` or `auto` (CUDA where there is one).

        Raises:
            ConfigError: another device, or no such registered model.
            UnavailableError: there is no CUDA device, or MLflow does not answer.
            DataError: no model in the folder, a broken one, or one with pickles.
            IntegrityError: other bytes than those that were registered.
        """
        device = _choose_device(device)
        if str(source).startswith(("models:/", "runs:/")):
            # The registry stands above the models: it is found by name, and only where it is asked for.
            registry = importlib.import_module("megl_core.registry.sources")
            with tempfile.TemporaryDirectory() as scratch:
                return cls.load(registry.fetch(str(source), Path(scratch) / "model"), device)
        folder = Path(source)
        if not (folder / CONFIG_FILE).is_file():
            raise DataError("no trained model in this folder", where=str(folder), fix="train one: megl train")
        return cls.load(folder, device)

    def save_pretrained(
        self, folder: str | Path, evaluation: str | Path | None = None, licence: str = UNKNOWN_LICENCE
    ) -> None:
        """Write a folder for `from_pretrained` in one piece, in place of a model of ours that is there.

        Args:
            folder: of the model.
            evaluation: evaluation.json of this model, or its folder; a model card, README.md, is made of it.
            licence: for the card, as the hub names it.

        Raises:
            MeglError: something else is in the way.
            DataError: an evaluation of a model with other classes.
        """
        folder = Path(folder)
        if (folder / CONFIG_FILE).is_file() and "format_version" not in read_json(folder / CONFIG_FILE):
            raise MeglError(
                "another kind of model is there already", where=str(folder), fix="choose another folder"
            )
        with atomic_directory(folder, marker=CONFIG_FILE) as temporary:
            self.save(temporary)
            if evaluation is not None:
                write_text(temporary / CARD_FILE, model_card(temporary, Path(evaluation), licence))

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and tokenizer.json into an existing folder."""
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
        save_tensors(merged_tensors(self), folder / WEIGHTS_FILE)
        (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it readable by its owner only
        if self.tokenizer is not None:
            self.tokenizer.save(folder / TOKENIZER_FILE)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "MEGL":
        """Read a saved model, in evaluation mode.

        Raises:
            DataError: the folder holds no model, one of another format, or pickles.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        refuse_pickles(folder)
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
            with torch.autocast(images.device.type, enabled=False):  # maps need all the digits there are
                features = features.at_least_single()
                logits = self.head(features.pooled)
                if target is None:
                    target = logits.argmax(dim=1)
                create_graph = wanted and self.config.second_order
                saliency = saliency_map(
                    kind, features, logits, self.head.weight, target, create_graph=create_graph
                )
        return (features, logits, saliency) if wanted else (features, logits.detach(), saliency.detach())

    def _inputs(self, images: Sequence["Image"] | Tensor) -> Tensor:
        """(B, 3, S, S) uint8 on the model's device."""
        if not isinstance(images, Tensor):
            return torch.stack([self.preprocess(image) for image in images]).to(self.device)
        if images.dtype != torch.uint8 or images.shape[1:] != (3, self.image_size, self.image_size):
            raise DataError(
                f"images {tuple(images.shape)} of {images.dtype}; this model takes (B, 3, "
                f"{self.image_size}, {self.image_size}) of torch.uint8",
                fix="give pictures: Pillow images, paths or arrays of any size",
            )
        return images.to(self.device)

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


def _choose_device(name: str) -> str:
    has_gpu = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}", fix="choose auto, cpu or cuda")
    if name == "cuda" and not has_gpu:
        raise UnavailableError("no CUDA device is visible", fix="use the CPU")
    return ("cuda" if has_gpu else "cpu") if name == "auto" else name
