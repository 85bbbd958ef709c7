"""The objective L = L_cls + w_v L_vis + w_t L_txt + w_c L_dist."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import ObjectiveConfig
from megl_core.data.tokenizer import PAD
from megl_core.models.megl import Output
from megl_core.objectives.alignment import energy_loss
from megl_core.objectives.consistency import distribution_loss, sorted_curve
from megl_core.objectives.reduce import masked_mean
from megl_core.objectives.text import token_losses


@dataclass(frozen=True)
class Targets:
    """What a batch is supervised with.

    Attributes:
        labels: (B,) class indices.
        masks: (B, S, S) uint8 in 0..255; arbitrary where `has_mask` is 0.
        has_mask: (B,) bool.
        tokens: (B, T + 1) rationales, `<pad>` after their end and throughout where there is none.
    """

    labels: Tensor
    masks: Tensor
    has_mask: Tensor
    tokens: Tensor


class Objective(nn.Module):
    """Computes every term; a term of weight zero is not computed.

    `reference` (P,) is Q, the mean sorted curve of the annotated training masks at map resolution, or
    None where no training image has a mask.
    """

    reference: Tensor | None

    def __init__(self, config: ObjectiveConfig, reference: Tensor | None) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("reference", reference, persistent=False)

    def forward(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """Scalars `loss`, `classification` and, where they apply, `visual`, `consistency`, `text`."""
        config = self.config
        everyone = torch.ones_like(targets.labels)
        smoothing = config.label_smoothing
        losses = F.cross_entropy(output.logits, targets.labels, reduction="none", label_smoothing=smoothing)
        terms = {"classification": masked_mean(losses, everyone)}
        if config.visual > 0:
            cells = pool_masks(targets.masks, output.saliency.shape[-1])
            terms["visual"] = masked_mean(energy_loss(output.saliency, cells), targets.has_mask)
        if config.consistency > 0 and self.reference is not None:
            terms["consistency"] = distribution_loss(output.saliency, ~targets.has_mask, self.reference)
        if config.text > 0 and output.words is not None:
            following = targets.tokens[:, 1:]
            terms["text"] = masked_mean(token_losses(output.words.logits, following), following != PAD)
        weights = {"classification": 1.0} | config.model_dump(include={"visual", "text", "consistency"})
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": total, **terms}


def pool_masks(masks: Tensor, side: int) -> Tensor:
    """Masks (B, S, S) in 0..255 as the marked share of each map cell, (B, side, side) in [0, 1]."""
    return F.adaptive_avg_pool2d(masks.float()[:, None] / 255, side)[:, 0]


def reference_curve(masks: Tensor, side: int) -> Tensor:
    """Q (P,): the mean sorted curve of masks (N, S, S), each relative to its own maximum."""
    return sorted_curve(pool_masks(masks, side)).mean(dim=0)
