"""What a person asks a model: pictures in any form, and classes by name or number."""

import difflib
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from megl_core.data.images import as_rgb, decode_image, read_file
from megl_core.errors import ConfigError, DataError

Picture = Image.Image | str | os.PathLike[str] | NDArray[np.uint8]
Pictures = Picture | Sequence[Picture]
Class = str | SupportsIndex
Classes = Class | Sequence[Class] | Tensor | NDArray[np.integer[Any]]


def open_pictures(images: Pictures) -> list[Image.Image]:
    """One picture or several as RGB.

    Args:
        images: Pillow images, paths of image files, or arrays (H, W, 3) or (H, W) uint8; alone or in a
            sequence, arrays also as one array (B, H, W, 3).

    Raises:
        DataError: there is none, or some cannot be read; all of those are named.
    """
    if isinstance(images, Image.Image | str | os.PathLike) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    ):
        images = [images]
    pictures, problems = [], []
    for number, image in enumerate(images):
        try:
            pictures.append(_open_picture(image))
        except DataError as error:
            name = image if isinstance(image, str | os.PathLike) else f"image {number}"
            problems.append(f"{name}: {error.what}")
    if problems:
        raise DataError(f"{len(problems)} of {len(images)} images cannot be read", problems=problems)
    if not pictures:
        raise DataError("no image to explain")
    return pictures


def class_indices(target: Classes, labels: Sequence[str], count: int) -> list[int]:
    """The indices of the classes to explain for `count` images: one for all of them, or one for each.

    Raises:
        ConfigError: no such class, or another number of them.
    """
    if isinstance(target, Tensor | np.ndarray):
        target = target.tolist()
    if isinstance(target, str) or not isinstance(target, Sequence):
        return [_class_index(target, labels)] * count
    if len(target) != count:
        raise ConfigError(f"{len(target)} classes for {count} images", fix="name one, or one for each image")
    return [_class_index(one, labels) for one in target]


def _open_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return as_rgb(image)
    if isinstance(image, str | os.PathLike):
        return decode_image(read_file(Path(image)))
    if not isinstance(image, np.ndarray):
        raise DataError(f"neither a Pillow image nor a path nor an array, but {type(image).__name__}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise DataError(f"an array {image.shape} of {image.dtype}; it must be (H, W, 3) or (H, W) uint8")
    return as_rgb(Image.fromarray(image))


def _class_index(target: Any, labels: Sequence[str]) -> int:
    if isinstance(target, str):
        if target in labels:
            return labels.index(target)
        nearest = difflib.get_close_matches(target, labels, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {list(labels)}"
        raise ConfigError(f"the model has no label {target!r}", fix=hint)
    index = operator.index(target)
    if not 0 <= index < len(labels):
        raise ConfigError(f"the model has no class {index}", fix=f"choose from 0 to {len(labels) - 1}")
    return index
