"""What judges a batch beyond the model's own answers: hidden pixels, and other models for the rationales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from megl_core.config import EvaluationConfig
from megl_core.metrics import faithfulness, meteor
from megl_core.metrics.bertscore import BertScore
from megl_core.metrics.clipscore import ClipScore
from megl_core.models.megl import MEGL

if TYPE_CHECKING:
    from PIL.Image import Image

FAITHFULNESS = {
    "insertion_auc": faithfulness.insertion_auc,
    "deletion_auc": faithfulness.deletion_auc,
    "comprehensiveness": faithfulness.comprehensiveness,
    "sufficiency": faithfulness.sufficiency,
}
TEXT_MODELS = ("bertscore", "clipscore")


def judge_maps(
    model: MEGL, images: Tensor, saliency: Tensor, target: Tensor, config: EvaluationConfig
) -> list[dict[str, float]]:
    """The scores of `FAITHFULNESS` for raw maps (B, h, w) of `target` (B,) in images (B, 3, S, S) uint8.

    The model is in evaluation mode. Only its logits are asked for: a map of a changed image, which
    `explain` would make too, may cost a backward pass.
    """
    maps = F.interpolate(saliency[:, None].float(), images.shape[-2:], mode="bilinear", align_corners=False)[
        :, 0
    ]
    curves = faithfulness.perturbation_curves(
        lambda mixed: model.head(model.backbone(mixed).pooled).float().softmax(dim=1),
        images.to(maps.device),
        maps,
        target,
        steps=config.faithfulness_steps,
        batch_size=config.batch_size,
    )
    columns = [measure(curves).tolist() for measure in FAITHFULNESS.values()]
    return [dict(zip(FAITHFULNESS, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, eq=False)
class TextJudge:
    """The models that the configuration names for judging rationales."""

    bert: BertScore | None
    clip: ClipScore | None

    @classmethod
    def load(cls, config: EvaluationConfig, device: torch.device | str) -> "TextJudge":
        """Raises ConfigError: a model that the configuration names cannot be loaded."""
        bert, clip = config.bertscore_model, config.clipscore_model
        return cls(
            bert=None if bert is None else BertScore(bert, config.bertscore_layer, device),
            clip=None if clip is None else ClipScore(clip, device),
        )

    def judge(
        self,
        images: Sequence["Image"],
        rationales: Sequence[str],
        references: Sequence[Sequence[str]],
    ) -> list[dict[str, float]]:
        """The scores of `TEXT_MODELS` that apply to each rationale (B,); BERTScore needs references."""
        scores: list[dict[str, float]] = [{} for _ in rationales]
        if self.clip is not None and rationales:
            for row, score in zip(scores, self.clip.score(images, rationales), strict=True):
                row["clipscore"] = score
        referenced = [place for place, sentences in enumerate(references) if sentences]
        if self.bert is not None:
            found = self.bert.score(
                [rationales[place] for place in referenced], [references[place] for place in referenced]
            )
            for place, score in zip(referenced, found, strict=True):
                scores[place]["bertscore"] = score
        return scores


def left_out(config: EvaluationConfig) -> dict[str, str]:
    """The metrics that this configuration and this machine leave out, and why."""
    reasons = {
        "meteor": meteor.why_unavailable() if config.meteor else "evaluation.meteor is off",
        "bertscore": None if config.bertscore_model else "evaluation.bertscore_model is not set",
        "clipscore": None if config.clipscore_model else "evaluation.clipscore_model is not set",
    }
    return {metric: reason for metric, reason in reasons.items() if reason is not None}
