"""How faithful heat maps are to the model: hide what they mark, and see whether the model cares. No masks.

Pixels are exchanged with those of a blurred copy, the map's highest first, in two directions: `removed`
goes from the image to its blur, `kept` from the blur to the image. N images, S shares of exchanged pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Predict = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to class probabilities (B, classes)."""

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of the input at which ERASER looks."""

_BLUR = 1 / 8  # sigma over the shorter side: an object of a third of the image loses its outline
_TIE_SEED = 0


@dataclass(frozen=True)
class Curves:
    """Probabilities of the explained class while pixels are exchanged.

    Attributes:
        shares: (S,) rising from 0 to 1.
        removed: (N, S) with that share of the highest pixels blurred.
        kept: (N, S) with everything but that share blurred.
    """

    shares: Tensor
    removed: Tensor
    kept: Tensor


def insertion_auc(curves: Curves) -> Tensor:
    """Area under `kept`, (N,) in [0, 1]; high is good (Petsiuk et al., RISE, BMVC 2018)."""
    return torch.trapezoid(curves.kept, curves.shares)


def deletion_auc(curves: Curves) -> Tensor:
    """Area under `removed`, (N,) in [0, 1]; low is good (Petsiuk et al., RISE, BMVC 2018)."""
    return torch.trapezoid(curves.removed, curves.shares)


def comprehensiveness(curves: Curves) -> Tensor:
    """How much of the probability goes with the highest pixels, (N,) in [-1, 1]; high is good.

    Mean over `SHARES` of p(image) - p(image without that share): AOPC of DeYoung et al., ERASER, ACL 2020.
    """
    return (curves.removed[:, :1] - _at_shares(curves.removed, curves)).mean(dim=1)


def sufficiency(curves: Curves) -> Tensor:
    """How much of the probability the highest pixels alone lack, (N,) in [-1, 1]; low is good.

    Mean over `SHARES` of p(image) - p(that share alone): AOPC of DeYoung et al., ERASER, ACL 2020.
    """
    return (curves.kept[:, -1:] - _at_shares(curves.kept, curves)).mean(dim=1)


def _at_shares(curve: Tensor, curves: Curves) -> Tensor:
    return curve[:, torch.searchsorted(curves.shares, curves.shares.new_tensor(SHARES))]


@torch.no_grad()
def perturbation_curves(
    predict: Predict,
    images: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 10,
    batch_size: int = 128,
) -> Curves:
    """Ask the model about images between the original and its blur.

    Args:
        predict: the model; it is called with at most `batch_size` images of the type and device of `images`.
        images: (N, C, H, W), N at least 1.
        maps: (N, H, W); only their order counts.
        target: (N,) the class that each map explains.
        baseline: (N, C, H, W) what takes the place of hidden pixels; None: `blurred(images)`.
        steps: the shares are 0, 1 / steps ... 1, and `SHARES`.
    """
    baseline = blurred(images) if baseline is None else baseline
    shares = sorted({step / steps for step in range(steps + 1)} | set(SHARES))
    ranks = relevance_ranks(maps)
    counts = [round(share * ranks[0].numel()) for share in shares]

    def follow(first: Tensor, last: Tensor) -> Tensor:
        """(N, S - 2): the probabilities between the ends, the highest pixels of `first` exchanged."""
        inner = torch.cartesian_prod(torch.arange(len(images)), torch.tensor(counts[1:-1]))
        columns = []
        for sample, count in ((part[:, 0], part[:, 1]) for part in torch.split(inner, batch_size)):
            exchanged = ranks[sample] < count.to(ranks.device)[:, None, None]
            mixed = torch.where(exchanged[:, None], last[sample], first[sample])
            columns.append(_probability(predict, mixed, target[sample]))
        return torch.cat(columns).view(len(images), -1)

    original = _in_batches(predict, images, target, batch_size)
    hidden = _in_batches(predict, baseline, target, batch_size)
    return Curves(
        shares=torch.tensor(shares, device=original.device),
        removed=torch.cat([original, follow(images, baseline), hidden], dim=1),
        kept=torch.cat([hidden, follow(baseline, images), original], dim=1),
    )


def _in_batches(predict: Predict, images: Tensor, target: Tensor, batch_size: int) -> Tensor:
    parts = zip(torch.split(images, batch_size), torch.split(target, batch_size), strict=True)
    return torch.cat([_probability(predict, *part) for part in parts])[:, None]


def _probability(predict: Predict, images: Tensor, target: Tensor) -> Tensor:
    return predict(images).float().gather(1, target[:, None])[:, 0]


def relevance_ranks(maps: Tensor) -> Tensor:
    """Each pixel's rank in its map (N, H, W), 0 for the highest; NaN comes last.

    Equal values are ranked in an order drawn once by a fixed seed, so that a constant map marks scattered
    pixels and not the top of the image.
    """
    flat = maps.flatten(1).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    generator = torch.Generator().manual_seed(_TIE_SEED)
    shuffle = torch.randperm(flat.shape[1], generator=generator).to(maps.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, H, W) under a Gaussian of an eighth of their shorter side; the type is kept."""
    sigma = _BLUR * min(images.shape[-2:])
    radius = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    planes = images.flatten(0, 1)[:, None].float()
    planes = F.conv2d(F.pad(planes, (radius, radius, 0, 0), mode="reflect"), kernel)
    planes = F.conv2d(F.pad(planes, (0, 0, radius, radius), mode="reflect"), kernel.mT)
    planes = planes.view(images.shape)
    return planes if images.is_floating_point() else planes.round().to(images.dtype)
