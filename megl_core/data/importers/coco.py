"""`coco`: COCO instances become masks and labels, COCO captions become rationales.

An image's label is the category of its largest annotation; its mask is the union of all annotations of
that category. Images without annotation have no label and are skipped.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from megl_core.config import DataConfig
from megl_core.data.contract import TRAIN, VAL, Sample
from megl_core.data.images import encode_png
from megl_core.data.importers.base import (
    Importer,
    Incoming,
    Item,
    Skipped,
    attempt,
    locate,
    objects_of,
    read_document,
    split_files,
    text_of,
)
from megl_core.data.importers.coco_masks import draw_masks
from megl_core.errors import DataError

_INSTANCES = "annotations/instances*.json"

ById = dict[str, list[dict[str, Any]]]


def rows(source: Path, config: DataConfig) -> Iterator[Item]:  # noqa: ARG001 (the interface)
    for path in split_files(source, _INSTANCES):
        document = read_document(path)
        categories = _categories(document, path)
        annotations = _by_image(document, path)
        captions = _captions(path)
        subset = path.stem.removeprefix("instances").lstrip("_")
        for image in objects_of(document, "images", path):
            key = str(image.get("id"))
            where = f"{path.name} image {key}"
            if key not in annotations:
                yield Skipped(where, "no annotation")
                continue
            mine, texts = annotations[key], captions.get(key, [])
            yield attempt(where, partial(_incoming, source, where, subset, image, mine, texts, categories))


def labels(source: Path, config: DataConfig) -> list[str]:  # noqa: ARG001 (the interface)
    names: set[str] = set()
    for path in split_files(source, _INSTANCES):
        names.update(_categories(read_document(path), path).values())
    return sorted(names)


def _incoming(
    source: Path,
    where: str,
    subset: str,
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    captions: list[dict[str, Any]],
    categories: dict[str, str],
) -> Incoming:
    name, image_id = text_of(image, "file_name"), text_of(image, "id")
    category = str(max(annotations, key=_area).get("category_id"))
    if category not in categories:
        raise DataError(f"category_id {category} is not among the categories")
    label = categories[category]
    shapes = [row.get("segmentation") for row in annotations if str(row.get("category_id")) == category]
    mask = draw_masks(shapes, width=_side(image, "width"), height=_side(image, "height"))
    sample = Sample(
        id=f"{subset}-{image_id}" if subset else image_id,
        image=name,
        label=label,
        explanations=tuple(text_of(caption, "caption") for caption in captions),
        split=_split(subset),
    )
    candidates = [f"{subset}/{name}", f"images/{subset}/{name}"] if subset else []
    path = locate(source, *candidates, f"images/{name}")
    return Incoming(where, sample, path, None if mask is None else encode_png(mask))


def _split(subset: str) -> str | None:
    """`train2017` is `train`; sets without a name are split later."""
    name = re.sub(r"\d+$", "", subset)
    return {"": None, "valid": VAL, "training": TRAIN}.get(name, name)


def _area(annotation: dict[str, Any]) -> float:
    area = annotation.get("area")
    if isinstance(area, int | float):
        return area  # not as a float: JSON has integers that are none
    raise DataError(f"annotation {annotation.get('id')!r} has no area")


def _side(image: dict[str, Any], key: str) -> int:
    value = image.get(key)
    if not isinstance(value, int) or value < 1:
        raise DataError(f"{key!r} must be a positive number of pixels (got {value!r})")
    return value


def _categories(document: dict[str, Any], path: Path) -> dict[str, str]:
    return {str(row.get("id")): text_of(row, "name") for row in objects_of(document, "categories", path)}


def _by_image(document: dict[str, Any], path: Path) -> ById:
    """Annotations, or captions, by the id of their image."""
    collected: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in objects_of(document, "annotations", path):
        collected[str(row.get("image_id"))].append(row)
    return dict(collected)


def _captions(instances: Path) -> ById:
    path = instances.with_name(instances.name.replace("instances", "captions", 1))
    return _by_image(read_document(path), path) if path.is_file() else {}


COCO = Importer("COCO instances (masks, labels) and captions (rationales)", rows, labels)
