"""Saliency-Driven Textual Grounding (SDTG): the map says where the sentence may look.

Cell values v_p = relu(proj f_p + e_p). The prior over cells mixes the saliency with a uniform leak,
rho = (1 - eta) pi_T + eta / P. A word attends with alpha_tp proportional to
exp(q_t . k_p / sqrt(d)) rho_p^beta. The prior is differentiable, so the text loss reaches the saliency;
the leak keeps it from starving cells early in training, when the map is still wrong.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megl_core.config import GroundingConfig
from megl_core.models.saliency import text_form


@dataclass(frozen=True)
class Grounded:
    """What the decoder sees of the image.

    Attributes:
        values: (B, P, D) cell values.
        prior: (B, P) positive, summing to 1.
    """

    values: Tensor
    prior: Tensor

    @property
    def summary(self) -> Tensor:
        """(B, D): sum_p rho_p v_p."""
        return torch.einsum("bp,bpd->bd", self.prior, self.values)


class Grounding(nn.Module):
    """Turns features and their map into grounded cells. `num_cells` is P = h w."""

    def __init__(self, config: GroundingConfig, num_channels: int, num_cells: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(num_channels, width)
        self.position = nn.Parameter(torch.randn(num_cells, width) * 0.02)

    def forward(self, features: Tensor, saliency: Tensor, leak: float) -> Grounded:
        """(B, K, h, w) features and their raw map (B, h, w), with the leak eta in [0, 1]."""
        path = self.config.text_path
        if path in ("saliency", "off"):
            features = features.detach()
        if path in ("features", "off"):
            saliency = saliency.detach()
        cells = features.flatten(2).transpose(1, 2)
        values = (self.project(cells) + self.position).relu()
        focus = text_form(saliency, self.config.temperature)
        prior = (1 - leak) * focus + leak / focus.shape[1]
        return Grounded(values, prior)


def leak_at(config: GroundingConfig, progress: float) -> float:
    """eta after `progress` in [0, 1] of the training: linear from `leak_start` to `leak_end`."""
    done = min(1.0, progress / config.leak_until)
    return config.leak_start + (config.leak_end - config.leak_start) * done
