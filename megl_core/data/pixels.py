"""Decoded pixels of a packed split, and the bounded cache that keeps some of them in memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from megl_core.data.images import decode_image, decode_mask
from megl_core.data.mixing import remove_object
from megl_core.data.packed import Annotation, PackedDataset
from megl_core.data.sampling import Indices
from megl_core.data.transforms import image_to_tensor, mask_to_tensor
from megl_core.errors import DataError

Key = tuple[str, str, int]
Tensors = tuple[Tensor, ...]


class PixelCache:
    """Tensors in memory, up to `limit` bytes; threads and splits may share it.

    What came first stays: a set is drawn in random orders, so that any part of it serves as well as
    another, whereas a cache that makes room for the newest drops most images before they are drawn again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: dict[Key, Tensors] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def get(self, key: Key, make: Callable[[], Tensors]) -> Tensors:
        """What is kept under a key, or else what `make` returns, which is kept where there is room."""
        tensors = self._kept.get(key)
        if tensors is None:
            tensors = make()
            size = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
            with self._lock:
                if key not in self._kept and self.size + size <= self.limit:
                    self._kept[key] = tensors
                    self.size += size
        return tensors


class PixelStore:
    """Images and masks of a packed split as tensors of one size."""

    def __init__(self, data: PackedDataset, size: int, cache: PixelCache) -> None:
        self.data = data
        self.size = size
        self._cache = cache
        self._no_mask = torch.zeros((), dtype=torch.uint8).expand(size, size)  # takes no memory

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, S, S) and mask (S, S), both uint8; the mask is zero where there is none.

        Raises:
            DataError: image or mask cannot be decoded; the message names the sample.
        """
        image, mask = self._cache.get(self._key("pixels", index), lambda: self._decode(index))
        return image, mask

    def mask(self, index: int) -> Tensor:
        """The mask alone, without a look at the image."""
        return self._decode_mask(self.data.annotation(index))

    def background(self, index: int) -> Tensor:
        """The image (3, S, S) uint8 of an annotated row without its object."""
        key = self._key("background", index)
        (background,) = self._cache.get(key, lambda: (remove_object(*self.get(index)),))
        return background

    def ahead(self, indices: Indices) -> None:
        """These rows will be asked for soon."""
        missing = [index for index in indices.tolist() if self._key("pixels", index) not in self._cache]
        self.data.ahead(np.array(missing, dtype=np.int64))

    def _decode(self, index: int) -> tuple[Tensor, Tensor]:
        annotation = self.data.annotation(index)
        content = self.data.image(index)
        with self._naming(annotation.id, "image"):
            image = image_to_tensor(decode_image(content), self.size)
        return image, self._decode_mask(annotation)

    def _decode_mask(self, annotation: Annotation) -> Tensor:
        if annotation.mask is None:
            return self._no_mask
        with self._naming(annotation.id, "mask"):
            return mask_to_tensor(decode_mask(annotation.mask), self.size)

    @contextmanager
    def _naming(self, name: str, kind: str) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise DataError(
                f"the {kind} of sample {name!r} cannot be decoded: {error.what}",
                where=self.data.files.where,
                fix="validate the dataset and pack it again",
            ) from None

    def _key(self, kind: str, index: int) -> Key:
        return self.data.split, kind, index
