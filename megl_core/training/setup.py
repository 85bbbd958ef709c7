"""What a run is made of: data, sampler, model, objective and optimizer, from a packed folder and settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from megl_core.config import ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.data.contract import TRAIN, VAL
from megl_core.data.loading import PixelStore, TrainingBatches
from megl_core.data.packed import PackedDataset, read_info
from megl_core.data.sampling import QuotaSampler
from megl_core.data.tokenizer import WordTokenizer
from megl_core.errors import ConfigError, DataError
from megl_core.files import sha256_json
from megl_core.models.megl import MEGL
from megl_core.objectives.objective import Objective, reference_curve
from megl_core.training.distributed import Process


@dataclass(frozen=True)
class Settings:
    """The sections of the configuration that decide a run's result."""

    model: ModelConfig
    objective: ObjectiveConfig
    train: TrainConfig

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).model_dump(mode="json") for name in ("model", "objective", "train")}


@dataclass(frozen=True)
class Parts:
    """A run before its first step.

    Attributes:
        fingerprint: SHA-256 over all that decides the result; the same run has the same one.
        validation: pixels of the split `val`; None where the data has none.
    """

    data_digest: str
    fingerprint: str
    model: MEGL
    batches: TrainingBatches
    objective: Objective
    optimizer: AdamW
    validation: PixelStore | None


def build(data: Path, settings: Settings, process: Process, code: str) -> Parts:
    """Everything in its initial state, a function of data, settings and seed alone.

    Raises:
        DataError: too few training rows for a batch.
        ConfigError: too small a batch for the number of processes.
    """
    config = settings.train
    info = read_info(data)
    rows = PackedDataset(data, TRAIN)
    _check_batch(len(rows), config.batch_size, process.world, data)
    torch.manual_seed(config.seed)
    tokenizer = _learn_tokenizer(rows, settings)
    model = MEGL(settings.model, info.labels, tokenizer).to(process.device)
    batches = TrainingBatches(
        rows,
        QuotaSampler(rows.annotated, config.batch_size, config.annotated_quota, config.seed),
        tokenizer,
        size=settings.model.image_size,
        max_tokens=settings.model.decoder.max_tokens,
        max_shift=config.max_shift,
        cache=config.cache_images,
        seed=config.seed,
        rank=process.rank,
        world=process.world,
    )
    return Parts(
        data_digest=info.digest,
        fingerprint=sha256_json(
            {
                "code": code,
                "data": info.digest,
                "labels": info.labels,
                "processes": process.world,
                **settings.to_json(),
            }
        ),
        model=model,
        batches=batches,
        objective=Objective(settings.objective, _reference(batches, model.map_size)).to(process.device),
        optimizer=AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay),
        validation=_validation(data, settings) if VAL in info.splits else None,
    )


def _validation(data: Path, settings: Settings) -> PixelStore:
    return PixelStore(PackedDataset(data, VAL), settings.model.image_size, cache=settings.train.cache_images)


def _check_batch(num_rows: int, batch_size: int, world: int, data: Path) -> None:
    if num_rows < batch_size:
        raise DataError(
            f"{num_rows} training rows do not fill a batch of {batch_size}",
            where=str(data),
            fix="lower train.batch_size or add data",
        )
    if batch_size < world:
        raise ConfigError(
            f"a batch of {batch_size} leaves some of {world} processes without an image",
            fix="raise train.batch_size or start fewer processes",
        )


def _learn_tokenizer(data: PackedDataset, settings: Settings) -> WordTokenizer | None:
    """The vocabulary of the training rationales; None where none are wanted or there are none."""
    if settings.model.decoder.name == "none" or settings.objective.text == 0:
        return None
    texts = [text for index in range(len(data)) for text in data[index].explanations]
    return WordTokenizer.learn(texts, settings.model.decoder.min_word_count) if texts else None


def _reference(batches: TrainingBatches, map_size: int) -> Tensor | None:
    """Q of the training masks; None where there is no mask."""
    annotated = batches.data.annotated.nonzero()[0]
    masks = [batches.pixels.get(int(index))[1] for index in annotated]
    return reference_curve(torch.stack(masks), map_size) if masks else None
