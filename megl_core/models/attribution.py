"""The map of a class by name: closed forms where they hold, autograd and attention elsewhere.

| kind | holds for | where a loss on the map goes |
|---|---|---|
| `plain`, `centered`, `contrastive` | a head on the mean of the cells | encoder and head, one backward pass |
| `gradcam` | every head | encoder and head, through a second gradient |
| `attention` | the class token of a transformer | encoder; the map is the same for every class |
| `relevance` | the class token of a transformer | encoder and head, through a second gradient |

All maps are scaled so that their cells do not shrink as their number P grows: the normal forms of
`saliency` add a small constant.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from megl_core.config import SaliencyKind
from megl_core.errors import ConfigError
from megl_core.models.backbone import Backbone, Features, at_least_single, cells_of
from megl_core.models.saliency import class_map, class_weights

CLOSED_FORMS = ("plain", "centered", "contrastive")
OF_CLASS_TOKENS = ("attention", "relevance")
BY_GRADIENT = ("gradcam", "relevance")


def check_saliency(kind: SaliencyKind, backbone: Backbone) -> None:
    """Refuse maps that explain nothing of what the head reads.

    Raises:
        ConfigError: it names the kinds that fit.
    """
    fitting: tuple[str, ...] = ("gradcam",)
    if backbone.pooling == "mean":
        fitting += CLOSED_FORMS
    if backbone.pooling == "class token":
        fitting += OF_CLASS_TOKENS
    if kind not in fitting:
        raise ConfigError(
            f"model.saliency={kind} does not fit a head that reads the {backbone.pooling} of this backbone",
            fix=f"choose {' or '.join(fitting)}, or another model.backbone.pooling",
        )


def saliency_map(
    kind: SaliencyKind,
    features: Features,
    logits: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    create_graph: bool,
) -> Tensor:
    """The raw map (B, h, w) of each sample's target class.

    Args:
        kind: one that `check_saliency` lets pass.
        features: of a traced pass for `gradcam` and `relevance`.
        logits: (B, C), made from `features.pooled`.
        weight: (C, K) of the linear head; only the closed forms look at it.
        target: (B,) class indices.
        create_graph: keep the graph of the map's own gradient, so that a loss reaches through it.
    """
    if kind in CLOSED_FORMS:
        return class_map(features.cells, class_weights(weight, target, logits, kind))
    side = features.cells.shape[-1]
    if kind == "attention":
        return class_attention(features.attentions[-1], side)
    score = logits.gather(1, target[:, None])[:, 0]
    if kind == "gradcam":
        return grad_cam(score, features.activations, side, create_graph=create_graph)
    return relevance(score, features.attentions, side, create_graph=create_graph)


def grad_cam(score: Tensor, activations: Tensor, side: int, *, create_graph: bool) -> Tensor:
    """P times Grad-CAM without its final relu: for a pooled linear head this is CAM.

    Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2. Parameters' `.grad` stay as they are.

    Args:
        score: (B,), each a function of its own sample only.
        activations: (B, K, h, w), or tokens (B, T, K) that end in h w cells, upstream of `score`.
        side: h = w.

    Returns:
        (B, h, w).
    """
    (gradient,) = torch.autograd.grad(score.sum(), activations, create_graph=create_graph, retain_graph=True)
    if activations.ndim == 3:
        activations, gradient = cells_of(activations, side), cells_of(gradient, side)
    return class_map(at_least_single(activations), at_least_single(gradient).sum(dim=(2, 3)))


def class_attention(attention: Tensor, side: int) -> Tensor:
    """P times the class token's attention to each cell, mean over heads; uniform attention is about 1.

    Args:
        attention: (B, H, T, T), of tokens that start with the class token and end in the cells.
        side: h = w.

    Returns:
        (B, h, w), not negative.
    """
    return _grid(at_least_single(attention).mean(dim=1)[:, 0], side)


def relevance(score: Tensor, attentions: Sequence[Tensor], side: int, *, create_graph: bool) -> Tensor:
    """P times the relevance of each cell for the class token.

    Chefer et al., "Generic Attention-model Explainability", ICCV 2021, equations 5 and 6: from R = I on,
    R <- R + E_h[(dscore/dA * A)^+] R for each block. Only the class token's row of R is asked for, so that
    row alone is carried, from the last block to the first.

    Args:
        score: (B,), each a function of its own sample only.
        attentions: (B, H, T, T) of each block, first to last, upstream of `score`.
        side: h = w.

    Returns:
        (B, h, w), not negative.
    """
    gradients = torch.autograd.grad(score.sum(), attentions, create_graph=create_graph, retain_graph=True)
    row = at_least_single(torch.zeros_like(attentions[0][:, 0, :1]))
    row[:, :, 0] = 1
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        row = row + row @ at_least_single(gradient * attention).relu().mean(dim=1)
    return _grid(row[:, 0], side)


def _grid(row: Tensor, side: int) -> Tensor:
    """The last P entries of each (B, T) row as a map, times P."""
    return cells_of(row[:, :, None], side)[:, 0] * side * side
