"""A trained model that answers in a person's terms: label, probability, heat map, sentence."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from megl_core.data.images import decode_image, read_file
from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.explain.drawing import resize_map
from megl_core.explain.panel import render_panel
from megl_core.files import atomic_file
from megl_core.models.megl import CONFIG_FILE, MEGL

_BATCH = 4  # a photo of 24 megapixels takes 0.2 GB, and its heat map as much again


@dataclass(frozen=True, eq=False)
class Explained:
    """One explained picture.

    Attributes:
        label: the class that is explained.
        probability: the model's probability of `label`, in [0, 1].
        probabilities: of every class, most probable first; they sum to 1.
        heat_map: (H, W) float32 in [0, 1] at the picture's own size: positive evidence for `label`
            relative to its maximum. All zero where there is none.
        rationale: a sentence; empty if the model does not write.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    heat_map: NDArray[np.float32]
    rationale: str


class Explainer:
    """Explains pictures of any size with a loaded model."""

    def __init__(self, model: MEGL) -> None:
        self.model = model

    def explain(self, images: Sequence[Image.Image], targets: Sequence[str] | None = None) -> list[Explained]:
        """Explain each picture's predicted class, or the class that `targets` names for it.

        Raises:
            ConfigError: a target is not one of the model's labels.
        """
        indices = None if targets is None else [self._index(target) for target in targets]
        explained = []
        for start in range(0, len(images), _BATCH):
            batch = slice(start, start + _BATCH)
            explained += self._explain_batch(images[batch], None if indices is None else indices[batch])
        return explained

    def _explain_batch(self, images: Sequence[Image.Image], targets: list[int] | None) -> list[Explained]:
        inputs = torch.stack([self.model.preprocess(image) for image in images])
        chosen = None if targets is None else torch.tensor(targets, device=self.model.device)
        result = self.model.explain(inputs, chosen, write=self.model.can_write)
        rationales = result.rationales or [""] * len(images)
        columns = (result.logits.softmax(dim=1), result.target, result.heat_map)
        rows = zip(images, *(column.cpu().numpy() for column in columns), rationales, strict=True)
        return [self._explained(*row) for row in rows]

    def _explained(
        self,
        image: Image.Image,
        probabilities: NDArray[np.float32],
        target: int,
        heat_map: NDArray[np.float32],
        rationale: str,
    ) -> Explained:
        labels = self.model.labels
        ranking = np.argsort(-probabilities)
        return Explained(
            label=labels[target],
            probability=float(probabilities[target]),
            probabilities={labels[index]: float(probabilities[index]) for index in ranking},
            heat_map=resize_map(heat_map, *image.size),
            rationale=rationale,
        )

    def _index(self, label: str) -> int:
        try:
            return self.model.labels.index(label)
        except ValueError:
            nearest = difflib.get_close_matches(label, self.model.labels, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {self.model.labels}"
            raise ConfigError(f"the model has no label {label!r}", fix=hint) from None


def load_model(folder: Path, device: str = "cpu") -> MEGL:
    """`MEGL.load` on `cpu`, `cuda` or `auto` (CUDA where there is one).

    Raises:
        ConfigError: another device.
        UnavailableError: there is no CUDA device.
        DataError: no model in the folder.
    """
    has_gpu = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {device!r}", fix="choose auto, cpu or cuda")
    if device == "cuda" and not has_gpu:
        raise UnavailableError("no CUDA device is visible", fix="use --device cpu")
    if not (folder / CONFIG_FILE).is_file():
        raise DataError("no trained model in this folder", where=str(folder), fix="train one: megl train")
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    return MEGL.load(folder, device)


def explain_files(
    model: Path, images: Sequence[Path], output: Path, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Explain image files with the model in a folder; write one PNG panel for each below `output`.

    All files are checked before the first is explained.

    Returns:
        For each image its path, the panel's path, label, probability, probabilities and rationale.

    Raises:
        DataError: files that are no images (all of them are named), or no model in the folder.
        UnavailableError: there is no such device.
    """
    _check_all(images)
    explainer = Explainer(load_model(model, device))
    panels = _panel_paths(images, output)
    results: list[dict[str, Any]] = []
    for start in range(0, len(images), _BATCH):
        paths = images[start : start + _BATCH]
        pictures = [decode_image(read_file(path)) for path in paths]
        for path, picture, explained in zip(paths, pictures, explainer.explain(pictures), strict=True):
            panel = panels[len(results)]
            with atomic_file(panel) as temporary:
                render_panel(picture, explained).save(temporary, "PNG")
            results.append(_summary(path, panel, explained))
    return results


def _panel_paths(images: Sequence[Path], output: Path) -> list[Path]:
    """`<stem>.png` for each image; where stems repeat, the later ones are numbered."""
    taken: set[str] = set()
    paths = []
    for image in images:
        name, number = image.stem, 1
        while name in taken:
            number += 1
            name = f"{image.stem}-{number}"
        taken.add(name)
        paths.append(output / f"{name}.png")
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


def _check_all(images: Sequence[Path]) -> None:
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
