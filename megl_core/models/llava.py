"""The `llava` decoder: a LLaVA checkpoint that looks at the picture itself, and at the saliency.

Liu et al., "Visual Instruction Tuning", NeurIPS 2023; "Improved Baselines with Visual Instruction Tuning",
CVPR 2024. A prompt asks why. After the tokens of the whole picture come the same tokens scaled by G rho_g,
the saliency prior on the grid of G patches. The classifier's features are not read: the text loss reaches
the classifier through the saliency alone.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, LlavaForConditionalGeneration

from megl_core.config import DecoderConfig
from megl_core.data.tokenizer import PretrainedTokenizer, Tokenizer
from megl_core.errors import ConfigError
from megl_core.models.checkpoints import (
    load_weights,
    loading,
    portable,
    read_image_processor,
    require_checkpoint,
)
from megl_core.models.grounding import Grounded, resample_shares
from megl_core.models.language import PATH_SETTING, PrefixDecoder


class LlavaDecoder(PrefixDecoder):
    """LLaVA with saliency tokens. Its vision tower is never trained."""

    before: Tensor
    after: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        config: DecoderConfig,
        tokenizer: Tokenizer,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        new = description is None
        if description is None:
            model, description = _read_checkpoint(config)
        else:
            model_config = AutoConfig.for_model(**description["model"])
            model = LlavaForConditionalGeneration._from_config(model_config)
        super().__init__(model, config, description, new=new)
        model.model.vision_tower.requires_grad_(False)
        vision = model.config.vision_config
        self.image_size = int(vision.image_size)
        self.grid = int(vision.image_size // vision.patch_size)
        self.num_tokens = self.grid**2 + (model.config.vision_feature_select_strategy == "full")
        for name in ("mean", "deviation"):
            values = torch.tensor(description[name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        for name, tokens in zip(("before", "after"), _ask(config.prompt, tokenizer), strict=True):
            self.register_buffer(name, torch.tensor([tokens]), persistent=False)
        prompt_length = self.before.shape[1] + self.after.shape[1]
        self.require_fit(tokenizer, prompt_length + self.num_tokens + self.grid**2, config)

    @property
    def language_model(self) -> Any:
        return self.model.model.language_model

    def prefix(self, opening: Tensor, grounded: Grounded, images: Tensor) -> Tensor:  # noqa: ARG002
        picture = self._look(images)
        prior = resample_shares(grounded.prior[:, None], self.grid)[:, 0]
        scale = (prior * self.grid**2).to(picture.dtype)
        salient = picture[:, -(self.grid**2) :] * scale[:, :, None]
        before, after = (
            self.embed(tokens).expand(len(images), -1, -1) for tokens in (self.before, self.after)
        )
        return torch.cat([before, picture, salient, after], dim=1)

    def look_at_cells(self, attention: Tensor, num_cells: int) -> Tensor:
        patches = self.grid**2
        middle = self.before.shape[1] + self.num_tokens
        shares = attention[..., middle - patches : middle] + attention[..., middle : middle + patches]
        return resample_shares(shares, round(num_cells**0.5))

    def _look(self, images: Tensor) -> Tensor:
        """The tokens (B, N, E) of uint8 images (B, 3, S, S); the G patches are the last of them."""
        pixels = images.to(self.mean.dtype) / 255
        pixels = F.interpolate(
            pixels, size=self.image_size, mode="bicubic", antialias=True, align_corners=False
        )
        pixels = (pixels.clamp(0, 1) - self.mean) / self.deviation
        tower = self.model.model.vision_tower
        features = self.model.get_image_features(pixel_values=pixels.to(tower.dtype)).pooler_output
        return torch.stack(tuple(features))


def _read_checkpoint(config: DecoderConfig) -> tuple[Any, dict[str, Any]]:
    path = str(config.path)
    require_checkpoint(path, PATH_SETTING)
    with loading(path):
        kind = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    if kind != "llava":
        raise ConfigError(
            f"the checkpoint is {kind}, not llava",
            where=path,
            fix="set model.decoder.name=hf for a language model without a vision tower",
        )
    _, mean, deviation = read_image_processor(path)
    model = load_weights(path, LlavaForConditionalGeneration, dtype=getattr(torch, config.dtype))
    return model, {"model": portable(model.config), "mean": mean, "deviation": deviation}


def _ask(prompt: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens before and after the picture."""
    assert isinstance(tokenizer, PretrainedTokenizer)  # noqa: S101 (the only kind that llava is built with)
    before, after = prompt.split("<image>")
    return [tokenizer.begin, *tokenizer.pieces(before)], tokenizer.pieces(after)
