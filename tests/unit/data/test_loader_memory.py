"""The loader's memory depends on its cache, not on the size of the set."""

from pathlib import Path

import pytest

from benchmarks.training_loader import repeat_shards
from benchmarks.training_plan import QUICK, configuration, packed_scenes
from benchmarks.training_runs import Numbers, alone, memory_of
from megl_core.config import changed
from megl_core.data.loading import TrainingBatches
from megl_core.data.packed import PackedDataset
from megl_core.data.pixels import PixelCache, PixelStore
from megl_core.data.sampling import QuotaSampler

PIXELS = 3 * 64 * 64  # bytes of an image


@pytest.mark.slow
def test_ten_times_the_images_take_the_same_memory(tmp_path: Path) -> None:
    config = changed(
        configuration("32 px", "all terms", QUICK), ["data.scenes.num_train=500", "data.scenes.size=64"]
    )
    small = packed_scenes(config, tmp_path)
    large = repeat_shards(small, tmp_path / "large", 10)
    found = alone(peaks, small, large)
    assert found["large"] - found["small"] < 1500 * PIXELS
    assert found["cached"] - found["large"] > 3000 * PIXELS  # what is asserted above could be seen


def peaks(small: Path, large: Path) -> Numbers:
    """The most memory in epochs of both sets, and in one with room for all images of the large one."""
    return {"small": peak(small, 4 << 20), "large": peak(large, 4 << 20), "cached": peak(large, 1 << 30)}


def peak(packed: Path, cache: int) -> float:
    data = PackedDataset(packed, "train")
    sampler = QuotaSampler(data.annotated, 32, 0.25, seed=0)
    batches = TrainingBatches(
        PixelStore(data, 64, PixelCache(cache)),
        sampler,
        None,
        max_tokens=1,
        max_shift=0,
        seed=0,
        num_workers=2,
    )
    return max(memory_of("RssAnon") for _ in batches.between(0, sampler.steps_per_epoch))
