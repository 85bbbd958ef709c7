"""The objective L = L_cls + w_v L_vis + w_t L_txt + w_c L_dist + w_r L_reg."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import ObjectiveConfig
from megl_core.data.tokenizer import IGNORE
from megl_core.models.megl import Output
from megl_core.objectives.alignment import ALIGNMENTS, OF_PIXELS, AlignmentLoss
from megl_core.objectives.consistency import CONSISTENCIES
from megl_core.objectives.reduce import masked_mean
from megl_core.objectives.region import region_loss
from megl_core.objectives.text import token_losses


@dataclass(frozen=True)
class Targets:
    """What a batch is supervised with.

    Attributes:
        labels: (B,) class indices.
        masks: (B, S, S) uint8 in 0..255; arbitrary where `has_mask` is 0.
        has_mask: (B,) bool.
        tokens: (B, T + 1) rationales, `IGNORE` after their end and throughout where there is none.
        regions: (B, h, w) bool, where the rationales say that the objects are; all true where they say
            nothing. None where no image has one.
    """

    labels: Tensor
    masks: Tensor
    has_mask: Tensor
    tokens: Tensor
    regions: Tensor | None = None


class Objective(nn.Module):
    """Computes every term; a term of weight zero is not computed.

    Args:
        config: weights and kinds.
        reference: what `consistency_kind` compares with, made by `reference_statistics`; None where no
            training image has a mask.
        cell_size: pixels of the mask for each cell of the map, along one side; only `res_l` looks at it.
    """

    reference: Tensor | None
    alignment: AlignmentLoss | None

    def __init__(self, config: ObjectiveConfig, reference: Tensor | None, cell_size: int = 1) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("reference", reference, persistent=False)
        self.alignment = ALIGNMENTS[config.alignment](cell_size) if config.visual > 0 else None

    @property
    def needs_pixels(self) -> bool:
        """Whether the output must hold `pixels`."""
        return self.alignment is not None and self.config.alignment in OF_PIXELS

    def forward(self, output: Output, targets: Targets, progress: float = 1.0) -> dict[str, Tensor]:
        """The terms of one batch.

        Args:
            output: of the model.
            targets: of the same samples.
            progress: in [0, 1], how much of the training is done: weights with a warm-up depend on it.

        Returns:
            Scalars `loss`, `classification` and, where they apply, `visual`, `consistency`, `text`,
            `region`; only in `loss` are they weighted.
        """
        config = self.config
        everyone = torch.ones_like(targets.labels)
        smoothing = config.label_smoothing
        losses = F.cross_entropy(output.logits, targets.labels, reduction="none", label_smoothing=smoothing)
        terms = {"classification": masked_mean(losses, everyone)}
        if self.alignment is not None:
            losses = self.alignment(output, targets.masks.to(output.saliency.dtype) / 255)
            terms["visual"] = masked_mean(losses, targets.has_mask)
        if config.consistency > 0 and self.reference is not None:
            compare = CONSISTENCIES[config.consistency_kind]
            terms["consistency"] = compare(output.saliency, ~targets.has_mask, targets.labels, self.reference)
        if config.text > 0 and output.words is not None:
            following = targets.tokens[:, 1:]
            terms["text"] = masked_mean(token_losses(output.words.logits, following), following != IGNORE)
        if config.region > 0 and targets.regions is not None:
            terms["region"] = region_loss(output.saliency, targets.regions, targets.has_mask)
        weights = self._weights(progress)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": total, **terms}

    def _weights(self, progress: float) -> dict[str, float]:
        config = self.config
        return {
            "classification": 1.0,
            "visual": config.visual * ramp(progress, config.visual_warmup),
            "consistency": config.consistency * ramp(progress, config.consistency_warmup),
            "text": config.text * ramp(progress, config.text_warmup),
            "region": config.region,
        }


def ramp(progress: float, warmup: float) -> float:
    """Linear from 0 to 1 over the first `warmup` share of the training; 1 throughout where that is 0."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0
