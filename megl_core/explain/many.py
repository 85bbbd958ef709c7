"""Any number of pictures, a few of them in memory at a time."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from megl_core.data.images import decode_image, read_file
from megl_core.errors import ConfigError, DataError
from megl_core.explain.asking import Picture
from megl_core.explain.explanation import Explained
from megl_core.files import atomic_file
from megl_core.models.megl import MEGL

_BATCH = 4  # a photo of 24 megapixels takes 0.2 GB, and its heat map as much again


def explain_each(model: MEGL, images: Iterable[Picture]) -> Iterator[Explained]:
    """Explain the predicted class of each picture, in order."""
    remaining = iter(images)
    while batch := list(islice(remaining, _BATCH)):
        yield from model.explain(batch)


def explain_files(
    model: str | Path, images: Sequence[Path], output: Path, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Explain image files with a model; write one PNG panel for each below `output`.

    No panel takes the place of one of the images. All files are checked before the first is explained.

    Args:
        model: what `MEGL.from_pretrained` takes, as `device`.
        images: the files.
        output: a folder.

    Returns:
        For each image its path, the panel's path, label, probability, probabilities and rationale.

    Raises:
        DataError: a folder, or files that are no images (all of them are named), or no model in the folder.
        UnavailableError: there is no such device.
        ConfigError: `output` is a file.
    """
    _check_output(output)
    _check_all(images)
    network = MEGL.from_pretrained(model, device)
    results = []
    rows = zip(images, _panel_paths(images, output), explain_each(network, images), strict=True)
    for path, panel, explained in rows:
        with atomic_file(panel) as temporary:
            explained.plot().save(temporary, "PNG")
        results.append(_summary(path, panel, explained))
    return results


def _panel_paths(images: Sequence[Path], output: Path) -> list[Path]:
    """`<stem>.png` for each image; numbered where that is another panel's path, or that of an image."""
    taken = {image.resolve() for image in images}
    paths = []
    for image in images:
        path, number = output / f"{image.stem}.png", 1
        while path.resolve() in taken:
            number += 1
            path = output / f"{image.stem}-{number}.png"
        taken.add(path.resolve())
        paths.append(path)
    return paths


def _summary(image: Path, panel: Path, explained: Explained) -> dict[str, Any]:
    return {
        "image": str(image),
        "panel": str(panel),
        "label": explained.label,
        "probability": explained.probability,
        "probabilities": explained.probabilities,
        "rationale": explained.rationale,
    }


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output.name} is a file", where=str(output), fix="--output names a folder")


def _check_all(images: Sequence[Path]) -> None:
    for path in images:
        if path.is_dir():
            raise DataError(f"{path} is a folder", fix=f"give its pictures: {path}/*.jpg")
    problems = []
    for path in images:
        try:
            decode_image(read_file(path))
        except DataError as error:
            problems.append(f"{path}: {error.what}")
    if problems:
        raise DataError(
            f"{len(problems)} of {len(images)} files cannot be explained",
            problems=problems,
            fix="leave them out, or save them again as PNG or JPEG",
        )
