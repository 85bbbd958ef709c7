"""What a step costs on a GPU: published encoders at 224 pixels, alone as classifiers and with all our terms.

In bfloat16, with and without torch.compile. The encoders have their published shapes and random weights:
what they have learnt changes nothing of what they cost. Nor does what the images show: small scenes are
enlarged.
"""

import gc
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import transformers as t
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Work
from benchmarks.training_plan import VARIANTS, Overrides, Size, configured, packed_scenes
from benchmarks.training_runs import FULL
from benchmarks.training_steps import PLAIN, built, plain_step, step_of
from megl_core.config import Config
from megl_core.errors import UnavailableError
from megl_core.training.distributed import Process

Encoders = Mapping[str, Callable[[], tuple[t.PreTrainedModel, t.BaseImageProcessor]]]


def _resnet_50() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    return t.ResNetModel(t.ResNetConfig()), t.ConvNextImageProcessorPil(size={"shortest_edge": SIDE})


def _vit_b_16() -> tuple[t.PreTrainedModel, t.BaseImageProcessor]:
    return t.ViTModel(t.ViTConfig(), add_pooling_layer=False), t.ViTImageProcessorPil()


ENCODERS: Encoders = {"ResNet-50": _resnet_50, "ViT-B/16": _vit_b_16}
SIDE, BATCH = 224, 64
EAGER, COMPILED = "eager", "compiled"
WARM_UP = 3
PEAK = "peak FLOP/s"
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}
"""Dense bfloat16 operations a second as the maker tells, by the device's name."""


def measure_gpu(size: Size, folder: Path) -> dict[str, list[float]]:
    """`measure_encoders` on the GPU, and its `peak FLOP/s` where that is known.

    Raises:
        UnavailableError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UnavailableError("no CUDA device is visible", fix="choose other sections with --only")
    device = torch.device("cuda", torch.cuda.current_device())
    measured = measure_encoders(ENCODERS, device, size, folder)
    peak = PEAKS.get(torch.cuda.get_device_name(device))
    return measured if peak is None else measured | {PEAK: [peak]}


def measure_encoders(
    encoders: Encoders,
    device: torch.device,
    size: Size,
    folder: Path,
    *,
    side: int = SIDE,
    batch: int = BATCH,
    modes: tuple[str, ...] = (EAGER, COMPILED),
) -> dict[str, list[float]]:
    """Of each encoder, step and mode `{"<encoder>/<step>/<mode>/<number>": [...]}`.

    The numbers are images/s of each repetition, FLOP of an image (counted eagerly) and, on a GPU, memory:
    bytes that were allocated at most. Each step has the device to itself.
    """
    measured: dict[str, list[float]] = {}
    process = Process(0, 1, device)
    for (name, make), step, mode in itertools.product(encoders.items(), (PLAIN, FULL), modes):
        path = folder / name.replace("/", "-")
        if not path.is_dir():
            for part in make():
                part.save_pretrained(path)
        config = _configuration(path, step, size, side, batch, compiled=mode == COMPILED)
        data = packed_scenes(config, folder)
        work = _work(data, config, step, process)
        prefix = f"{name}/{step}/{mode}"
        seconds = _timed(work, device, size)
        measured[f"{prefix}/images/s"] = [batch / one for one in seconds]
        if device.type == "cuda":
            measured[f"{prefix}/memory"] = [float(torch.cuda.max_memory_allocated(device))]
        if mode == EAGER:
            measured[f"{name}/{step}/FLOP"] = [_operations(work) / batch]
        del work
        gc.collect()
        torch.cuda.empty_cache()
    return measured


def _configuration(encoder: Path, step: str, size: Size, side: int, batch: int, *, compiled: bool) -> Config:
    changes: Overrides = {
        "model.image_size": side,
        "model.backbone": {"name": "hf", "path": str(encoder)},
        "train.precision": "bfloat16",
        "train.compile": compiled,
        "train.batch_size": batch,
        **VARIANTS["classifier" if step == PLAIN else step],
    }
    return configured(max(size.images, 2 * batch), changes)


def _work(data: Path, config: Config, step: str, process: Process) -> Work:
    parts = built(data, config, process)
    return plain_step(parts, config) if step == PLAIN else step_of(parts, config, process)


def _timed(work: Work, device: torch.device, size: Size) -> list[float]:
    """Seconds of a call in each repetition, after some calls to warm up."""
    for _ in range(WARM_UP):
        work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(size.repetitions):
        _wait(device)
        started = time.perf_counter()
        for _ in range(size.steps):
            work()
        _wait(device)
        seconds.append((time.perf_counter() - started) / size.steps)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _operations(work: Work) -> float:
    """Floating-point operations of a call with its backward pass; a GPU's fused GRU is not counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
