"""Decoded pixels, and what of them stays in memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from megl_core.data.packed import PackedDataset
from megl_core.data.pixels import PixelCache, PixelStore

IMAGE, MASK = 3 * 24 * 24, 24 * 24


def store(packed: Path, cache: PixelCache, split: str = "train") -> PixelStore:
    return PixelStore(PackedDataset(packed, split), 24, cache)


def test_the_cache_is_filled_to_its_bound_and_no_further(packed: Path) -> None:
    cache = PixelCache(10 * IMAGE)
    pixels = store(packed, cache)
    for _ in range(2):
        for index in range(len(pixels.data)):
            pixels.get(index)
            pixels.background(index)
            assert cache.size <= cache.limit
    assert cache.limit - cache.size < IMAGE + MASK


def test_what_is_kept_is_what_would_be_decoded(packed: Path) -> None:
    cached, plain = store(packed, PixelCache(1 << 20)), store(packed, PixelCache(0))
    for _ in range(2):
        for index in range(len(plain.data)):
            for mine, other in zip(cached.get(index), plain.get(index), strict=True):
                assert torch.equal(mine, other)
            assert torch.equal(cached.background(index), plain.background(index))
    assert cached.get(0)[0] is cached.get(0)[0]
    assert plain.get(0)[0] is not plain.get(0)[0]


def test_an_image_without_a_mask_takes_the_memory_of_its_image(packed: Path) -> None:
    cache = PixelCache(1 << 20)
    pixels = store(packed, cache)
    index = int((~pixels.data.annotated).argmax())
    image, mask = pixels.get(index)
    assert (image.shape, mask.shape) == ((3, 24, 24), (24, 24))
    assert not mask.any()
    assert cache.size == IMAGE + 1


def test_splits_that_share_a_cache_keep_their_images_apart(packed: Path) -> None:
    cache = PixelCache(1 << 20)
    train, val = store(packed, cache), store(packed, cache, "val")
    assert not torch.equal(train.get(0)[0], val.get(0)[0])
    assert torch.equal(val.get(0)[0], store(packed, PixelCache(0), "val").get(0)[0])


def test_threads_that_decode_the_same_images_count_them_once(packed: Path) -> None:
    cache = PixelCache(1 << 20)
    pixels = store(packed, cache)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pixels.get, [*range(48)] * 4))
    masks = int(pixels.data.annotated.sum())
    assert cache.size == 48 * IMAGE + masks * MASK + (48 - masks)
