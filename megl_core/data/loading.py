"""From packed rows to the batches of a training run, prepared ahead of the step by workers."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megl_core.data.mixing import mix_background
from megl_core.data.packed import Annotation
from megl_core.data.pixels import PixelStore
from megl_core.data.sampling import Indices, QuotaSampler
from megl_core.data.tokenizer import IGNORE, Tokenizer
from megl_core.data.transforms import shift

_WAITING = 2  # batches of each worker that wait for their step
_TOLD_AHEAD = 64  # steps that the data know of before their images are read


@dataclass(frozen=True)
class Batch:
    """A process's share of a step.

    Attributes:
        ids: sample ids.
        images: (B, 3, S, S) uint8.
        labels: (B,) class indices.
        masks: (B, S, S) uint8 in 0..255, zero where there is none.
        has_mask: (B,) bool.
        tokens: (B, T + 1) one rationale of each image, `IGNORE` after its end; all `IGNORE` without one.
        regions: (B, h, w) bool, where the rationales say that the objects are; None where none are used.
    """

    ids: list[str]
    images: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor
    tokens: Tensor
    regions: Tensor | None


@dataclass(frozen=True)
class Plan:
    """What a process's share of a step is made of; B rows.

    Attributes:
        indices: (B,) rows.
        choices: (B,) in [0, 1), which of a row's rationales is shown.
        offsets: (B, 2) pixels that a row is shifted down and right.
        donors: (B,) the annotated row that lends each row its background; -1: the row keeps its own.
    """

    indices: Indices
    choices: NDArray[np.float64]
    offsets: NDArray[np.int64]
    donors: Indices

    @property
    def rows(self) -> Indices:
        """All rows whose images are read."""
        return np.concatenate([self.indices, self.donors[self.donors >= 0]])


class TrainingBatches:
    """The batches of a run, each a pure function of its step.

    Args:
        pixels: of the packed training split.
        sampler: says which rows stand in a step's global batch.
        tokenizer: None where the model writes no text.
        regions: (N, h, w) bool of all rows, or None.
        mix: share of the annotated rows of a batch that stand before another one's background.
        num_workers: threads that prepare batches; 0: whoever asks for a batch prepares it.
        rank, world: this process takes rows rank, rank + world, ... of the global batch.
    """

    def __init__(
        self,
        pixels: PixelStore,
        sampler: QuotaSampler,
        tokenizer: Tokenizer | None,
        *,
        max_tokens: int,
        max_shift: int,
        seed: int,
        regions: Tensor | None = None,
        mix: float = 0.0,
        num_workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.pixels = pixels
        self.data = pixels.data
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_shift = max_shift
        self.seed = seed
        self.rank = rank
        self.world = world
        self.regions = regions
        self.mix = mix
        self.num_workers = num_workers

    def between(self, first: int, last: int) -> Generator[Batch]:
        """The batches of steps first .. last - 1, in order and bit by bit the same for any number of workers.

        Workers are threads, which prepare batches ahead of the one that is used: Pillow and torch let go of
        the interpreter while they decode, resize and copy. What fails in a worker is raised here, when it is
        that batch's turn.
        """
        plans = self._announced(map(self.plan, range(first, last)))
        if self.num_workers == 0:
            yield from map(self.assemble, plans)
            return
        workers = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        upcoming: deque[Future[Batch]] = deque()
        try:
            for plan in plans:
                upcoming.append(workers.submit(self.assemble, plan))
                if len(upcoming) > _WAITING * self.num_workers:
                    yield upcoming.popleft().result()
            while upcoming:
                yield upcoming.popleft().result()
        finally:
            # A worker may wait for a store far away: what it reads from is closed after this, and ends it.
            workers.shutdown(wait=False, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """This process's share of the global batch of `step`."""
        return self.assemble(self.plan(step))

    def plan(self, step: int) -> Plan:
        """What this process's share of the global batch of `step` is made of."""
        random = np.random.default_rng([self.seed, 2, step])
        indices = self.sampler.batch(step)
        choices = random.random(len(indices))
        offsets = random.integers(-self.max_shift, self.max_shift + 1, (len(indices), 2))
        donors = self._donors(random, step, len(indices))
        mine = slice(self.rank, None, self.world)
        return Plan(indices[mine], choices[mine], offsets[mine], donors[mine])

    def _announced(self, plans: Iterable[Plan]) -> Iterator[Plan]:
        """The plans, each told to the data some steps before."""
        told: deque[Plan] = deque()
        for plan in plans:
            self.pixels.ahead(plan.rows)
            told.append(plan)
            if len(told) > _TOLD_AHEAD:
                yield told.popleft()
        yield from told

    def _donors(self, random: np.random.Generator, step: int, count: int) -> Indices:
        annotated = self.sampler.annotated_near(step)
        if not len(annotated):
            return np.full(count, -1)
        donors = random.choice(annotated, count)
        return np.where(random.random(count) < self.mix, donors, -1)

    def assemble(self, plan: Plan) -> Batch:
        """Decode, place, shift and tokenize what a plan names."""
        rows = [self.data.annotation(index) for index in plan.indices.tolist()]
        pixels = [self.pixels.get(index) for index in plan.indices.tolist()]
        donors = plan.donors.tolist()
        images = torch.stack([self._place(*pair, donor) for pair, donor in zip(pixels, donors, strict=True)])
        masks = torch.stack([mask for _, mask in pixels])
        images, masks = shift(images, masks, torch.from_numpy(plan.offsets))
        return Batch(
            ids=[row.id for row in rows],
            images=images,
            labels=torch.tensor([row.label for row in rows]),
            masks=masks,
            has_mask=torch.tensor([row.mask is not None for row in rows]),
            tokens=self._tokens(rows, plan.choices),
            regions=None if self.regions is None else self.regions[torch.from_numpy(plan.indices)],
        )

    def _place(self, image: Tensor, mask: Tensor, donor: int) -> Tensor:
        """The image before the background of the row `donor`, where it has an object to show."""
        if donor < 0 or not mask.any():
            return image
        return mix_background(image, mask, self.pixels.background(donor))

    def _tokens(self, rows: list[Annotation], choices: NDArray[np.float64]) -> Tensor:
        sentences: list[list[int]] = []
        for row, choice in zip(rows, choices, strict=True):
            texts = row.explanations if self.tokenizer is not None else ()
            text = texts[int(choice * len(texts))] if texts else None
            sentences.append(
                self.tokenizer.encode(text, self.max_tokens) if self.tokenizer and text is not None else []
            )
        # At least two columns, so that a batch without any text still runs the decoder once.
        tokens = torch.full((len(rows), max(2, *map(len, sentences))), IGNORE)
        for line, sentence in enumerate(sentences):
            tokens[line, : len(sentence)] = torch.tensor(sentence, dtype=torch.long)
        return tokens
