"""From packed rows to tensors: decoding, caching, and the batches of a training run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megl_core.data.images import decode_image, decode_mask
from megl_core.data.mixing import mix_background, remove_object
from megl_core.data.packed import PackedDataset, PackedRow
from megl_core.data.sampling import Indices, QuotaSampler
from megl_core.data.tokenizer import IGNORE, Tokenizer
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


class PixelStore:
    """Decoded, resized pixels of a packed split, kept in memory where `cache` is set."""

    def __init__(self, data: PackedDataset, size: int, *, cache: bool) -> None:
        self.data = data
        self.size = size
        self._cache: dict[int, tuple[Tensor, Tensor]] | None = {} if cache else None
        self._backgrounds: dict[int, Tensor] | None = {} if cache else None

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, S, S) and mask (S, S), both uint8; the mask is zero where there is none."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        pixels = decode_row(self.data[index], self.size)
        if self._cache is not None:
            self._cache[index] = pixels
        return pixels

    def background(self, index: int) -> Tensor:
        """The image (3, S, S) uint8 of an annotated row without its object."""
        if self._backgrounds is not None and index in self._backgrounds:
            return self._backgrounds[index]
        background = remove_object(*self.get(index))
        if self._backgrounds is not None:
            self._backgrounds[index] = background
        return background


def decode_row(row: PackedRow, size: int) -> tuple[Tensor, Tensor]:
    """Image (3, size, size) and mask (size, size) of a packed row, both uint8."""
    image = image_to_tensor(decode_image(row.image), size)
    if row.mask is None:
        return image, torch.zeros((size, size), dtype=torch.uint8)
    return image, mask_to_tensor(decode_mask(row.mask), size)


class TrainingBatches:
    """The batches of a run, each a pure function of its step.

    Args:
        pixels: of the packed training split.
        sampler: says which rows stand in a step's global batch.
        tokenizer: None where the model writes no text.
        regions: (N, h, w) bool of all rows, or None.
        mix: share of the annotated rows of a batch that stand before another one's background.
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
        self.annotated = np.flatnonzero(self.data.annotated)

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
        donors = self._donors(random, len(indices))
        mine = slice(self.rank, None, self.world)
        return self._assemble(indices[mine], choices[mine], offsets[mine], donors[mine])

    def _donors(self, random: np.random.Generator, count: int) -> Indices:
        """(count,) the annotated row that lends each row its background; -1: the row keeps its own."""
        if not len(self.annotated):
            return np.full(count, -1)
        donors = random.choice(self.annotated, count)
        return np.where(random.random(count) < self.mix, donors, -1)

    def _assemble(
        self, indices: Indices, choices: NDArray[np.float64], offsets: NDArray[np.int64], donors: Indices
    ) -> Batch:
        rows = [self.data[int(index)] for index in indices]
        pixels = [self.pixels.get(int(index)) for index in indices]
        pictures = [self._place(*pair, int(donor)) for pair, donor in zip(pixels, donors, strict=True)]
        images = torch.stack(pictures)
        masks = torch.stack([mask for _, mask in pixels])
        images, masks = shift(images, masks, torch.from_numpy(offsets))
        return Batch(
            ids=[row.id for row in rows],
            images=images,
            labels=torch.tensor([row.label for row in rows]),
            masks=masks,
            has_mask=torch.tensor([row.mask is not None for row in rows]),
            tokens=self._tokens(rows, choices),
            regions=None if self.regions is None else self.regions[torch.from_numpy(indices)],
        )

    def _place(self, image: Tensor, mask: Tensor, donor: int) -> Tensor:
        """The image before the background of the row `donor`, where it has an object to show."""
        if donor < 0 or not mask.any():
            return image
        return mix_background(image, mask, self.pixels.background(donor))

    def _tokens(self, rows: list[PackedRow], choices: NDArray[np.float64]) -> Tensor:
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
