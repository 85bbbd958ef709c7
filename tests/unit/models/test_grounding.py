"""SDTG: the prior, its leak, the switches, and the path from the text loss to the saliency."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from megl_core.config import DecoderConfig, GroundingConfig
from megl_core.models.decoder import SmallDecoder
from megl_core.models.grounding import Grounding, leak_at


def test_the_leak_falls_linearly_and_stays() -> None:
    config = GroundingConfig(leak_start=0.5, leak_end=0.1, leak_until=0.5)
    assert leak_at(config, 0.0) == 0.5
    assert leak_at(config, 0.25) == pytest.approx(0.3)
    assert leak_at(config, 0.5) == pytest.approx(0.1)
    assert leak_at(config, 1.0) == pytest.approx(0.1)


def test_a_full_leak_makes_the_prior_uniform_and_the_summary_a_mean() -> None:
    torch.manual_seed(0)
    grounding = Grounding(GroundingConfig(), num_channels=3, num_cells=4, width=8)
    grounded = grounding(torch.randn(2, 3, 2, 2), torch.randn(2, 2, 2), leak=1.0)
    assert torch.allclose(grounded.prior, torch.full((2, 4), 0.25))
    assert torch.allclose(grounded.summary, grounded.values.mean(dim=1), atol=1e-6)


def test_words_look_where_the_prior_is() -> None:
    torch.manual_seed(0)
    decoder = SmallDecoder(DecoderConfig(width=8, dropout=0.0), vocabulary_size=6, beta=1.0)
    torch.nn.init.zeros_(decoder.query.weight)  # no preference of the words themselves
    grounding = Grounding(GroundingConfig(temperature=0.5), num_channels=3, num_cells=4, width=8)
    grounded = grounding(torch.randn(1, 3, 2, 2), torch.tensor([[[9.0, 0.0], [0.0, 0.0]]]), leak=0.05)
    words = decoder(torch.tensor([[1, 4, 5]]), grounded)
    assert words.attention.shape == (1, 3, 4)
    assert torch.allclose(words.attention[0, 1], grounded.prior[0], atol=1e-6)


def text_loss(path: str, features: Tensor, saliency: Tensor) -> Tensor:
    torch.manual_seed(3)
    grounding = Grounding(GroundingConfig(text_path=path), num_channels=3, num_cells=4, width=8).double()  # type: ignore[arg-type]
    decoder = SmallDecoder(DecoderConfig(width=8, dropout=0.0), vocabulary_size=6, beta=1.0).double()
    tokens = torch.tensor([[1, 4, 5, 2], [1, 5, 4, 2]])
    words = decoder(tokens[:, :-1], grounding(features, saliency, 0.2))
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


def test_the_text_loss_alone_moves_the_saliency_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    saliency = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda map_: text_loss("both", features, map_), (saliency,))
