"""Training on packed data that stay on S3: the same bits, a bounded disk, and faults that do not matter."""

import hashlib
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megl_core.cli import app
from megl_core.config import (
    BackboneConfig,
    DecoderConfig,
    ModelConfig,
    ObjectiveConfig,
    PackConfig,
    SplitConfig,
    StorageConfig,
    TrainConfig,
)
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.data.packed import PackedDataset, read_info, verify_index
from megl_core.data.streaming import open_packed
from megl_core.errors import ConfigError, DataError, IntegrityError, UnavailableError
from megl_core.files import tree_digests
from megl_core.locks import locked
from megl_core.storage.cache import FolderCache
from megl_core.storage.s3 import open_client, upload_folder
from megl_core.training import train
from tests.integration.faulty_store import Proxy, settings
from tests.unit.data.build import Silent, box_mask, encode, noise, row, write_dataset, write_rows

pytestmark = pytest.mark.service

URI = "s3://datasets/packed/noise"
SHARDS = [f"train-{number:05d}.arrow" for number in range(4)]
MODEL = ModelConfig(
    image_size=24,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16),
)
CONFIG = TrainConfig(epochs=2, batch_size=12, num_workers=2, cache_mb=0, shuffle_shards=1)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training images of 120 kB in four shards, every third with a mask, and two to validate."""
    root = tmp_path_factory.mktemp("noise")
    write_dataset(root / "dataset", count=2)
    rows = []
    for number in range(38):
        (root / f"dataset/images/s{number:02}.bmp").write_bytes(encode(noise(number, 200, 200), "BMP"))
        (root / f"dataset/masks/s{number:02}.png").write_bytes(encode(box_mask(200, 200)))
        rows.append(
            row(
                number,
                id=f"s{number:02}",
                image=f"images/s{number:02}.bmp",
                mask=f"masks/s{number:02}.png" if number % 3 == 0 else None,
                split="train" if number < 36 else "val",
            )
        )
    write_rows(root / "dataset", rows)
    write_manifest(scan(root / "dataset", SplitConfig(), Silent()), root / "manifest.parquet")
    pack(root / "dataset", root / "manifest.parquet", root / "packed", PackConfig(shard_mb=1), None, Silent())
    assert PackedDataset(root / "packed", "train").shards == SHARDS
    return root / "packed"


@pytest.fixture
def stored(proxy: Proxy, packed: Path, tmp_path: Path) -> StorageConfig:
    """The packed folder on S3, and a cache with room for all of it."""
    config = settings(proxy, cache=str(tmp_path / "cache"), cache_mb=8)
    upload_folder(packed, URI, config)
    return config


def cached_bytes(config: StorageConfig) -> int:
    assert config.cache is not None
    return sum(path.stat().st_size for path in config.cache.iterdir())


def downloads(proxy: Proxy, name: str) -> int:
    return sum(line.startswith("GET") and name in line for line in proxy.requests)


def trained(data: Path | str, output: Path, storage: StorageConfig | None = None, **changes: Any) -> str:
    """The digest of the model's weights."""
    config = CONFIG.model_copy(update=changes)
    assert train(data, output, MODEL, ObjectiveConfig(), config, storage=storage) is not None
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()


def test_what_is_streamed_trains_the_same_model(
    proxy: Proxy, stored: StorageConfig, packed: Path, tmp_path: Path
) -> None:
    """With room for two of four shards, and a store that fails in every way."""
    narrow = stored.model_copy(update={"cache_mb": 3})
    proxy.fail("GET /datasets/packed/noise/train-0", "503", "reset", "truncated", "503", "reset")
    local = trained(packed, tmp_path / "local")
    assert trained(URI, tmp_path / "streamed", narrow) == local
    assert proxy.faults == []
    assert max(downloads(proxy, name) for name in SHARDS) > 1  # room had to be made
    assert cached_bytes(narrow) <= 3 << 20


def test_a_shard_is_fetched_once_for_all_epochs_runs_and_processes(
    proxy: Proxy, stored: StorageConfig, tmp_path: Path
) -> None:
    proxy.fail("none")
    trained(URI, tmp_path / "first", stored)
    assert [downloads(proxy, name) for name in SHARDS] == [1, 1, 1, 1]
    trained(URI, tmp_path / "second", stored)
    assert [downloads(proxy, name) for name in SHARDS] == [1, 1, 1, 1]
    assert downloads(proxy, "test-") == downloads(proxy, "manifest.parquet") == 0


def test_readers_that_want_the_same_shard_at_once_wait_for_one_download(
    proxy: Proxy, stored: StorageConfig, packed: Path
) -> None:
    proxy.fail("none")

    def read(cache: FolderCache) -> bytes:
        with cache.open(SHARDS[0]) as stream:
            return stream.read()

    with FolderCache(URI, stored) as one, FolderCache(URI, stored) as other, ThreadPoolExecutor(6) as pool:
        contents = set(pool.map(read, [one, other] * 3))
    assert contents == {(packed / SHARDS[0]).read_bytes()}
    assert downloads(proxy, SHARDS[0]) == 1


def test_what_was_not_opened_for_longest_makes_room(stored: StorageConfig, packed: Path) -> None:
    narrow = stored.model_copy(update={"cache_mb": 3})
    with FolderCache(URI, narrow) as cache:
        kept = cache.open(SHARDS[0])
        for name in (SHARDS[1], SHARDS[0], SHARDS[2]):
            cache.open(name).close()
            assert cached_bytes(narrow) <= 3 << 20
        assert narrow.cache is not None
        there = {path.name for path in narrow.cache.iterdir()}
        files = {name: hashlib.sha256((packed / name).read_bytes()).hexdigest() for name in SHARDS}
        assert [files[name] in there for name in SHARDS] == [True, False, True, False]
        for name in (SHARDS[1], SHARDS[3]):
            cache.open(name).close()
        with kept:  # its file went, its bytes did not
            assert kept.read() == (packed / SHARDS[0]).read_bytes()


_BLOCKS = 1 << 16
"""What small files take on a disk beyond their bytes."""


def test_the_cache_keeps_its_bound_while_many_fetch(stored: StorageConfig, packed: Path) -> None:
    """Two caches with threads of their own, and room for two of four shards."""
    narrow = stored.model_copy(update={"cache_mb": 3, "threads": 4})
    contents = {name: (packed / name).read_bytes() for name in SHARDS}
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            with suppress(FileNotFoundError):  # a file that went in the meantime
                most = max(most, sum(512 * path.stat().st_blocks for path in narrow.cache.iterdir()))  # type: ignore[union-attr]

    def read(reader: int) -> bool:
        cache = caches[reader % 2]
        order = random.Random(reader).choices(SHARDS, k=12)
        right = True
        for name, coming in itertools.pairwise(order):
            cache.ahead([coming])
            with cache.open(name) as stream:
                right &= stream.read() == contents[name]
        return right

    with FolderCache(URI, narrow) as one, FolderCache(URI, narrow) as other, ThreadPoolExecutor(5) as pool:
        caches = [one, other]
        watching = pool.submit(watch)
        assert all(pool.map(read, range(4)))
        done.set()
        watching.result()
    assert 1 << 20 < most <= (3 << 20) + _BLOCKS
    assert {path.suffix for path in narrow.cache.iterdir()} <= {"", ".lock", ".part"}  # type: ignore[union-attr]


def test_a_cached_file_that_a_crash_cut_off_is_fetched_anew(
    proxy: Proxy, stored: StorageConfig, packed: Path
) -> None:
    assert stored.cache is not None
    with FolderCache(URI, stored) as cache:
        cache.open("dataset.json").close()
    (stored.cache / hashlib.sha256((packed / "dataset.json").read_bytes()).hexdigest()).write_bytes(b"")
    with open_packed(URI, stored) as files:
        assert read_info(files) == read_info(packed)


def test_a_cache_does_not_wait_for_who_holds_a_file_for_ever(stored: StorageConfig, packed: Path) -> None:
    assert stored.cache is not None
    sha256 = hashlib.sha256((packed / SHARDS[0]).read_bytes()).hexdigest()
    with locked(stored.cache / f".{sha256}.lock"), FolderCache(URI, stored) as cache:
        cache.ahead([SHARDS[0]])
        cache.open(SHARDS[1]).close()
    wait_until(nothing_runs)


def test_shards_are_fetched_ahead_of_their_turn(proxy: Proxy, stored: StorageConfig) -> None:
    proxy.fail("none")
    with open_packed(URI, stored) as files:
        data = PackedDataset(files, "train")
        data.ahead(data.shard_numbers[:0].astype(int))
        assert [downloads(proxy, name) for name in SHARDS] == [0, 0, 0, 0]
        data.ahead(data.shard_numbers.argsort())
        wait_until(lambda: [downloads(proxy, name) for name in SHARDS] == [1, 1, 1, 1])


def test_wrong_bytes_end_the_training(proxy: Proxy, stored: StorageConfig, tmp_path: Path) -> None:
    proxy.fail("GET /datasets/packed/noise/train-00001", *["wrong bytes"] * 50)
    with pytest.raises(IntegrityError, match="not what the index says"):
        trained(URI, tmp_path / "model", stored)
    assert not (tmp_path / "model").exists()
    wait_until(nothing_runs)


def test_a_store_that_stays_away_ends_the_training(
    proxy: Proxy, stored: StorageConfig, tmp_path: Path
) -> None:
    impatient = stored.model_copy(update={"retries": 0})
    proxy.fail("GET /datasets/packed/noise/train-00002", *["503"] * 200)
    with pytest.raises(UnavailableError, match="SlowDown"):
        trained(URI, tmp_path / "model", impatient)
    wait_until(nothing_runs)


def test_an_index_of_other_data_is_noticed(
    proxy: Proxy, stored: StorageConfig, packed: Path, tmp_path: Path
) -> None:
    """Whoever can write to the bucket can make its own list fit, but not the root digest."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in packed.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    index = copy / "train.index.arrow"
    index.write_bytes(index.read_bytes().replace(b"Sample 5 has ears.", b"Sample 5 has eyes."))
    upload_folder(copy, URI, stored)
    with open_packed(URI, stored) as files, pytest.raises(IntegrityError, match="recorded digest"):
        verify_index(files)


def test_a_list_of_files_cannot_name_a_place_outside_of_the_cache(
    proxy: Proxy, stored: StorageConfig, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("{}")
    listed = {"dataset.json": {"size": 2, "sha256": "../outside"}}
    client = open_client(stored)
    client.put_object(Bucket="datasets", Key="packed/noise/.index.json", Body=json.dumps(listed).encode())
    with pytest.raises(DataError, match="no index of a folder"):
        FolderCache(URI, stored)


def test_what_does_not_fit_or_is_not_there_is_told_at_once(
    proxy: Proxy, stored: StorageConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="does not hold a file"):
        trained(URI, tmp_path / "model", stored.model_copy(update={"cache_mb": 1}))
    with pytest.raises(DataError, match="megl data upload"):
        trained("s3://datasets/nothing", tmp_path / "model", stored)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"storage\.cache"):
        trained(URI, tmp_path / "model", stored.model_copy(update={"cache": tmp_path / "file/cache"}))
    client = open_client(stored)
    client.delete_object(Bucket="datasets", Key="packed/noise/dataset.json")
    with FolderCache(URI, stored) as cache, pytest.raises(DataError, match="404"):
        cache.open("dataset.json")


def test_two_processes_from_the_command_line(proxy: Proxy, packed: Path, tmp_path: Path) -> None:
    """They share what is fetched; their model is evaluated on the same data from there, too."""
    changes = {
        "storage.endpoint_url": proxy.url,
        "storage.addressing_style": "path",
        "storage.cache": str(tmp_path / "cache"),
        "model.image_size": 24,
        "model.backbone.widths": [8, 16],
        "model.backbone.depths": [1, 1],
        "train.epochs": 1,
        "train.batch_size": 12,
    }
    options = [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    uploaded = CliRunner().invoke(app, ["data", "upload", str(packed), URI, "--json", *options])
    assert uploaded.exit_code == 0, uploaded.output
    assert json.loads(uploaded.stdout)["num_files"] == len(list(packed.iterdir()))
    proxy.fail("none")
    output = tmp_path / "model"
    command = [sys.executable, "-m", "megl_core.cli", "train", URI, "--processes", "2"]
    command += ["--output", str(output), "--no-track", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((output / "training.json").read_text())
    assert (report["data_digest"], report["processes"]) == (read_info(packed).digest, 2)
    assert [downloads(proxy, name) for name in SHARDS] == [1, 1, 1, 1]
    for data, name in ((URI, "afar"), (packed, "near")):
        arguments = ["evaluate", str(output), str(data), "--output", str(tmp_path / name), *options]
        evaluated = CliRunner().invoke(app, arguments)
        assert evaluated.exit_code == 0, evaluated.output
    assert tree_digests(tmp_path / "afar") == tree_digests(tmp_path / "near")


def nothing_runs() -> bool:
    return not any(thread.name.startswith(("loader", "fetch")) for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
