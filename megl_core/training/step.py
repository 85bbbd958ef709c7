"""What is trained: the model and, where it has any, the learnt parameters of its objective."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from megl_core.config import TrainConfig
from megl_core.data.loading import Batch
from megl_core.models.grounding import leak_at
from megl_core.models.megl import MEGL
from megl_core.objectives.objective import Objective, Targets, Whole, whole_batch


class TrainingStep(nn.Module):
    """Images and targets in, losses out.

    One module, so that DistributedDataParallel, optimizer and checkpoint cover all that is learnt.

    Args:
        precision: of encoder and decoder. Head, map and losses are float32.
    """

    def __init__(self, model: MEGL, objective: Objective, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.precision = precision

    def forward(
        self, images: Tensor, targets: Targets, progress: float, whole: Whole | None = None
    ) -> dict[str, Tensor]:
        """The objective's terms for (B, 3, S, S) uint8 images.

        Args:
            images: of this process.
            targets: of the same samples.
            progress: in [0, 1], how much of the training is done; sets the leak and the weights.
            whole: of the step that these samples are a part of; None: all of this process's share.
        """
        with self._mixed(images):
            output = self.model(
                images,
                targets.labels,
                targets.tokens[:, :-1] if self.model.can_write else None,
                leak_at(self.model.config.grounding, progress),
                input_gradients=self.objective.needs_pixels,
            )
        if output.words is not None and output.words.logits.dtype == torch.bfloat16:
            output = replace(output, words=replace(output.words, logits=output.words.logits.float()))
        terms: dict[str, Tensor] = self.objective(output, targets, progress, whole)
        return terms

    @torch.no_grad()
    def unannotated_sums(self, images: Tensor, targets: Targets, progress: float) -> Tensor:
        """What these samples add to the statistics that the consistency term compares."""
        leak = leak_at(self.model.config.grounding, progress)
        with self._mixed(images):
            output = self.model(images, targets.labels, None, leak)
        return self.objective.unannotated_sums(output.saliency, targets)

    def _mixed(self, images: Tensor) -> torch.autocast:
        enabled = self.precision != torch.float32
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=enabled)


class Gradients:
    """The forward and backward passes of a step, in one piece or in micro-batches.

    Args:
        module: the step, or what replicates it over processes.
        step: itself.
        config: of the training.
    """

    def __init__(self, module: nn.Module, step: TrainingStep, config: TrainConfig) -> None:
        self.module = module
        self.step = step
        self.parts = config.accumulate

    def compute(
        self, images: Tensor, targets: Targets, progress: float, seed: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Add the gradients of this process's share of a step to `.grad`; returns its terms.

        `seed` sets the random numbers of a micro-batch, given its number.

        The losses are those of the whole step, however many parts it has: what they divide by is counted
        first, and where a term compares means over the batch, the maps are made once before they are made
        with gradients.
        """
        if self.parts == 1:
            seed(0)
            terms: dict[str, Tensor] = self.module(images, targets, progress)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            return {name: term.detach() for name, term in terms.items()}
        whole = whole_batch(targets, self.parts)
        pieces = [_piece(images, targets, number, self.parts) for number in range(self.parts)]
        sums = self._sums(pieces, progress, seed) if self.step.objective.compares_maps else None
        total: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces):
            if sums is not None:
                whole = replace(whole, others=sums.sum(dim=0) - sums[number])
            seed(number)
            with self._exchange(is_last=number == self.parts - 1):
                terms = self.module(*piece, progress, whole)
                terms["loss"].backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                total[name] = total.get(name, 0) + term.detach()
        return total

    def _sums(
        self, pieces: list[tuple[Tensor, Targets]], progress: float, seed: Callable[[int], None]
    ) -> Tensor:
        found = []
        with kept_buffers(self.step):
            for number, piece in enumerate(pieces):
                seed(number)
                found.append(self.step.unannotated_sums(*piece, progress))
        return torch.stack(found)

    def _exchange(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged once, with the last micro-batch."""
        if is_last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Undo what the block does to buffers, such as the statistics of batch norms."""
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        restore_buffers(module, before)


def restore_buffers(module: nn.Module, before: list[Tensor]) -> None:
    """Give the buffers of a module earlier values."""
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Targets]:
    """A batch's images and targets on a device."""
    targets = Targets(
        batch.labels.to(device),
        batch.masks.to(device),
        batch.has_mask.to(device),
        batch.tokens.to(device),
        None if batch.regions is None else batch.regions.to(device),
    )
    return batch.images.to(device), targets


def _piece(images: Tensor, targets: Targets, number: int, parts: int) -> tuple[Tensor, Targets]:
    """Every `parts`-th sample: annotated ones stand together in a batch."""
    mine = slice(number, None, parts)
    return images[mine], Targets(
        targets.labels[mine],
        targets.masks[mine],
        targets.has_mask[mine],
        targets.tokens[mine],
        None if targets.regions is None else targets.regions[mine],
    )
