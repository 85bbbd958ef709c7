"""What a process does by itself; several processes are tested in tests/integration."""

import pytest
import torch

from megl_core.training.distributed import Process

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_seed_decides_what_is_drawn_as_torchs_own_seeding_does(device: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4, device=device)

    Process(0, 1, torch.device(device)).seed(5)

    assert torch.equal(torch.rand(4, device=device), expected)
