"""What a model says about pictures, and how that looks on a page."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from megl_core.explain.drawing import resize_map
from megl_core.explain.panel import render_panel

_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Explained:
    """One explained picture. A notebook shows it as a panel.

    Attributes:
        image: the picture as it was given, RGB.
        label: the class that is explained.
        probability: the model's probability of `label`, in [0, 1].
        probabilities: of every class, most probable first; they sum to 1.
        heat_map: (H, W) float32 in [0, 1] at the picture's own size: positive evidence for `label`
            relative to its maximum. All zero where there is none.
        rationale: a sentence; empty if the model does not write.
    """

    image: Image.Image
    label: str
    probability: float
    probabilities: dict[str, float]
    heat_map: NDArray[np.float32]
    rationale: str

    def plot(self) -> Image.Image:
        """The picture beside its heat map, the likeliest classes and the rationale."""
        return render_panel(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.plot().save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model says about B images. A notebook shows their panels; `explanation[i]` is one of them.

    Tensors are on the model's device and carry no gradient.

    Attributes:
        labels: the C classes, in the order of `probabilities`.
        probabilities: (B, C), rows summing to 1.
        predicted_index: (B,) the most probable class.
        target_index: (B,) the class that is explained.
        saliency: (B, h, w) raw map of the target.
        heat_map: (B, 1, S, S) in [0, 1], positive evidence relative to its maximum, bilinear.
        rationale: one sentence for each image; empty where none was asked for.
        word_attention: (B, T, h, w) where each generated token looked; None where that is not known.
        images: as they were given: RGB pictures, or (B, 3, S, S) uint8.
    """

    labels: list[str]
    probabilities: Tensor
    predicted_index: Tensor
    target_index: Tensor
    saliency: Tensor
    heat_map: Tensor
    rationale: list[str]
    word_attention: Tensor | None
    images: Sequence[Image.Image] | Tensor

    @property
    def predicted(self) -> list[str]:
        """The most probable class of each image."""
        return [self.labels[index] for index in self.predicted_index.tolist()]

    @property
    def target(self) -> list[str]:
        """The class that is explained for each image."""
        return [self.labels[index] for index in self.target_index.tolist()]

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, index: int) -> Explained:
        probabilities = self.probabilities[index].cpu().numpy()
        target = int(self.target_index[index])
        image = self._picture(index)
        return Explained(
            image=image,
            label=self.labels[target],
            probability=float(probabilities[target]),
            probabilities={
                self.labels[place]: float(probabilities[place]) for place in np.argsort(-probabilities)
            },
            heat_map=resize_map(self.heat_map[index, 0].cpu().numpy(), *image.size),
            rationale=self.rationale[index],
        )

    def __iter__(self) -> Iterator[Explained]:
        return (self[index] for index in range(len(self)))

    def plot(self, index: int = 0) -> Image.Image:
        """The panel of one image."""
        return self[index].plot()

    def _repr_html_(self) -> str:
        from megl_core.html import data_uri  # needs more packages than serving has

        shown = range(min(_SHOWN, len(self)))
        panels = [f'<img src="{data_uri(self[index]._repr_png_(), "image/png")}">' for index in shown]
        rest = len(self) - len(panels)
        return "\n".join([*panels, f"<p>and {rest} more</p>"] if rest else panels)

    def _picture(self, index: int) -> Image.Image:
        if isinstance(self.images, Tensor):
            return Image.fromarray(self.images[index].permute(1, 2, 0).cpu().numpy())
        return self.images[index]
