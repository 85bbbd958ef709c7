"""The batches of a run: the same for any number of workers, from any step on, in shares that fit together."""

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from megl_core.config import (
    BackboneConfig,
    DecoderConfig,
    ModelConfig,
    ObjectiveConfig,
    PackConfig,
    SplitConfig,
    TrainConfig,
)
from megl_core.data.index import write_index
from megl_core.data.loading import Batch, Plan, TrainingBatches
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.data.packed import PackedDataset
from megl_core.data.pixels import PixelCache, PixelStore
from megl_core.data.sampling import QuotaSampler
from megl_core.data.tokenizer import WordTokenizer
from megl_core.errors import DataError, IntegrityError
from megl_core.training import train
from tests.unit.data.build import Silent, write_dataset, write_rows

STEPS = 9  # three epochs of 48 images
MODEL = ModelConfig(
    image_size=24, backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]), decoder=DecoderConfig(width=16)
)


def batches_of(
    packed: Path,
    *,
    kind: type[TrainingBatches] = TrainingBatches,
    cache: int = 0,
    quota: float = 0.25,
    **more: Any,
) -> TrainingBatches:
    data = PackedDataset(packed, "train")
    texts = [text for row in data.explanations() for text in row]
    return kind(
        PixelStore(data, 24, PixelCache(cache)),
        QuotaSampler(data.annotated, 16, quota, 3),
        WordTokenizer.learn(texts) if texts else None,
        max_tokens=12,
        max_shift=2,
        seed=5,
        regions=torch.arange(len(data)).view(-1, 1, 1).expand(-1, 2, 2) % 2 == 0,
        mix=0.5,
        **more,
    )


def assert_same(one: Batch, other: Batch) -> None:
    assert one.ids == other.ids
    assert one.tokens.tolist() == other.tokens.tolist()
    for name in ("images", "labels", "masks", "has_mask", "regions"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def no_loader_runs() -> bool:
    return not any(thread.name.startswith("loader") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("cache", [0, 20_000, 1 << 20])  # bytes; 20 000 keep a part of the images
def test_workers_and_cache_change_no_bit(packed: Path, workers: int, cache: int) -> None:
    plain = list(batches_of(packed).between(0, STEPS))
    assert len(plain) == STEPS
    for batch, expected in zip(
        batches_of(packed, num_workers=workers, cache=cache).between(0, STEPS), plain, strict=True
    ):
        assert_same(batch, expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [1, 4, STEPS - 1, STEPS])
def test_a_run_goes_on_in_the_middle_of_an_epoch(packed: Path, workers: int, first: int) -> None:
    whole = [batches_of(packed).batch(step) for step in range(STEPS)]
    resumed = list(batches_of(packed, num_workers=workers).between(first, STEPS))
    assert len(resumed) == STEPS - first
    for batch, expected in zip(resumed, whole[first:], strict=True):
        assert_same(batch, expected)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_processes_make_up_the_batch(packed: Path, world: int) -> None:
    """Three processes have 6, 5 and 5 of 16 images."""
    shares = [
        list(batches_of(packed, num_workers=2, rank=rank, world=world).between(0, STEPS))
        for rank in range(world)
    ]
    for step, whole in enumerate(batches_of(packed).between(0, STEPS)):
        assert sum(len(share[step].ids) for share in shares) == 16
        for rank, share in enumerate(shares):
            assert share[step].ids == whole.ids[rank::world]
            assert torch.equal(share[step].images, whole.images[rank::world])
            assert torch.equal(share[step].masks, whole.masks[rank::world])


@pytest.mark.parametrize("world", [2, 3])
def test_an_epoch_shows_every_image_to_one_process_once(packed: Path, world: int) -> None:
    for epoch in range(2):
        seen = [
            name
            for rank in range(world)
            for batch in batches_of(packed, quota=0.0, num_workers=1, rank=rank, world=world).between(
                3 * epoch, 3 * epoch + 3
            )
            for name in batch.ids
        ]
        data = PackedDataset(packed, "train")
        assert sorted(seen) == [data.annotation(index).id for index in range(48)]


class Counting(TrainingBatches):
    """Counts the batches that were prepared."""

    prepared = 0

    def assemble(self, plan: Plan) -> Batch:
        self.prepared += 1
        return super().assemble(plan)


def test_workers_do_not_run_away_from_the_step(packed: Path) -> None:
    """Two batches of each worker wait, beside the one that is used."""
    counting = batches_of(packed, kind=Counting, num_workers=2)
    assert isinstance(counting, Counting)
    batches = counting.between(0, 100)
    next(batches)
    wait_until(lambda: counting.prepared == 5)
    next(batches)
    wait_until(lambda: counting.prepared == 6)
    batches.close()
    wait_until(no_loader_runs)
    assert counting.prepared == 6


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """32 training images, of which s7 is packed, indexed and no image."""
    rows = write_dataset(tmp_path / "dataset", count=32)
    write_rows(tmp_path / "dataset", [{**sample, "split": "train"} for sample in rows])
    manifest = tmp_path / "manifest.parquet"
    write_manifest(scan(tmp_path / "dataset", SplitConfig(), Silent()), manifest)
    pack(tmp_path / "dataset", manifest, tmp_path / "packed", PackConfig(), None, Silent())
    shard = tmp_path / "packed/train-00000.arrow"
    table = pa.ipc.open_stream(shard.read_bytes()).read_all()
    packed_rows = table.to_pylist()
    next(one for one in packed_rows if one["id"] == "s7")["image"]["bytes"] = b"\x89PNG and no more"
    with pa.ipc.new_stream(str(shard), table.schema) as stream:
        stream.write_table(pa.Table.from_pylist(packed_rows, table.schema))
    digests = [hashlib.sha256(one["image"]["bytes"]).hexdigest() for one in packed_rows]
    write_index(tmp_path / "packed", "train", [shard.name], pa.array(digests))
    return tmp_path / "packed"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named_when_it_is_its_turn(damaged: Path, workers: int) -> None:
    batches = batches_of(damaged, quota=0.0, num_workers=workers)
    index = next(index for index in range(32) if batches.data.annotation(index).id == "s7")
    given = batches.between(0, 8)
    if index not in batches.sampler.batch(0):  # then it is in the second one
        next(given)
    with pytest.raises(DataError, match="the image of sample 's7' cannot be decoded: "):
        next(given)
    wait_until(no_loader_runs)


def test_a_training_ends_at_an_image_that_changed_and_names_it(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "packed"
    copy.mkdir()
    for file in packed.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = PackedDataset(copy, "train")
    _, offset, _ = list(data.places())[5]
    with (copy / "train-00000.arrow").open("r+b") as stream:
        stream.seek(offset + 40)
        stream.write(b"changed")
    config = TrainConfig(epochs=2, batch_size=16, num_workers=2)
    name = data.annotation(5).id
    with pytest.raises(IntegrityError, match=f"the image of sample '{name}' is not the one that was packed"):
        train(copy, tmp_path / "model", MODEL, ObjectiveConfig(), config)
    assert not (tmp_path / "model").exists()
    wait_until(no_loader_runs)


def test_a_training_with_workers_is_the_training_without(packed: Path, tmp_path: Path) -> None:
    digests = set()
    for workers, cache in ((0, 0), (2, 1)):
        config = TrainConfig(epochs=2, batch_size=16, num_workers=workers, cache_mb=cache)
        result = train(packed, tmp_path / f"model-{workers}", MODEL, ObjectiveConfig(), config)
        assert result is not None
        digests.add(weights(tmp_path / f"model-{workers}"))
    assert len(digests) == 1


def weights(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
