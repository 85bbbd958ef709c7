"""The loader: what memory it takes over sets of growing size, and whether it keeps up with the step."""

import hashlib
import itertools
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.training_plan import Size, configuration, packed_scenes
from benchmarks.training_runs import FULL, MODEL, Numbers, alone, append, memory_of
from megl_core.config import Config, changed
from megl_core.data.contract import DATASET_JSON, TRAIN
from megl_core.files import read_json, write_json

CACHE_MB = 64
WORKERS = (1, 2)
STEP = "step"


def measure_loader(size: Size, folder: Path) -> dict[str, list[float]]:
    """Memory over sets, `{"<rows>[, cached]/<number>": [...]}`, and pace, `{"pace, <model>/<who>": [...]}`.

    The pace is images a second: of the step alone, and of the loader alone with one worker and with two.
    """
    config = changed(configuration(MODEL, FULL, size), [f"data.scenes.num_train={size.rows[0]}"])
    data = packed_scenes(config, folder)
    measured: dict[str, list[float]] = {}
    for rows in size.rows:
        repeated = repeat_shards(data, folder / f"rows-{rows}", rows // size.rows[0])
        for cache_mb in (0, CACHE_MB):
            name = f"{rows}, cached" if cache_mb else f"{rows}"
            append(measured, name, alone(load_alone, repeated, config, cache_mb))
    for model, _ in itertools.product(size.models, range(size.runs)):
        config = configuration(model, FULL, size)
        append(
            measured, f"pace, {model}", alone(pace_alone, packed_scenes(config, folder), config, size.steps)
        )
    return measured


def repeat_shards(data: Path, output: Path, times: int) -> Path:
    """A packed set whose training split names the shards of `data` several times over."""
    import pyarrow as pa

    from megl_core.data.index import write_index
    from megl_core.data.packed import PackedDataset

    output.mkdir(parents=True, exist_ok=True)
    description = read_json(data / DATASET_JSON)
    train, rows = description["splits"][TRAIN], PackedDataset(data, TRAIN)
    for shard in train["shards"]:
        if not (output / shard).exists():
            (output / shard).hardlink_to(data / shard)
    split = {"rows": train["rows"] * times, "shards": train["shards"] * times}
    write_json(output / DATASET_JSON, description | {"splits": {TRAIN: train | split}})
    digests = [hashlib.sha256(rows.image(index)).hexdigest() for index in range(len(rows))]
    write_index(output, TRAIN, split["shards"], pa.array(digests * times))
    return output


def load_alone(data: Path, config: Config, cache_mb: int) -> Numbers:
    """One epoch of the training's batches, prepared by two workers; `before` is what it begins with."""
    from benchmarks.training_steps import built

    started = memory_of("RssAnon")
    settings = changed(config, [f"train.cache_mb={cache_mb}", "train.num_workers=2"])
    batches = built(data, settings).batches
    steps = batches.sampler.steps_per_epoch
    before = peak = memory_of("RssAnon")
    begun = time.perf_counter()
    for number, _ in enumerate(batches.between(0, steps)):
        if number % 8 == 0:
            peak = max(peak, memory_of("RssAnon"))
    seconds = time.perf_counter() - begun
    return {
        "images/s": steps * config.train.batch_size / seconds,
        "start": started,
        "before": before,
        "anonymous": peak,
        "mapped": memory_of("RssFile"),
    }


def pace_alone(data: Path, config: Config, steps: int) -> Numbers:
    """Images a second by the clock, one after the other: of the step, and of the loader by its workers.

    The loader keeps no image in memory, and nobody uses its batches.
    """
    from benchmarks.training_steps import built, step_of

    count = 8 * steps
    step = step_of(built(data, config), config)
    step()  # the first one is slow
    works: dict[str, Iterable[object]] = {STEP: (step() for _ in range(count))}
    for workers in WORKERS:
        settings = changed(config, ["train.cache_mb=0", f"train.num_workers={workers}"])
        works[str(workers)] = built(data, settings).batches.between(0, count)
    return {name: count * config.train.batch_size / _seconds(work) for name, work in works.items()}


def _seconds(work: Iterable[object]) -> float:
    begun = time.perf_counter()
    for _ in work:
        pass
    return time.perf_counter() - begun
