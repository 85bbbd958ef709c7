"""The objective L = L_cls + w_v L_vis + w_t L_txt + w_c L_dist + w_r L_reg."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import ObjectiveConfig
from megl_core.data.tokenizer import IGNORE
from megl_core.models.megl import Output
from megl_core.objectives.alignment import ALIGNMENTS, OF_PIXELS, AlignmentLoss
from megl_core.objectives.consistency import CONSISTENCIES, unannotated_sums
from megl_core.objectives.reduce import global_mean, global_sum, masked_mean
from megl_core.objectives.region import region_loss, says_where
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


@dataclass(frozen=True)
class Whole:
    """What is known of a step's batch as a whole, over all processes, before a part of it is seen.

    Attributes:
        samples, annotated, words, regions: scalars, how many of each count.
        parts: the number of micro-batches.
        others: `unannotated_sums` of this process's other micro-batches; None where there are none.
    """

    samples: Tensor
    annotated: Tensor
    words: Tensor
    regions: Tensor
    parts: int = 1
    others: Tensor | None = None


def whole_batch(targets: Targets, parts: int = 1) -> Whole:
    """Count a step's targets over all processes, each of which calls this with its own share."""
    says = torch.zeros_like(targets.has_mask)
    if targets.regions is not None:
        says = says_where(targets.regions, targets.has_mask)
    followed = targets.tokens[:, 1:] != IGNORE
    kept = (torch.ones_like(targets.has_mask), targets.has_mask, followed, says)
    counts = global_sum(torch.stack([keep.sum() for keep in kept]).float())
    samples, annotated, words, regions = counts
    return Whole(samples, annotated, words, regions, parts)


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

    @property
    def compares_maps(self) -> bool:
        """Whether a term is no sum over samples, so that micro-batches must know of each other."""
        return self.config.consistency > 0 and self.reference is not None

    def unannotated_sums(self, saliency: Tensor, targets: Targets) -> Tensor:
        """What these samples add to the statistics that `Whole.others` holds."""
        assert self.reference is not None  # noqa: S101 (`compares_maps`)
        kind = self.config.consistency_kind
        return unannotated_sums(kind, saliency, ~targets.has_mask, targets.labels, self.reference)

    def forward(
        self, output: Output, targets: Targets, progress: float = 1.0, whole: Whole | None = None
    ) -> dict[str, Tensor]:
        """The terms of one batch.

        Args:
            output: of the model.
            targets: of the same samples.
            progress: in [0, 1], how much of the training is done: weights with a warm-up depend on it.
            whole: of the step that these samples are a part of; None: they are this process's share of it.

        Returns:
            Scalars `loss`, `classification` and, where they apply, `visual`, `consistency`, `text`,
            `region`; only in `loss` are they weighted. Those of the parts of a step add up to its terms.
        """
        config = self.config
        whole = whole or whole_batch(targets)
        smoothing = config.label_smoothing
        losses = F.cross_entropy(output.logits, targets.labels, reduction="none", label_smoothing=smoothing)
        terms = {"classification": global_mean(losses, whole.samples)}
        if self.alignment is not None:
            losses = self.alignment(output, targets.masks.to(output.saliency.dtype) / 255)
            terms["visual"] = masked_mean(losses, targets.has_mask, whole.annotated)
        if config.consistency > 0 and self.reference is not None:
            compare = CONSISTENCIES[config.consistency_kind]
            distance = compare(
                output.saliency, ~targets.has_mask, targets.labels, self.reference, whole.others
            )
            terms["consistency"] = _share(distance, whole.parts)
        if config.text > 0 and output.words is not None:
            following = targets.tokens[:, 1:]
            losses = token_losses(output.words.logits, following)
            terms["text"] = masked_mean(losses, following != IGNORE, whole.words)
        if config.region > 0 and targets.regions is not None:
            terms["region"] = region_loss(output.saliency, targets.regions, targets.has_mask, whole.regions)
        total = terms["classification"]
        for name, weight in self._weights(progress).items():
            if name in terms:
                total = torch.add(total, terms[name], alpha=weight)
        return {"loss": total, **terms}

    def _weights(self, progress: float) -> dict[str, float]:
        config = self.config
        return {
            "visual": config.visual * ramp(progress, config.visual_warmup),
            "consistency": config.consistency * ramp(progress, config.consistency_warmup),
            "text": config.text * ramp(progress, config.text_warmup),
            "region": config.region,
        }


def _share(value: Tensor, parts: int) -> Tensor:
    """A term of the whole step, of which each part holds the whole value but only its own gradient."""
    return value if parts == 1 else value - value.detach() * (1 - 1 / parts)


def ramp(progress: float, warmup: float) -> float:
    """Linear from 0 to 1 over the first `warmup` share of the training; 1 throughout where that is 0."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0
