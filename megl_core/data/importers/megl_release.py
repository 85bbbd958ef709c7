"""`megl-release`: the form of Object-ME and Action-ME as their authors publish them.

`exp_annotation.json` maps an id to `image_path`, `visual_exp` (a .npy file or ""), `class_id`, `ans` and
`exp` (sentences); `label_class_id_mapping.json` maps labels to class ids, or ids to labels.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megl_core.config import DataConfig
from megl_core.data.contract import Sample
from megl_core.data.images import MAX_PIXELS, encode_png
from megl_core.data.importers.base import (
    Importer,
    Incoming,
    Item,
    attempt,
    locate,
    read_document,
    text_of,
    texts_of,
)
from megl_core.errors import DataError

EXPLANATIONS = "exp_annotation.json"
MAPPING = "label_class_id_mapping.json"


def rows(source: Path, config: DataConfig) -> Iterator[Item]:  # noqa: ARG001 (the interface)
    names = _class_names(source)
    for key, row in read_document(source / EXPLANATIONS).items():
        where = f"{EXPLANATIONS} key {key!r}"
        yield attempt(where, partial(_incoming, source, where, key, row, names))


def labels(source: Path, config: DataConfig) -> list[str] | None:  # noqa: ARG001 (the interface)
    return sorted(set(_class_names(source).values())) or None


def _incoming(source: Path, where: str, key: str, row: Any, names: dict[str, str]) -> Incoming:
    stated = text_of(row, "image_path")
    image = locate(source, stated, f"images/{PurePosixPath(stated).name}")
    array = row.get("visual_exp")
    mask = None if not array else load_map(locate(source, text_of(row, "visual_exp")))
    sample = Sample(
        id=key,
        image=stated,
        label=_label(row, names),
        explanations=texts_of(row.get("exp"), "exp"),
    )
    return Incoming(where, sample, image, None if mask is None else encode_png(mask))


def _label(row: Any, names: dict[str, str]) -> str:
    if not names or row.get("class_id") is None:
        return text_of(row, "ans")
    class_id = text_of(row, "class_id")
    if class_id not in names:
        raise DataError(f"class_id {class_id} is not in {MAPPING}")
    return names[class_id]


def _class_names(source: Path) -> dict[str, str]:
    """`{class id: label}`, empty without a mapping file; the file may map either way."""
    path = source / MAPPING
    if not path.is_file():
        return {}
    mapping = read_document(path)
    if all(isinstance(value, int) for value in mapping.values()):
        mapping = _inverted(mapping, path)
    if not all(isinstance(label, str) for label in mapping.values()):
        raise DataError(f"{MAPPING} must map labels to numbers, or numbers to labels", where=str(path))
    return mapping


def _inverted(mapping: dict[str, int], path: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for label, class_id in mapping.items():
        earlier = names.setdefault(str(class_id), label)
        if earlier != label:
            raise DataError(
                f"{MAPPING} gives the class id {class_id} to {earlier!r} and to {label!r}",
                where=str(path),
                fix="give each label a class id of its own",
            )
    return names


def load_map(path: Path) -> NDArray[np.bool_]:
    """A .npy attention map (H, W), (H, W, C) or (C, H, W), of any non-negative type, as a mask (H, W).

    One or three channels C, joined by their maximum. A pixel is marked from half of the map's maximum
    upwards; an all-zero map marks nothing.

    Raises:
        DataError: no array file, one that needs pickle, or no such map.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # never larger than the file
    except (ValueError, OSError, EOFError, SyntaxError, TokenError) as error:
        raise DataError(f"{path.name} is no usable .npy file: {error}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "bufi":
        raise DataError(f"{path.name} holds no array of real numbers")
    if not 0 < values.size <= 4 * MAX_PIXELS:
        raise DataError(f"{path.name} has {values.size} values")
    plane = _one_plane(values, path.name)
    if not np.isfinite(plane).all() or plane.min() < 0:
        raise DataError(f"{path.name} holds negative or non-finite values")
    return np.asarray((plane > 0) & (plane >= float(plane.max()) / 2))


def _one_plane(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.ndim == 2:
        return values
    for channels in (2, 0):
        if values.ndim == 3 and values.shape[channels] in (1, 3):
            return np.asarray(values.max(axis=channels))
    raise DataError(f"{name} has shape {values.shape}: neither (H, W), (H, W, C) nor (C, H, W)")


MEGL_RELEASE = Importer("Object-ME and Action-ME as published (exp_annotation.json, .npy maps)", rows, labels)
