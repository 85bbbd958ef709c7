"""CLIPScore with a CLIP model from a local folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from megl_core.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

_SCALE = 2.5
_PROMPT = "A photo depicts "


class ClipScore:
    """Does a sentence fit its image, without any reference (Hessel et al., EMNLP 2021).

    2.5 * max(cos(image embedding, text embedding), 0), the text behind the paper's prompt "A photo
    depicts". Sentences longer than CLIP's context are cut.

    Args:
        path: folder of a CLIP model with tokenizer and image processor, weights as safetensors.

    Raises:
        ConfigError: the folder holds no such model.
    """

    def __init__(self, path: str, device: torch.device | str = "cpu") -> None:
        from transformers import AutoConfig, AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        try:
            if not Path(path).is_dir():
                raise OSError("no such folder")
            kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
            if kind != "clip":
                raise ValueError(f"it is a model of type {kind}, not clip")
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            self._processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
            model = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"evaluation.clipscore_model cannot be loaded: {error}",
                where=path,
                fix="name a folder with CLIP's config.json, model.safetensors, tokenizer and image processor",
            ) from None
        self._model = model.to(device).eval()

    @torch.no_grad()
    def score(self, images: Sequence["Image"], texts: Sequence[str]) -> list[float]:
        """The score of each image (RGB, any size) with its text, in [0, 2.5]."""
        words = self._tokenizer(
            [_PROMPT + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._model.device)
        pixels = self._processor(images=list(images), return_tensors="pt").to(self._model.device)
        output = self._model(**words, **pixels)
        cosines = torch.cosine_similarity(output.image_embeds, output.text_embeds, dim=-1)
        return (_SCALE * cosines.clamp(min=0.0)).tolist()
