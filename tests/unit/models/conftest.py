"""Checkpoints for every test of encoders."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny checkpoint of a kind, written once."""
    from tests.unit.models.tiny import save_checkpoint

    root: Path = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda kind: str(save_checkpoint(kind, root / kind)))


@pytest.fixture
def pictures() -> torch.Tensor:
    """Four random pictures of 16 pixels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
