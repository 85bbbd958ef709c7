"""Saliency-Driven Textual Grounding (SDTG): the map says where the sentence may look.

The prior over cells mixes the saliency with a uniform leak, rho = (1 - eta) pi_T + eta / P. It is
differentiable, so the text loss reaches the saliency; the leak keeps it from starving cells early in
training, when the map is still wrong. Each decoder uses it in its own way:

- `small` attends with alpha_tp proportional to exp(q_t . k_p / sqrt(d)) rho_p^beta;
- `hf` and `llava` read every cell twice, once as it is and once scaled by P rho_p.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import GroundingConfig
from megl_core.models.saliency import text_form


@dataclass(frozen=True)
class Grounded:
    """What a decoder learns of the image from the classifier.

    Attributes:
        cells: (B, P, K) features, row by row of the map.
        prior: (B, P) positive, summing to 1.
    """

    cells: Tensor
    prior: Tensor


def ground(features: Tensor, saliency: Tensor, config: GroundingConfig, leak: float) -> Grounded:
    """(B, K, h, w) features and their raw map (B, h, w), with the leak eta in [0, 1].

    Gradients of what `config.text_path` leaves out end here.
    """
    if config.text_path in ("saliency", "off"):
        features = features.detach()
    if config.text_path in ("features", "off"):
        saliency = saliency.detach()
    focus = text_form(saliency, config.temperature)
    prior = (1 - leak) * focus + leak / focus.shape[1]
    return Grounded(features.flatten(2).transpose(1, 2), prior)


class CellValues(nn.Module):
    """v_p = relu(proj f_p + e_p): cells (B, P, K) to values (B, P, width) that know their place."""

    def __init__(self, num_channels: int, num_cells: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(num_channels, width)
        self.position = nn.Parameter(torch.randn(num_cells, width) * 0.02)

    def forward(self, cells: Tensor) -> Tensor:
        values: Tensor = self.project(cells) + self.position
        return values.relu()


def resample_shares(shares: Tensor, side: int) -> Tensor:
    """Shares (B, N, P) of a square map's cells on a square map of `side`, (B, N, side^2) summing to 1."""
    batch, rows, cells = shares.shape
    own = round(cells**0.5)
    if own == side:
        return shares
    maps = shares.reshape(batch, rows, own, own)
    maps = F.interpolate(maps, size=side, mode="bilinear", antialias=True, align_corners=False)
    shares = maps.flatten(2)
    return shares / shares.sum(dim=2, keepdim=True)


def leak_at(config: GroundingConfig, progress: float) -> float:
    """eta after `progress` in [0, 1] of the training: linear from `leak_start` to `leak_end`."""
    done = min(1.0, progress / config.leak_until)
    return config.leak_start + (config.leak_end - config.leak_start) * done
