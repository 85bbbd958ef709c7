"""SDTG: the prior, its leak, the switches, and the path from the text loss to the saliency."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from megl_core.config import DecoderConfig, GroundingConfig
from megl_core.models.decoder import SmallDecoder
from megl_core.models.grounding import CellValues, ground, leak_at, resample_shares

IMAGES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)  # the small decoder reads the cells alone


def test_the_leak_falls_linearly_and_stays() -> None:
    config = GroundingConfig(leak_start=0.5, leak_end=0.1, leak_until=0.5)
    assert leak_at(config, 0.0) == 0.5
    assert leak_at(config, 0.25) == pytest.approx(0.3)
    assert leak_at(config, 0.5) == pytest.approx(0.1)
    assert leak_at(config, 1.0) == pytest.approx(0.1)


def test_the_prior_by_hand() -> None:
    """Two cells of saliency 1 and -1: z-scores 1 and -1, at temperature 2 a softmax of 0.5 and -0.5."""
    config = GroundingConfig(temperature=2.0)
    saliency = torch.tensor([[[1.0, -1.0]]])
    grounded = ground(torch.zeros(1, 3, 1, 2), saliency, config, leak=0.2)
    focus = 1 / (1 + torch.tensor(-1.0).exp())
    expected = torch.stack([0.8 * focus + 0.1, 0.8 * (1 - focus) + 0.1])
    assert torch.allclose(grounded.prior[0], expected, atol=1e-5)


def test_a_full_leak_makes_the_prior_uniform() -> None:
    grounded = ground(torch.randn(2, 3, 2, 2), torch.randn(2, 2, 2), GroundingConfig(), leak=1.0)
    assert torch.allclose(grounded.prior, torch.full((2, 4), 0.25))


def test_cells_stand_row_by_row_and_their_values_know_their_place() -> None:
    features = torch.arange(4.0).reshape(1, 1, 2, 2)
    grounded = ground(features, torch.zeros(1, 2, 2), GroundingConfig(), leak=0.5)
    assert grounded.cells[0, :, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    values = CellValues(num_channels=1, num_cells=4, width=1)
    with torch.no_grad():
        values.project.weight.fill_(2.0)
        values.project.bias.fill_(-3.0)
        values.position.copy_(torch.tensor([[5.0], [0.0], [0.0], [0.5]]))
    assert values(grounded.cells)[0, :, 0].tolist() == [2.0, 0.0, 1.0, 3.5]


def test_words_look_where_the_prior_is() -> None:
    torch.manual_seed(0)
    decoder = SmallDecoder(DecoderConfig(width=8, dropout=0.0), 6, num_channels=3, num_cells=4, beta=1.0)
    torch.nn.init.zeros_(decoder.query.weight)  # no preference of the words themselves
    saliency = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])
    grounded = ground(torch.randn(1, 3, 2, 2), saliency, GroundingConfig(), leak=0.05)
    words = decoder(torch.tensor([[1, 4, 5]]), grounded, IMAGES[:1])
    assert words.attention is not None
    assert words.attention.shape == (1, 3, 4)
    assert torch.allclose(words.attention[0, 1], grounded.prior[0], atol=1e-6)


def test_shares_on_another_grid_by_hand() -> None:
    """All in the first of two halves: bilinear values at the quarters are 1, 0.75, 0.25 and 0."""
    shares = torch.tensor([[[0.5, 0.0, 0.5, 0.0]]])
    row = torch.tensor([1.0, 0.75, 0.25, 0.0]) / 8
    assert torch.allclose(resample_shares(shares, 4)[0, 0].reshape(4, 4), row.expand(4, 4))
    assert resample_shares(shares, 2) is shares


def test_no_share_is_lost_on_a_coarser_grid() -> None:
    shares = torch.rand(2, 3, 64)
    shares = shares / shares.sum(dim=2, keepdim=True)
    coarse = resample_shares(shares, 2)
    assert torch.allclose(coarse.sum(dim=2), torch.ones(2, 3))
    one_cell = torch.zeros(1, 1, 64)
    one_cell[..., 1] = 1.0
    assert resample_shares(one_cell, 2)[0, 0, 0] > 0.9


def text_loss(path: str, features: Tensor, saliency: Tensor) -> Tensor:
    torch.manual_seed(3)
    decoder = SmallDecoder(DecoderConfig(width=8, dropout=0.0), 6, num_channels=3, num_cells=4, beta=1.0)
    tokens = torch.tensor([[1, 4, 5, 2], [1, 5, 4, 2]])
    grounded = ground(features, saliency, GroundingConfig(text_path=path), leak=0.2)  # type: ignore[arg-type]
    words = decoder.double()(tokens[:, :-1], grounded, IMAGES)
    return F.cross_entropy(words.logits.transpose(1, 2), tokens[:, 1:])


@pytest.mark.parametrize(
    ("path", "reaches_features", "reaches_saliency"),
    [("both", True, True), ("saliency", False, True), ("features", True, False), ("off", False, False)],
)
def test_the_switches_cut_the_paths_they_name(
    path: str, reaches_features: bool, reaches_saliency: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    saliency = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    text_loss(path, features, saliency).backward()  # type: ignore[no-untyped-call]
    assert (features.grad is not None and features.grad.abs().max() > 0) == reaches_features
    assert (saliency.grad is not None and saliency.grad.abs().max() > 0) == reaches_saliency


def test_the_text_loss_alone_moves_features_and_saliency_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    saliency = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(text_loss("both", features, saliency), saliency)
    assert gradient.abs().max() > 1e-4
    step = 1e-5
    for cell in range(8):
        offset = torch.zeros(8, dtype=torch.float64).index_fill(0, torch.tensor([cell]), step).view(2, 2, 2)
        higher, lower = (text_loss("both", features, saliency + sign * offset) for sign in (1, -1))
        assert torch.allclose((higher - lower) / (2 * step), gradient.flatten()[cell], atol=1e-8)
    assert torch.autograd.gradcheck(lambda *inputs: text_loss("both", *inputs), (features, saliency))
