"""Class maps of a pooled linear head in closed form, and their normal forms.

For logits z = W mean_p(f_p) + b the derivative of z_y with respect to every cell's features is W_y / P.
Grad-CAM, HiResCAM and CAM therefore agree up to the constant P, and the map

    M_p = W~_y . f_p,        with mean_p M_p + b_y = z_y for W~ = W,

is an ordinary differentiable function of features and head: a loss on it trains both without a second
backward pass. It explains the last feature map, and only a head of this form.

Plain weights leave a gap: softmax ignores whatever all classes share, so a cue can keep acting as
evidence *against the other classes* while the map of y looks clean. `centered` and `contrastive` weights
close it by comparing y with the other classes.
"""

import torch
from torch import Tensor

from megl_core.config import SaliencyKind

EPSILON = 1e-6


def class_weights(weight: Tensor, target: Tensor, logits: Tensor, kind: SaliencyKind) -> Tensor:
    """The weight vector W~_y of each sample's map.

    Args:
        weight: (C, K) of the linear head.
        target: (B,) class indices.
        logits: (B, C); only `contrastive` looks at them, and sends no gradient back through them.
        kind: `plain` is W_y; `centered` is W_y - mean_c W_c; `contrastive` is
            W_y - sum_{k != y} softmax(z_{-y})_k W_k.

    Returns:
        (B, K).
    """
    chosen = weight[target]
    if kind == "plain":
        return chosen
    if kind == "centered":
        return chosen - weight.mean(dim=0)
    rivals = logits.detach().scatter(1, target[:, None], float("-inf"))
    return chosen - rivals.softmax(dim=1) @ weight


def class_map(features: Tensor, weights: Tensor) -> Tensor:
    """M (B, h, w): each cell's evidence for the class, `weights` (B, K) against `features` (B, K, h, w)."""
    rows = torch.bmm(weights[:, None], features.flatten(2))
    return rows.reshape(len(features), *features.shape[2:])


def display_form(saliency: Tensor) -> Tensor:
    """S = relu(M) / max relu(M), (B, h, w) in [0, 1]; a map without positive evidence stays zero."""
    positive = saliency.relu()
    return positive / (positive.amax(dim=(1, 2), keepdim=True) + EPSILON)


def energy_form(saliency: Tensor) -> Tensor:
    """pi_E = relu(M) / sum relu(M), (B, h, w): each cell's share of the positive evidence."""
    positive = saliency.relu()
    return positive / (positive.sum(dim=(1, 2), keepdim=True) + EPSILON)


def text_form(saliency: Tensor, temperature: float) -> Tensor:
    """pi_T = softmax(zscore(M) / temperature), (B, P) summing to 1.

    Every cell keeps a positive share and a gradient, so that a sentence can call a dark cell back.
    """
    flat = saliency.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    deviation = (centred.square().mean(dim=1, keepdim=True) + EPSILON).sqrt()
    return (centred / deviation / temperature).softmax(dim=1)
