"""What a training step costs, term by term, and whether the loader keeps up with it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Work, interleaved
from benchmarks.training_plan import VARIANTS, Size, configuration, packed_scenes
from megl_core.config import Config
from megl_core.data.loading import TrainingBatches
from megl_core.data.pixels import PixelCache, PixelStore
from megl_core.data.tokenizer import IGNORE
from megl_core.memory import keep_freed_memory
from megl_core.models.decoder import Decoder
from megl_core.models.grounding import ground
from megl_core.objectives.objective import Targets
from megl_core.objectives.text import token_losses
from megl_core.training.distributed import Process
from megl_core.training.setup import Parts, Settings, build
from megl_core.training.sharding import clip_gradients
from megl_core.training.step import Gradients, to_device

CPU = Process(0, 1, torch.device("cpu"))
PLAIN, DECODER = "plain classifier", "decoder alone"
LOADING, CACHED = "loading", "loading, cached"
OPERATORS = "operators of "


def measure_steps(size: Size, folder: Path) -> dict[str, list[float]]:
    """Processor seconds of a step, `{"<model>/<variant>": [...]}`, and its `operators of <variant>`.

    Beside the variants: encoder, head and cross-entropy without anything of ours, the decoder's own step on
    features that are given, and a batch of the loader that decodes its images or has them in memory.
    """
    torch.set_num_threads(1)
    measured: dict[str, list[float]] = {}
    for model in size.models:
        configs = {variant: configuration(model, variant, size) for variant in VARIANTS}
        data = packed_scenes(configs["classifier"], folder)
        parts = {variant: built(data, config) for variant, config in configs.items()}
        full, config = parts["all terms"], configs["all terms"]
        works = {PLAIN: plain_step(built(data, configs["classifier"]), configs["classifier"])}
        works |= {variant: step_of(parts[variant], configs[variant]) for variant in VARIANTS}
        works[DECODER] = decoder_step(parts["visual + consistency + decoder"], config)
        works[LOADING] = _loading(full.batches, cache=False)
        works[CACHED] = _loading(full.batches, cache=True)
        with keep_freed_memory():  # as every training does
            times = interleaved(works, size.repetitions, size.steps)
        measured |= {f"{model}/{name}": seconds for name, seconds in times.items()}
        steps = (PLAIN, *VARIANTS, DECODER)
        measured |= {f"{model}/{OPERATORS}{name}": [operators(works[name])] for name in steps}
    return measured


def operators(work: Work) -> float:
    """How many of torch's operators one call runs, those that others call included."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    return float(sum(event.count for event in profiler.key_averages() if event.key.startswith("aten::")))


def step_of(parts: Parts, config: Config, process: Process = CPU) -> Work:
    """A training step as the loop does it, on batches that are at hand."""
    batches = _prepared(parts)
    gradients = Gradients(parts.step, parts.step, config.train)
    parameters = [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
    parts.step.train()

    def step() -> None:
        images, targets = next(batches)
        parts.optimizer.zero_grad(set_to_none=True)
        gradients.compute(images, targets, 0.5, process.seed)
        clip_gradients(parameters, config.train.clip_norm)
        parts.optimizer.step()

    return step


def plain_step(parts: Parts, config: Config) -> Work:
    """A step of the model's encoder and head as anybody's classifier: no map, no terms, no counting."""
    batches = _prepared(parts)
    backbone, head = parts.step.model.backbone, parts.step.model.head
    parameters = [*backbone.parameters(), *head.parameters()]
    mixed: AbstractContextManager[object] = nullcontext()
    if config.train.precision == "bfloat16":
        mixed = torch.autocast(head.weight.device.type, torch.bfloat16)
    parts.step.train()

    def step() -> None:
        images, targets = next(batches)
        parts.optimizer.zero_grad(set_to_none=True)
        with mixed:
            logits = head(backbone(images).pooled)
        F.cross_entropy(logits.float(), targets.labels).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, config.train.clip_norm)
        parts.optimizer.step()

    return step


def decoder_step(parts: Parts, config: Config) -> Work:
    """The decoder's forward and backward pass and its optimizer, on features and maps that are given.

    They get gradients, as the encoder would.
    """
    decoder: Decoder = parts.step.model.decoder
    optimizer = torch.optim.AdamW(decoder.parameters())
    batches = _prepared(parts)
    model = parts.step.model
    features = torch.randn(
        config.train.batch_size, model.backbone.num_channels, model.map_size, model.map_size
    ).requires_grad_()
    maps = torch.randn(config.train.batch_size, model.map_size, model.map_size).requires_grad_()

    def step() -> None:
        images, targets = next(batches)
        optimizer.zero_grad(set_to_none=True)
        features.grad = maps.grad = None
        words = decoder(targets.tokens[:, :-1], ground(features, maps, config.model.grounding, 0.1), images)
        following = targets.tokens[:, 1:]
        losses = token_losses(words.logits, following)
        (losses.sum() / (following != IGNORE).sum()).backward()  # type: ignore[no-untyped-call]
        clip_gradients(list(decoder.parameters()), config.train.clip_norm)
        optimizer.step()

    return step


def built(data: Path, config: Config, process: Process = CPU) -> Parts:
    """All that a run on packed data begins with."""
    return build(data, Settings(config.model, config.objective, config.train), process, code="")


def _prepared(parts: Parts) -> Iterator[tuple[Tensor, Targets]]:
    """Eight batches on the device, again and again."""
    device = parts.step.model.device
    return itertools.cycle([to_device(parts.batches.batch(number), device) for number in range(8)])


def _loading(batches: TrainingBatches, *, cache: bool) -> Callable[[], object]:
    """One batch after another; with `cache`, of images that were all decoded before."""
    pixels = PixelStore(batches.data, batches.pixels.size, PixelCache(1 << 30 if cache else 0))
    if cache:
        for index in range(len(batches.data)):
            pixels.get(index)
    loader = TrainingBatches(
        pixels,
        batches.sampler,
        batches.tokenizer,
        max_tokens=batches.max_tokens,
        max_shift=batches.max_shift,
        seed=batches.seed,
        regions=batches.regions,
        mix=batches.mix,
    )
    numbers = itertools.count()
    return lambda: loader.batch(next(numbers))
