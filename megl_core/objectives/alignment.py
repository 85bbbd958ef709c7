"""L_vis: how far a sample's map is from its mask. One loss for each published method, by name.

Every loss takes the model's output and masks (B, S, S) in [0, 1] of any resolution that the map's side h
divides, and returns (B,) losses; those of samples without a mask mean nothing. In the formulas

- M (B, h, w) is the display form of the map, relu and division by the sample's maximum. The authors of
  GRADIA and RES subtract the minimum instead of cutting at zero;
- A+ (B, h, w) in [0, 1] is the marked share of each cell. The papers have binary cells;
- A (B, h, w) in {-1, 0, 1}: see `signs`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megl_core.config import AlignmentKind
from megl_core.models.megl import Output
from megl_core.models.saliency import EPSILON, display_form, energy_form
from megl_core.objectives.masks import pool_masks

AlignmentLoss = Callable[[Output, Tensor], Tensor]

SLOPE = 5.0
SLACK = 0.1
ABOVE = 1e-4


def energy_loss(output: Output, masks: Tensor) -> Tensor:
    """1 - sum_p A+_p pi_E_p in [0, 1], the share of positive evidence outside the mask.

    Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023. A
    map without any positive evidence costs 1.
    """
    return 1 - (energy_form(output.saliency) * _cells(output, masks)).sum(dim=(1, 2))


def rrr_loss(output: Output, masks: Tensor) -> Tensor:
    """sum over pixels and channels of ((1 - A) d(sum_k log p_k) / dx)^2, with A and x at full resolution.

    Ross et al., "Right for the Right Reasons", IJCAI 2017, equation 1; x are the normalised pixels. Under
    batch norm in training mode the derivative holds a little of the batch's other samples, as it does in
    other implementations: one backward pass serves the whole batch.

    Args:
        output: with `pixels` of the same resolution as the masks.
        masks: (B, S, S).

    Raises:
        ValueError: the output has no pixels.
    """
    if output.pixels is None:
        raise ValueError("the output holds no pixels: call the model with input_gradients=True")
    total = output.logits.log_softmax(dim=1).sum()
    (gradient,) = torch.autograd.grad(total, output.pixels, create_graph=True)
    return (gradient * (1 - masks[:, None])).square().sum(dim=(1, 2, 3))


def haics_loss(output: Output, masks: Tensor) -> Tensor:
    """mean_p BCE(M_p, A+_p), logarithms cut at 1e-6: M reaches 0 and 1.

    Shen et al., "Human-AI Interactive and Continuous Sensemaking", CHI 2021 extended abstracts. Scribbles
    there leave most of an image open; a mask says something of every cell, so that the mean is over all.
    """
    maps = display_form(output.saliency).clamp(EPSILON, 1 - EPSILON)
    return F.binary_cross_entropy(maps, _cells(output, masks), reduction="none").mean(dim=(1, 2))


def gradia_loss(output: Output, masks: Tensor) -> Tensor:
    """mean_p |M_p - A+_p|.

    Gao et al., "Aligning Eyes between Humans and Deep Neural Network through Interactive Attention
    Alignment", CSCW 2022. Its weights for reasonable and unreasonable predictions need a person who judges
    each of them; here all samples count alike.
    """
    return (display_form(output.saliency) - _cells(output, masks)).abs().mean(dim=(1, 2))


def res_g_loss(output: Output, masks: Tensor) -> Tensor:
    """`sign_loss` + mean_p |M_p - blur(A+)_p|, blur being a 3x3 Gaussian relative to its maximum.

    RES-G of Gao et al., "RES: A Robust Framework for Guiding Visual Explanation", KDD 2022, with the kernel
    (1 2 1; 2 4 2; 1 2 1) / 16 and the mirrored borders of the authors' code.
    """
    cells = _cells(output, masks)
    return _res_loss(display_form(output.saliency), cells, _blur(cells))


class LearntRes(nn.Module):
    """RES-L of the same paper: the blur of `res_g_loss` is a convolution that is learnt with the model.

    As in the shallow variant of the authors' code, one kernel of twice the cell's side reads the mask at
    full resolution, a cell at a time; its result is scaled to [0, 1] over each sample. Its regularisation
    towards the mask, off by default there, is left out.

    Args:
        cell_size: pixels of the mask for each cell of the map, along one side.
    """

    def __init__(self, cell_size: int) -> None:
        super().__init__()
        self.impute = nn.Conv2d(1, 1, kernel_size=2 * cell_size, stride=cell_size)
        before, after = cell_size // 2, cell_size - cell_size // 2
        self.padding = (before, after, before, after)

    def forward(self, output: Output, masks: Tensor) -> Tensor:
        """(B,) losses."""
        imputed = self.impute(F.pad(masks[:, None], self.padding))[:, 0]
        imputed = imputed - imputed.amin(dim=(1, 2), keepdim=True)
        imputed = imputed / (imputed.amax(dim=(1, 2), keepdim=True) + EPSILON)
        return _res_loss(display_form(output.saliency), _cells(output, masks), imputed)


ALIGNMENTS: Mapping[AlignmentKind, Callable[[int], AlignmentLoss]] = {
    "energy": lambda _: energy_loss,
    "rrr": lambda _: rrr_loss,
    "haics": lambda _: haics_loss,
    "gradia": lambda _: gradia_loss,
    "res_g": lambda _: res_g_loss,
    "res_l": LearntRes,
}
"""Each loss, made for a cell's side in pixels."""
OF_PIXELS = frozenset({"rrr"})
"""Losses that need `Output.pixels`."""


def signs(cells: Tensor) -> Tensor:
    """A: 1 where at least half of a cell is marked, -1 where nothing of it is, 0 in between.

    An interpretation: people in RES mark what is relevant and what is not, and leave the rest open; a mask
    leaves open only the cells that its border cuts.
    """
    return (cells >= 0.5).to(cells.dtype) - (cells == 0).to(cells.dtype)


@torch.no_grad()
def best_threshold(maps: Tensor, wanted: Tensor) -> Tensor:
    """The level a of each sample for which `maps >= a` agrees best with the signs `wanted`, (B, 1, 1).

    Agreement is the share of positive cells at or above a plus the share of negative cells below it. Tried
    are, as in the authors' code, the values of the negative cells plus 1e-4, then those of the positive
    ones, row by row; of several best ones the first is taken. They pool a batch; ours is of each sample.
    """
    values, marks = maps.flatten(1), wanted.flatten(1)
    positive, negative = (marks > 0).to(maps.dtype), (marks < 0).to(maps.dtype)
    candidates = torch.cat([values + ABOVE, values], dim=1)
    is_candidate = torch.cat([negative, positive], dim=1) > 0
    # Shares times both numbers of cells, up to a constant: whole numbers, so that ties are exact.
    gain = negative * positive.sum(dim=1, keepdim=True).clamp(min=1)
    gain = gain - positive * negative.sum(dim=1, keepdim=True).clamp(min=1)
    is_below = (values[:, None, :] < candidates[:, :, None]).to(maps.dtype)
    agreement = (is_below @ gain[:, :, None])[:, :, 0].masked_fill(~is_candidate, -torch.inf)
    return candidates.gather(1, agreement.argmax(dim=1, keepdim=True))[:, :, None]


def sign_loss(maps: Tensor, wanted: Tensor, threshold: Tensor) -> Tensor:
    """max(0, mean_{A != 0} |tanh(5 (M - a)) - A| - 0.1), (B,): which side of a each cell is on."""
    off = (torch.tanh(SLOPE * (maps - threshold)) - wanted).abs()
    marked = (wanted != 0).to(maps.dtype)
    mean = (off * marked).sum(dim=(1, 2)) / marked.sum(dim=(1, 2)).clamp(min=1)
    return (mean - SLACK).relu()


def _res_loss(maps: Tensor, cells: Tensor, imputed: Tensor) -> Tensor:
    wanted = signs(cells)
    distance = (maps - imputed).abs().mean(dim=(1, 2))
    return sign_loss(maps, wanted, best_threshold(maps, wanted)) + distance


def _blur(cells: Tensor) -> Tensor:
    """Two means over 2x2 cells make the kernel of `res_g_loss`."""
    mirrored = F.pad(cells[:, None], (1, 1, 1, 1), mode="reflect")
    blurred = F.avg_pool2d(F.avg_pool2d(mirrored, 2, stride=1), 2, stride=1)[:, 0]
    return blurred / (blurred.amax(dim=(1, 2), keepdim=True) + EPSILON)


def _cells(output: Output, masks: Tensor) -> Tensor:
    return pool_masks(masks, output.saliency.shape[-1])
