"""Class maps against Grad-CAM by autograd, and against values worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megl_core.config import SaliencyKind
from megl_core.models.saliency import class_map, class_weights, display_form, energy_form, text_form

KINDS: tuple[SaliencyKind, ...] = ("plain", "centered", "contrastive")
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "display": display_form,
    "energy": energy_form,
    "text": lambda saliency: text_form(saliency, 0.5),
}


def head(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 5, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    return features, weight, bias


def logits_of(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return features.mean(dim=(2, 3)) @ weight.T + bias


def test_class_weights_by_hand() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    target = torch.tensor([0])
    assert class_weights(weight, target, logits, "plain").tolist() == [[1.0, 0.0]]
    assert torch.allclose(class_weights(weight, target, logits, "centered"), torch.tensor([[0.0, -1.0]]))
    # The rivals' logits are equal: half of (0, 1) and half of (2, 2) is subtracted.
    assert torch.allclose(class_weights(weight, target, logits, "contrastive"), torch.tensor([[0.0, -1.5]]))


def test_the_maps_mean_and_the_bias_are_the_logit() -> None:
    features, weight, bias = head()
    target = torch.tensor([0, 3, 1])
    logits = logits_of(features, weight, bias)
    mean = class_map(features, class_weights(weight, target, logits, "plain")).mean(dim=(1, 2))
    assert torch.allclose(mean + bias[target], logits[torch.arange(3), target])


@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_is_grad_cam(kind: SaliencyKind) -> None:
    """Grad-CAM's weights are the mean gradient of a score; for each kind that score is named here."""
    features, weight, bias = head()
    target = torch.tensor([2, 0, 3])
    logits = logits_of(features, weight, bias)
    chosen = logits.gather(1, target[:, None])[:, 0]
    score = {
        "plain": chosen,
        "centered": chosen - logits.mean(dim=1),
        "contrastive": chosen
        - (logits.detach().scatter(1, target[:, None], -torch.inf).softmax(1) * logits).sum(dim=1),
    }[kind]
    (gradient,) = torch.autograd.grad(score.sum(), features, create_graph=True)
    grad_cam = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1) * 16  # P = 16 cells
    closed = class_map(features, class_weights(weight, target, logits, kind))
    assert torch.allclose(closed, grad_cam, atol=1e-12)
    # The gradients of a loss on the map agree as well, for the backbone and for the head.
    for leaf in (features, weight):
        (ours,) = torch.autograd.grad(energy_form(closed).square().sum(), leaf, retain_graph=True)
        (theirs,) = torch.autograd.grad(energy_form(grad_cam).square().sum(), leaf, retain_graph=True)
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert ours.abs().max() > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind: SaliencyKind, form: str) -> None:
    features, weight, bias = head(1)
    target = torch.tensor([0, 1, 2])

    def shown(features: Tensor, weight: Tensor) -> Tensor:
        # The rivals' softmax is a constant by definition; finite differences would see it move.
        logits = logits_of(features, weight, bias) if kind != "contrastive" else torch.zeros(3, 4).double()
        return FORMS[form](class_map(features, class_weights(weight, target, logits, kind)))

    assert torch.autograd.gradcheck(shown, (features, weight))


def test_contrastive_sends_no_gradient_through_the_rivals_softmax() -> None:
    _, weight, _ = head()
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    class_weights(weight, torch.tensor([0, 1, 2]), logits, "contrastive").sum().backward()
    assert logits.grad is None


def test_normal_forms_by_hand() -> None:
    saliency = torch.tensor([[[4.0, 1.0], [-3.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    assert torch.allclose(display_form(saliency)[0], torch.tensor([[1.0, 0.25], [0.0, 0.0]]), atol=1e-5)
    assert torch.allclose(energy_form(saliency)[0], torch.tensor([[0.8, 0.2], [0.0, 0.0]]), atol=1e-5)
    assert display_form(saliency)[1].abs().max() == 0
    assert energy_form(saliency)[1].abs().max() == 0
    prior = text_form(saliency, 0.5)
    assert torch.allclose(prior.sum(dim=1), torch.ones(2))
    assert (prior > 0).all()
    # z-scores of (4, 1, -3, 0): mean 0.5, deviation sqrt(6.25); the ratio of two cells is exp(dz / tau).
    assert torch.isclose(prior[0, 0] / prior[0, 1], torch.tensor(3 / 2.5 / 0.5).exp(), rtol=1e-4)
