"""What a run is made of: data, sampler, model, objective and optimizer, from a packed folder and settings."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from megl_core.config import ConsistencyKind, ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.data.contract import TRAIN, VAL
from megl_core.data.loading import TrainingBatches
from megl_core.data.packed import PackedDataset, PackedFiles, read_info
from megl_core.data.pixels import PixelCache, PixelStore
from megl_core.data.regions import learned_regions, lexicon_regions
from megl_core.data.sampling import QuotaSampler
from megl_core.data.tokenizer import Tokenizer, WordTokenizer
from megl_core.errors import ConfigError, DataError
from megl_core.files import sha256_json
from megl_core.models.attribution import BY_GRADIENT
from megl_core.models.megl import MEGL
from megl_core.objectives.consistency import reference_statistics
from megl_core.objectives.masks import pool_masks
from megl_core.objectives.objective import Objective
from megl_core.training.batch_norm import share_batch_norm
from megl_core.training.distributed import Process
from megl_core.training.sharding import is_sharded, shard_decoder
from megl_core.training.step import TrainingStep

HOW = frozenset(
    {
        "cache_mb",
        "checkpoint_seconds",
        "device",
        "keep_checkpoints",
        "max_skipped",
        "num_threads",
        "num_workers",
        "on_nan",
        "shard",
        "stall_seconds",
    }
)
"""Settings of `train` that say how a run is done, not what it is: they may change when it goes on."""


@dataclass(frozen=True)
class Settings:
    """The sections of the configuration that decide a run's result."""

    model: ModelConfig
    objective: ObjectiveConfig
    train: TrainConfig

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).model_dump(mode="json") for name in ("model", "objective", "train")}

    def identity(self) -> dict[str, Any]:
        """What a run must have in common with its checkpoints."""
        tree = self.to_json()
        return {**tree, "train": {key: value for key, value in tree["train"].items() if key not in HOW}}


@dataclass(frozen=True)
class Parts:
    """A run before its first step.

    Attributes:
        checkpoints: SHA-256 of the pretrained parts, by `backbone` and `decoder`.
        fingerprint: SHA-256 over all that decides the result, but for rounding: the same run has the same
            one on any device and any number of processes.
        validation: pixels of the split `val`; None where the data has none.
    """

    data_digest: str
    checkpoints: dict[str, str]
    fingerprint: str
    step: TrainingStep
    batches: TrainingBatches
    optimizer: AdamW
    validation: PixelStore | None


def build(data: Path | PackedFiles, settings: Settings, process: Process, code: str) -> Parts:
    """Everything in its initial state, a function of data, settings and seed alone.

    Raises:
        DataError: too few training rows for a batch.
        ConfigError: too small a batch for the number of processes, or settings that exclude each other.
    """
    config = settings.train
    info = read_info(data)
    rows = PackedDataset(data, TRAIN)
    _check_batch(len(rows), config, process.world, rows.files.where)
    torch.manual_seed(config.seed)
    tokenizer = _tokenizer(rows, settings)
    model = MEGL(settings.model, info.labels, tokenizer).to(process.device)
    cache = PixelCache(config.cache_mb << 20)
    pixels = PixelStore(rows, model.image_size, cache)
    cells = _annotated_cells(pixels, model.map_size)
    batches = TrainingBatches(
        pixels,
        _sampler(rows, config),
        tokenizer,
        max_tokens=settings.model.decoder.max_tokens,
        max_shift=config.max_shift,
        seed=config.seed,
        regions=_regions(rows, settings.objective, cells, model.map_size),
        mix=config.mix_backgrounds,
        num_workers=config.num_workers,
        rank=process.rank,
        world=process.world,
    )
    reference = _reference(rows, settings.objective.consistency_kind, cells, len(info.labels))
    objective = Objective(settings.objective, reference, model.image_size // model.map_size)
    step = TrainingStep(model, objective, getattr(torch, config.precision)).to(process.device)
    _prepare(step, config, process)
    checkpoints = _checkpoint_digests(settings.model)
    return Parts(
        data_digest=info.digest,
        checkpoints=checkpoints,
        fingerprint=sha256_json(
            {
                "checkpoints": checkpoints,
                "code": code,
                "data": info.digest,
                "labels": info.labels,
                **settings.identity(),
            }
        ),
        step=step,
        batches=batches,
        optimizer=_optimizer(step, config),
        validation=(
            PixelStore(PackedDataset(data, VAL), model.image_size, cache) if VAL in info.splits else None
        ),
    )


def _sampler(rows: PackedDataset, config: TrainConfig) -> QuotaSampler:
    return QuotaSampler(
        rows.annotated,
        config.batch_size,
        config.annotated_quota,
        config.seed,
        rows.shard_numbers,
        config.shuffle_shards,
    )


def _checkpoint_digests(config: ModelConfig) -> dict[str, str]:
    paths = {"backbone": config.backbone.path, "decoder": config.decoder.path}
    named = {part: path for part, path in paths.items() if path is not None}
    if not named:
        return {}
    from megl_core.models.checkpoints import checkpoint_digest  # loads transformers

    return {part: checkpoint_digest(path) for part, path in named.items()}


def _prepare(step: TrainingStep, config: TrainConfig, process: Process) -> None:
    """Make a step ready for compilation and for several processes."""
    if config.compile:
        _compile(step)
    if process.world > 1:
        share_batch_norm(step)
        if config.shard == "decoder":
            shard_decoder(step.model, process)


def _compile(step: TrainingStep) -> None:
    """Compile what takes the time. Map and losses are small, and some need gradients of gradients."""
    if step.objective.needs_pixels or step.model.config.saliency in BY_GRADIENT:
        raise ConfigError(
            "torch.compile has no gradients of gradients",
            where="train.compile",
            fix="set train.compile=false, or choose a closed-form model.saliency and an alignment of maps",
        )
    step.model.backbone.compile()
    language_model = getattr(getattr(step.model, "decoder", None), "language_model", None)
    if language_model is not None:
        language_model.compile()


def _check_batch(num_rows: int, config: TrainConfig, world: int, where: str) -> None:
    if num_rows < config.batch_size:
        raise DataError(
            f"{num_rows} training rows do not fill a batch of {config.batch_size}",
            where=where,
            fix="lower train.batch_size or add data",
        )
    if config.batch_size < world * config.accumulate:
        raise ConfigError(
            f"a batch of {config.batch_size} leaves some of {world} processes x {config.accumulate} "
            "micro-batches without an image",
            fix="raise train.batch_size, lower train.accumulate or start fewer processes",
        )


def _tokenizer(data: PackedDataset, settings: Settings) -> Tokenizer | None:
    """The checkpoint's, or one of the training rationales' words; None where no text is wanted or at hand."""
    config = settings.model.decoder
    if config.name == "none" or settings.objective.text == 0:
        return None
    if not any(data.explanations()):
        return None
    if config.path is None:
        texts = itertools.chain.from_iterable(data.explanations())
        return WordTokenizer.learn(texts, config.min_word_count)
    from megl_core.models.language import read_tokenizer

    return read_tokenizer(config.path)


def _annotated_cells(pixels: PixelStore, side: int) -> Tensor:
    """(M, side, side) in [0, 1]: the training masks at map resolution, in the order of their rows."""
    annotated = np.flatnonzero(pixels.data.annotated).tolist()
    cells = [pool_masks(pixels.mask(index)[None] / 255, side) for index in annotated]
    return torch.cat(cells) if cells else torch.zeros(0, side, side)


def _reference(rows: PackedDataset, kind: ConsistencyKind, cells: Tensor, num_classes: int) -> Tensor | None:
    """The statistics of the training masks; None where there is no mask."""
    if not len(cells):
        return None
    labels = torch.from_numpy(rows.labels[rows.annotated])
    return reference_statistics(kind, cells, labels, num_classes)


def _regions(rows: PackedDataset, config: ObjectiveConfig, cells: Tensor, side: int) -> Tensor | None:
    """Where the rationales say that the objects are; None where that is not asked for or cannot be known."""
    if config.region == 0:
        return None
    texts = list(rows.explanations())
    if not any(texts):
        return None
    if config.region_source == "lexicon":
        return lexicon_regions(texts, side)
    annotated = np.flatnonzero(rows.annotated).tolist()
    if not any(texts[index] for index in annotated):
        return None
    return learned_regions(texts, annotated, cells, config.region_mass)


def _optimizer(step: TrainingStep, config: TrainConfig) -> AdamW:
    """AdamW over what is trained; `initial_lr` of a group is the peak of its schedule."""
    rates = [config.learning_rate, config.decoder_learning_rate or config.learning_rate]
    groups: dict[tuple[bool, bool], list[Tensor]] = {}  # sharded tensors keep to themselves
    for name, parameter in step.named_parameters():
        if parameter.requires_grad:
            differs = config.decoder_learning_rate is not None and name.startswith("model.decoder.")
            groups.setdefault((differs, is_sharded(parameter)), []).append(parameter)
    return AdamW(
        [{"params": group, "initial_lr": rates[differs]} for (differs, _), group in sorted(groups.items())],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
