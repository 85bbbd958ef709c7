"""In one process the shared batch norm is torch's own, tensor by tensor."""

import pytest
import torch
from torch import nn

from megl_core.training.batch_norm import GlobalBatchNorm, global_moments, share_batch_norm


@pytest.mark.parametrize("training", [True, False])
def test_one_process_computes_what_torch_does(training: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 5, 5)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.ReLU()).train(training)
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.ReLU()).train(training)
    shared.load_state_dict(plain.state_dict())
    share_batch_norm(shared)
    assert isinstance(shared[1], GlobalBatchNorm)
    assert list(shared.state_dict()) == list(plain.state_dict())
    assert torch.equal(plain(images), shared(images))
    for one, other in zip(plain.state_dict().values(), shared.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_parameters_stay_the_very_ones() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    weight = model[0].weight
    share_batch_norm(model)
    assert model[0].weight is weight


def test_moments_by_hand() -> None:
    values = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]])  # three rows, two channels
    mean, variance, count = global_moments(values)
    assert mean.tolist() == pytest.approx([3.0, 20.0])
    assert variance.tolist() == pytest.approx([8 / 3, 200.0])
    assert count.tolist() == [3.0, 3.0]
