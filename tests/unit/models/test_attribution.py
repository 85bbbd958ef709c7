"""Maps by gradient and by attention: against captum, against closed forms, and by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.func import functional_call

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig
from megl_core.errors import ConfigError
from megl_core.models.attribution import class_attention, grad_cam, relevance
from megl_core.models.megl import MEGL
from megl_core.models.saliency import display_form, energy_form, text_form

Checkpoint = Callable[[str], str]
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "display": display_form,
    "energy": energy_form,
    "text": lambda saliency: text_form(saliency, 0.5),
}
FITTING = [
    ("resnet", "mean", "centered"),
    ("resnet", "checkpoint", "contrastive"),
    ("convnext", "mean", "plain"),
    ("convnext", "checkpoint", "gradcam"),
    ("vit", "mean", "gradcam"),
    ("vit", "checkpoint", "gradcam"),
    ("vit", "checkpoint", "attention"),
    ("vit", "checkpoint", "relevance"),
    ("dinov2", "checkpoint", "gradcam"),
    ("dinov2_with_registers", "checkpoint", "relevance"),
    ("dinov2_with_registers", "checkpoint", "attention"),
    ("clip", "checkpoint", "gradcam"),
    ("clip", "checkpoint", "relevance"),
]


def model_of(path: str | None, pooling: str = "mean", saliency: str = "centered", **settings: Any) -> MEGL:
    """A model without a decoder on a tiny checkpoint, or on a small ResNet of 16 pixels."""
    torch.manual_seed(0)
    trainable = settings.pop("trainable", "all")
    encoder: dict[str, Any] = (
        {"name": "hf", "path": path, "pooling": pooling} if path else {"widths": [4, 8], "depths": [1, 1]}
    )
    config = ModelConfig(
        image_size=16,
        saliency=saliency,
        backbone=BackboneConfig(**encoder, trainable=trainable),
        decoder=DecoderConfig(name="none"),
        **settings,
    )
    return MEGL(config, ["cat", "dog", "owl"])


def targets() -> Tensor:
    return torch.tensor([0, 1, 2, 0])


class Convolutions(nn.Module):
    """A small network whose head is not linear, so that no closed form holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cells(pixels).mean(dim=(2, 3)))
        return logits

    def map(self, pixels: Tensor) -> Tensor:
        cells = self.cells(pixels)
        logits = self.head(cells.mean(dim=(2, 3)))
        score = logits.gather(1, targets()[: len(pixels), None])[:, 0]
        return grad_cam(score, cells, cells.shape[-1], create_graph=True)


def test_grad_cam_is_that_of_captum() -> None:
    torch.manual_seed(0)
    network = Convolutions().double()
    pixels = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    theirs = LayerGradCam(network, network.cells).attribute(pixels, targets())[:, 0]
    assert torch.allclose(network.map(pixels), 16 * theirs, atol=1e-12)  # 16 cells
    assert theirs.abs().max() > 1e-3


def test_grad_cam_of_a_whole_model_is_that_of_captum(pictures: Tensor) -> None:
    model = model_of(None, saliency="gradcam").double().eval()
    own = model(pictures, targets(), None, 0.1)
    pixels = model.backbone(pictures).pixels

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            logits: Tensor = self.model.head(self.model.backbone.encode(pixels).pooled)
            return logits

    layer = model.backbone.get_submodule("encoder.stages.1")
    theirs = LayerGradCam(Logits(), layer).attribute(pixels, targets())[:, 0]
    assert torch.allclose(own.saliency, 16 * theirs, atol=1e-10)


@pytest.mark.parametrize("kind", [None, "resnet", "convnext", "vit", "dinov2_with_registers", "clip"])
def test_on_a_mean_grad_cam_is_the_closed_form(
    kind: str | None, checkpoint: Checkpoint, pictures: Tensor
) -> None:
    path = checkpoint(kind) if kind else None
    gradcam = model_of(path, saliency="gradcam").double().eval()
    plain = model_of(path, saliency="plain").double().eval()
    plain.load_state_dict(gradcam.state_dict())
    outputs = [model(pictures, targets(), None, 0.1) for model in (gradcam, plain)]
    assert torch.allclose(outputs[0].saliency, outputs[1].saliency, atol=1e-5)
    for output, model in zip(outputs, (gradcam, plain), strict=True):
        summed = output.saliency.mean(dim=(1, 2)) + model.head.bias[targets()]
        assert torch.allclose(summed, output.logits[torch.arange(4), targets()], atol=1e-5)
        FORMS["energy"](output.saliency).square().sum().backward()
    assert gradcam.head.weight.grad is not None
    assert torch.allclose(gradcam.head.weight.grad, plain.head.weight.grad, atol=1e-5)
    for (name, ours), theirs in zip(
        gradcam.backbone.named_parameters(), plain.backbone.parameters(), strict=True
    ):
        if ours.requires_grad:
            assert ours.grad is not None, name
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-5), name


def test_class_attention_by_hand() -> None:
    # Two heads, a class token, a register and four cells: the register's column is dropped.
    row = torch.tensor([[0.1, 0.3, 0.1, 0.2, 0.2, 0.1], [0.1, 0.1, 0.3, 0.0, 0.4, 0.1]])
    attention = torch.zeros(1, 2, 6, 6)
    attention[0, :, 0] = row
    attention[0, :, 1:] = 7  # rows of other tokens do not count
    expected = torch.tensor([[[0.2, 0.1], [0.3, 0.1]]]) * 4
    assert torch.allclose(class_attention(attention, 2), expected)


def test_the_attention_of_a_vit_by_hand(checkpoint: Checkpoint, pictures: Tensor) -> None:
    model = model_of(checkpoint("vit"), "checkpoint", "attention").eval()
    vit = model.backbone.get_submodule("encoder")
    pixels = model.backbone(pictures).pixels
    with torch.no_grad():
        tokens = vit.layers[0](vit.embeddings(pixels))
        block = vit.layers[1]
        seen = block.layernorm_before(tokens)
        query, key = block.attention.q_proj(seen[:, 0]), block.attention.k_proj(seen)
        rows = []
        for part in (slice(0, 4), slice(4, 8)):  # two heads of four channels
            scores = torch.stack([(query[:, part] * key[:, t, part]).sum(dim=1) for t in range(5)], dim=1)
            rows.append((scores / math.sqrt(4)).softmax(dim=1))
    expected = (rows[0] + rows[1]) / 2
    own = model(pictures, targets(), None, 0.1).saliency
    assert torch.allclose(own.flatten(1), 4 * expected[:, 1:], atol=1e-5)
    assert own.std() > 0.01


def test_relevance_by_hand() -> None:
    # A class token and one cell; the second head has no gradient, so the mean over heads halves the first.
    first = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).expand(1, 2, 2, 2).clone().requires_grad_()
    second = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).expand(1, 2, 2, 2).clone().requires_grad_()
    slopes = torch.tensor([[1.0, 2.0], [4.0, -1.0]]), torch.tensor([[-1.0, 5.0], [0.0, 1.0]])
    score = (slopes[0] * first[:, 0]).sum(dim=(1, 2)) + (slopes[1] * second[:, 0]).sum(dim=(1, 2))
    # (grad * A)^+ / 2: [[.25, .5], [.5, 0]], then [[0, .5], [0, .3]].
    # R_1 = [[1.25, .5], [.5, 1]]; the class token's row of R_2 is (1.25, .5) + .5 * (.5, 1) = (1.5, 1).
    assert relevance(score, [first, second], 1, create_graph=False).tolist() == [[[1.0]]]


def test_relevance_is_the_whole_matrix_rule(checkpoint: Checkpoint, pictures: Tensor) -> None:
    model = model_of(checkpoint("dinov2_with_registers"), "checkpoint", "relevance").double().eval()
    features = model.backbone(pictures, trace=True)
    score = model.head(features.pooled)[torch.arange(4), targets()]
    gradients = torch.autograd.grad(score.sum(), features.attentions)
    matrix = torch.eye(8, dtype=torch.float64).expand(4, 8, 8)  # class token, 3 registers, 4 cells
    for attention, gradient in zip(features.attentions, gradients, strict=True):
        matrix = matrix + (gradient * attention).clamp(min=0).mean(dim=1) @ matrix
    expected = 4 * matrix[:, 0, 4:].reshape(4, 2, 2)
    own = model(pictures, targets(), None, 0.1).saliency
    assert torch.allclose(own, expected, atol=1e-10)
    assert own.max() > 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_gradients_through_grad_cam_agree_with_finite_differences(form: str) -> None:
    torch.manual_seed(0)
    network = Convolutions().double()
    pixels = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    names = ("cells.0.weight", "head.0.weight", "head.2.weight")
    weights = tuple(network.get_parameter(name).detach().requires_grad_() for name in names)

    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self) -> Tensor:
            return FORMS[form](self.network.map(pixels))

    def shown(*values: Tensor) -> Tensor:
        named = {f"network.{name}": value for name, value in zip(names, values, strict=True)}
        result: Tensor = functional_call(Map(), named, ())
        return result

    assert torch.autograd.gradcheck(shown, weights)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "pooling"), [("gradcam", "checkpoint"), ("attention", "checkpoint"), ("relevance", "checkpoint")]
)
def test_gradients_through_a_transformer_agree_with_finite_differences(
    form: str, kind: str, pooling: str, checkpoint: Checkpoint, pictures: Tensor
) -> None:
    model = model_of(checkpoint("dinov2"), pooling, kind).double().eval()
    names = ["backbone.encoder.encoder.layer.0.attention.v_proj.bias", "head.weight"]
    names = names[:1] if kind == "attention" else names  # which asks no head
    weights = tuple(model.get_parameter(name).detach().requires_grad_() for name in names)

    def shown(*values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        output = functional_call(model, named, (pictures[:1], targets()[:1], None, 0.1))
        return FORMS[form](output.saliency)

    assert torch.autograd.gradcheck(shown, weights)


@pytest.mark.parametrize(("kind", "pooling", "saliency"), FITTING)
def test_a_loss_on_the_map_reaches_encoder_and_head(
    kind: str, pooling: str, saliency: str, checkpoint: Checkpoint, pictures: Tensor
) -> None:
    model = model_of(checkpoint(kind), pooling, saliency)
    output = model(pictures, targets(), None, 0.1)
    assert all(parameter.grad is None for parameter in model.parameters())  # the map itself leaves none
    FORMS["text"](output.saliency).square().sum().backward()
    first = next(parameter for parameter in model.backbone.parameters() if parameter.ndim == 4)
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    if saliency == "attention":
        assert model.head.weight.grad is None
    else:
        assert model.head.weight.grad is not None
        assert model.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("saliency", ["gradcam", "relevance"])
def test_without_the_second_order_the_gradient_is_a_constant(
    saliency: str, checkpoint: Checkpoint, pictures: Tensor
) -> None:
    maps = []
    for second_order in (True, False):
        model = model_of(checkpoint("vit"), "checkpoint", saliency, second_order=second_order).eval()
        output = model(pictures, targets(), None, 0.1)
        maps.append(output.saliency.detach())
    assert torch.allclose(*maps)
    FORMS["text"](output.saliency).square().sum().backward()
    assert model.head.weight.grad is None  # which only the gradient knows
    assert next(p for p in model.backbone.parameters() if p.ndim == 4).grad is not None


@pytest.mark.parametrize("trainable", ["none", "all", 1])
@pytest.mark.parametrize(("kind", "pooling", "saliency"), FITTING)
def test_explaining_leaves_no_trace(
    kind: str,
    pooling: str,
    saliency: str,
    trainable: str | int,
    checkpoint: Checkpoint,
    pictures: Tensor,
) -> None:
    model = model_of(checkpoint(kind), pooling, saliency, trainable=trainable).train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    modes = {name: module.training for name, module in model.named_modules()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seen = model.explain(pictures, targets())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wanted
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(p.grad is None for p in model.parameters() if p is not model.head.weight)
    assert not seen.saliency.requires_grad
    assert not seen.probabilities.requires_grad
    assert not seen.heat_map.requires_grad
    trained = model.eval()(pictures, targets(), None, 0.1)
    assert torch.allclose(trained.saliency, seen.saliency, atol=1e-6)
    assert seen.saliency.abs().max() > 0


@pytest.mark.parametrize(
    ("kind", "pooling", "saliency", "fitting"),
    [
        ("vit", "checkpoint", "centered", "gradcam or attention or relevance"),
        ("convnext", "checkpoint", "plain", "choose gradcam,"),
        ("vit", "mean", "attention", "gradcam or plain or centered or contrastive"),
        ("vit", "mean", "relevance", "gradcam or plain"),
        ("resnet", "checkpoint", "attention", "gradcam or plain"),
        ("resnet", "mean", "relevance", "gradcam or plain"),
    ],
)
def test_maps_that_explain_nothing_of_the_head_are_refused(
    kind: str, pooling: str, saliency: str, fitting: str, checkpoint: Checkpoint
) -> None:
    with pytest.raises(ConfigError, match=f"model.saliency={saliency} does not fit(.|\n)*{fitting}"):
        model_of(checkpoint(kind), pooling, saliency)


def test_pixels_are_given_out_where_their_gradients_are_asked_for(
    checkpoint: Checkpoint, pictures: Tensor
) -> None:
    model = model_of(checkpoint("vit"), trainable="none")
    assert model(pictures, targets(), None, 0.1).pixels is None
    output = model(pictures, targets(), None, 0.1, input_gradients=True)
    (gradient,) = torch.autograd.grad(
        output.logits.log_softmax(dim=1).sum(), output.pixels, create_graph=True
    )
    gradient.square().sum().backward()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().max() > 0
