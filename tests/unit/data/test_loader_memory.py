"""The loader's memory depends on its cache, not on the size of the set."""

from pathlib import Path

import pytest

from benchmarks.training_loader import load_alone, repeat_shards
from benchmarks.training_plan import QUICK, configuration, packed_scenes
from benchmarks.training_runs import alone
from megl_core.config import changed

PIXELS = 3 * 64 * 64  # bytes of an image


@pytest.mark.slow
def test_ten_times_the_images_take_the_same_memory(tmp_path: Path) -> None:
    """An epoch of 5000 images, in a process of its own, allocates no more than one of 500."""
    changes = [
        "data.scenes.num_train=500",
        "data.scenes.size=64",
        "model.image_size=64",
        "objective.region=0",
    ]
    config = changed(configuration("32 px", "all terms", QUICK), changes)
    small = packed_scenes(config, tmp_path)
    large = repeat_shards(small, tmp_path / "large", 10)

    def growth(data: Path, cache_mb: int) -> float:
        numbers = alone(load_alone, data, config, cache_mb)
        return numbers["anonymous"] - numbers["before"]

    assert growth(large, 4) - growth(small, 4) < 1500 * PIXELS
    assert growth(large, 1024) > 4000 * PIXELS  # what is asserted above could be seen
