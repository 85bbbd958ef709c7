"""`procedural`: the generated set, in which shape tells the class and a texture patch pretends to."""

from collections.abc import Iterator
from pathlib import Path

from megl_core.config import DataConfig
from megl_core.data.images import encode_png
from megl_core.data.importers.base import Importer, Incoming, Item
from megl_core.data.scenes import LABELS, scenes


def rows(source: Path, config: DataConfig) -> Iterator[Item]:  # noqa: ARG001 (the interface)
    for scene in scenes(config.scenes):
        mask = None if scene.mask is None else encode_png(scene.mask)
        yield Incoming(f"scene {scene.sample.id}", scene.sample, encode_png(scene.image), mask)


def labels(source: Path, config: DataConfig) -> list[str]:  # noqa: ARG001 (the interface)
    return sorted(LABELS)


PROCEDURAL = Importer("the generated scenes of data.scenes", rows, labels, needs_source=False)
