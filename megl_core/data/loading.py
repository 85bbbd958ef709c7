"""From packed rows to tensors: decoding, caching, and the batches of a training run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megl_core.data.images import decode_image, decode_mask
from megl_core.data.packed import PackedDataset, PackedRow
from megl_core.data.sampling import Indices, QuotaSampler
from megl_core.data.tokenizer import PAD, WordTokenizer
from megl_core.data.transforms import image_to_tensor, mask_to_tensor, shift


@dataclass(frozen=True)
class Batch:
    """A process's share of a step.

    Attributes:
        ids: sample ids.
        images: (B, 3, S, S) uint8.
        labels: (B,) class indices.
        masks: (B, S, S) uint8 in 0..255, zero where there is none.
        has_mask: (B,) bool.
        tokens: (B, T + 1) one rationale of each image, `<pad>` after its end; all `<pad>` without one.
    """

    ids: list[str]
    images: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor
    tokens: Tensor


class PixelStore:
    """Decoded, resized pixels of a packed split, kept in memory where `cache` is set."""

    def __init__(self, data: PackedDataset, size: int, *, cache: bool) -> None:
        self.data = data
        self.size = size
        self._cache: dict[int, tuple[Tensor, Tensor]] | None = {} if cache else None

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, S, S) and mask (S, S), both uint8; the mask is zero where there is none."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        pixels = decode_row(self.data[index], self.size)
        if self._cache is not None:
            self._cache[index] = pixels
        return pixels


def decode_row(row: PackedRow, size: int) -> tuple[Tensor, Tensor]:
    """Image (3, size, size) and mask (size, size) of a packed row, both uint8."""
    image = image_to_tensor(decode_image(row.image), size)
    if row.mask is None:
        return image, torch.zeros((size, size), dtype=torch.uint8)
    return image, mask_to_tensor(decode_mask(row.mask), size)


class TrainingBatches:
    """The batches of a run, each a pure function of its step.

    Args:
        data: the packed training split.
        sampler: says which rows stand in a step's global batch.
        tokenizer: None where the model writes no text.
        rank, world: this process takes rows rank, rank + world, ... of the global batch.
    """

    def __init__(
        self,
        data: PackedDataset,
        sampler: QuotaSampler,
        tokenizer: WordTokenizer | None,
        *,
        size: int,
        max_tokens: int,
        max_shift: int,
        cache: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data = data
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_shift = max_shift
        self.seed = seed
        self.rank = rank
        self.world = world
        self.pixels = PixelStore(data, size, cache=cache)

    def between(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps first .. last - 1, the next one prepared while one is used."""
        if first >= last:
            return
        with ThreadPoolExecutor(max_workers=1) as worker:
            upcoming = worker.submit(self.batch, first)
            for step in range(first + 1, last):
                batch = upcoming.result()
                upcoming = worker.submit(self.batch, step)
                yield batch
            yield upcoming.result()

    def batch(self, step: int) -> Batch:
        """This process's share of the global batch of `step`."""
        random = np.random.default_rng([self.seed, 2, step])
        indices = self.sampler.batch(step)
        choices = random.random(len(indices))
        offsets = random.integers(-self.max_shift, self.max_shift + 1, (len(indices), 2))
        mine = slice(self.rank, None, self.world)
        return self._assemble(indices[mine], choices[mine], offsets[mine])

    def _assemble(self, indices: Indices, choices: NDArray[np.float64], offsets: NDArray[np.int64]) -> Batch:
        rows = [self.data[int(index)] for index in indices]
        pixels = [self.pixels.get(int(index)) for index in indices]
        images = torch.stack([image for image, _ in pixels])
        masks = torch.stack([mask for _, mask in pixels])
        images, masks = shift(images, masks, torch.from_numpy(offsets))
        return Batch(
            ids=[row.id for row in rows],
            images=images,
            labels=torch.tensor([row.label for row in rows]),
            masks=masks,
            has_mask=torch.tensor([row.mask is not None for row in rows]),
            tokens=self._tokens(rows, choices),
        )

    def _tokens(self, rows: list[PackedRow], choices: NDArray[np.float64]) -> Tensor:
        sentences: list[list[int]] = []
        for row, choice in zip(rows, choices, strict=True):
            texts = row.explanations if self.tokenizer is not None else ()
            text = texts[int(choice * len(texts))] if texts else None
            sentences.append(
                self.tokenizer.encode(text, self.max_tokens) if self.tokenizer and text is not None else []
            )
        # At least two columns, so that a batch without any text still runs the decoder once.
        tokens = torch.full((len(rows), max(2, *map(len, sentences))), PAD)
        for line, sentence in enumerate(sentences):
            tokens[line, : len(sentence)] = torch.tensor(sentence, dtype=torch.long)
        return tokens
