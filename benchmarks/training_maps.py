"""What the map costs: the closed form, Grad-CAM by autograd, and Grad-CAM channel by channel.

Every candidate pools given features, applies a linear head, makes the map of each label, and sends the
gradient of a loss on the map back into features and head. The rivals get Grad-CAM in its cheapest place:
they differentiate a head alone, no further layer.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.timing import interleaved
from benchmarks.training_plan import Size
from megl_core.models.attribution import grad_cam
from megl_core.models.saliency import class_map, class_weights, energy_form

CLOSED, AUTOGRAD, LOOP = "closed form", "Grad-CAM, create_graph", "Grad-CAM, channel by channel"
BATCH, CLASSES, SIDE = 16, 10, 7

MapOf = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(features (B, K, h, w), logits (B, C), weight (C, K), target (B,)) to raw maps (B, h, w)."""


def closed_form(features: Tensor, logits: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The contrastive map."""
    return class_map(features, class_weights(weight, target, logits, "contrastive"))


def by_autograd(features: Tensor, logits: Tensor, weight: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
    """Grad-CAM through a gradient that is differentiated again."""
    score = logits.gather(1, target[:, None])[:, 0]
    return grad_cam(score, features, features.shape[-1], create_graph=True)


def by_channel(features: Tensor, logits: Tensor, weight: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
    """Grad-CAM whose weighted sum is a Python loop over channels, for the whole batch at once."""
    score = logits.gather(1, target[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(score.sum(), features, create_graph=True)
    weights = gradient.sum(dim=(2, 3))
    total = torch.zeros_like(features[:, 0])
    for channel in range(features.shape[1]):
        total = total + weights[:, channel, None, None] * features[:, channel]
    return total


CANDIDATES: Mapping[str, MapOf] = {CLOSED: closed_form, AUTOGRAD: by_autograd, LOOP: by_channel}


def measure_maps(size: Size) -> dict[str, list[float]]:
    """Processor seconds of `{"<candidate>/map": [...], "<candidate>/map and backward": [...]}`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(BATCH, size.channels, SIDE, SIDE).relu().requires_grad_()
    weight = (torch.randn(CLASSES, size.channels) * size.channels**-0.5).requires_grad_()
    target = torch.arange(BATCH) % CLASSES
    works = {}
    for name, map_of in CANDIDATES.items():
        works[f"{name}/map"] = _work(map_of, features, weight, target, backward=False)
        works[f"{name}/map and backward"] = _work(map_of, features, weight, target, backward=True)
    return interleaved(works, size.repetitions)


def _work(
    map_of: MapOf, features: Tensor, weight: Tensor, target: Tensor, *, backward: bool
) -> Callable[[], None]:
    inside = torch.zeros(SIDE, SIDE)
    inside[2:5, 2:5] = 1

    def work() -> None:
        saliency = map_of(features, features.mean(dim=(2, 3)) @ weight.T, weight, target)
        if backward:
            features.grad = weight.grad = None
            loss = -(energy_form(saliency) * inside).sum(dim=(1, 2)).clamp(min=1e-6).log().mean()
            loss.backward()  # type: ignore[no-untyped-call]

    return work
