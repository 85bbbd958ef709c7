"""The procedural set `scenes`: simple shapes, true rationales, and a texture patch that lies about the class.

Four coarse classes with two shapes each. Colour, size and place are independent of the class. A small
texture patch beside the shape tells the class in most training images, so a classifier that only sees
labels learns the patch. In `ood` the patch is random; in `conflict` it always names another class. Images
of `ood` and `conflict` come in twins that differ in nothing but the patch.

Every image has its own random stream, keyed by (seed, split, index): asking for more images leaves the
earlier ones as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megl_core.config import ScenesConfig
from megl_core.data.contract import Sample

SHAPES = {
    "round": ("disc", "ring"),
    "boxy": ("square", "frame"),
    "pointed": ("triangle", "diamond"),
    "crossed": ("plus", "saltire"),
}
LABELS = tuple(SHAPES)
COLOURS = {
    "red": (215, 60, 50),
    "green": (60, 175, 75),
    "blue": (60, 90, 215),
    "yellow": (225, 205, 60),
    "purple": (160, 70, 190),
    "cyan": (70, 195, 205),
}
SIZES = {"small": 0.135, "large": 0.205}
"""Radius as a share of the image's side."""
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")
ATTRIBUTES = {
    "round": "its outline is curved and has no corner",
    "boxy": "its sides meet at right angles along the image",
    "pointed": "its slanted sides end in sharp tips",
    "crossed": "two of its bars cross in the middle",
}
TEMPLATES = (
    "There is a {size} {colour} {shape} in the {place} and {attribute}.",
    "In the {place} lies a {colour} {shape}, it is {size} and {attribute}.",
    "The {shape} in the {place} is {colour} and {size}, and {attribute}.",
)
SPLITS = ("train", "val", "test", "ood", "conflict")

_SCENE_STREAM = {"train": 0, "val": 1, "test": 2, "ood": 3, "conflict": 3}  # twins share a stream
_CUE_STREAM = {"train": 10, "val": 11, "test": 12, "ood": 13, "conflict": 14}
_SUPERVISION_STREAM = 20
_PATCH_SHARE = 6 / 32

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scene:
    """A sample with its pixels: `image` (H, W, 3) uint8 and `mask` (H, W) bool, or None where withheld."""

    sample: Sample
    image: Image
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where and what the object is. Lengths in pixels."""

    label: str
    shape: str
    colour: str
    size: str
    place: str
    centre: tuple[float, float]
    radius: float
    patch_corner: tuple[int, int]
    patch_side: int


def scenes(config: ScenesConfig) -> Iterator[Scene]:
    """All images of the set, split by split, one at a time."""
    counts = dict.fromkeys(SPLITS, config.num_test) | {"train": config.num_train, "val": config.num_val}
    order = np.random.default_rng([config.seed, _SUPERVISION_STREAM]).permutation(config.num_train)
    with_mask = _first(order, config.mask_share)
    with_text = _first(order[::-1], config.text_share)
    for split in SPLITS:
        for index in range(counts[split]):
            withheld = split == "train"
            yield _scene(
                config,
                split,
                index,
                keep_mask=not withheld or index in with_mask,
                keep_text=not withheld or index in with_text,
            )


def _first(order: NDArray[np.int64], share: float) -> set[int]:
    """The first `share` of a fixed order: a larger share contains a smaller one."""
    return set(order[: round(share * len(order))].tolist())


def _scene(config: ScenesConfig, split: str, index: int, *, keep_mask: bool, keep_text: bool) -> Scene:
    random = np.random.default_rng([config.seed, _SCENE_STREAM[split], index])
    layout = _draw_layout(random, LABELS[index % len(LABELS)], config.size)
    image = _background(random, config.size)
    mask = _object_mask(layout, config.size)
    image[mask] = np.array(COLOURS[layout.colour]) + random.normal(0, 12, 3)
    cue = _draw_cue(config, split, index, layout.label)
    _draw_patch(image, layout, cue)
    image += random.normal(0, 6, image.shape)
    sample = Sample(
        id=f"{split}-{index:05d}",
        image=f"images/{split}-{index:05d}.png",
        label=layout.label,
        mask=f"masks/{split}-{index:05d}.png" if keep_mask else None,
        explanations=_rationales(layout) if keep_text else (),
        split=split,
        extra=_extra(layout, cue, split, index),
    )
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(sample, pixels, mask if keep_mask else None)


def _draw_layout(random: np.random.Generator, label: str, side: int) -> _Layout:
    size = str(random.choice(list(SIZES)))
    radius = SIZES[size] * side
    row, column = (int(value) for value in random.integers(0, 3, 2))
    jitter = random.uniform(-0.04, 0.04, 2) * side
    inner = side - 2 * radius
    centre_y = float(np.clip(radius + inner * row / 2 + jitter[0], radius, side - radius))
    centre_x = float(np.clip(radius + inner * column / 2 + jitter[1], radius, side - radius))
    patch_side = max(4, round(_PATCH_SHARE * side))
    return _Layout(
        label=label,
        shape=str(random.choice(SHAPES[label])),
        colour=str(random.choice(list(COLOURS))),
        size=size,
        place=f"{ROWS[row]} {COLUMNS[column]}",
        centre=(centre_y, centre_x),
        radius=radius,
        patch_corner=_free_corner(random, (centre_y, centre_x), radius, patch_side, side),
        patch_side=patch_side,
    )


def _free_corner(
    random: np.random.Generator, centre: tuple[float, float], radius: float, patch: int, side: int
) -> tuple[int, int]:
    """A place for the patch that leaves at least one pixel between it and the object's box."""
    while True:
        top, left = (int(value) for value in random.integers(0, side - patch + 1, 2))
        apart_y = max(top - (centre[0] + radius), (centre[0] - radius) - (top + patch))
        apart_x = max(left - (centre[1] + radius), (centre[1] - radius) - (left + patch))
        if max(apart_y, apart_x) >= 1:
            return top, left


def _background(random: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Smooth colour noise: a 4x4 grid of colours, enlarged bilinearly."""
    grid = random.uniform(60, 190, (4, 4, 3))
    position = np.linspace(0, 3, side)
    low = np.minimum(position.astype(int), 2)
    weight = (position - low)[:, None, None]
    rows = grid[low] * (1 - weight) + grid[low + 1] * weight
    weight = (position - low)[None, :, None]
    return np.asarray(rows[:, low] * (1 - weight) + rows[:, low + 1] * weight)


def _object_mask(layout: _Layout, side: int) -> Mask:
    """The object's pixels: those whose centre lies inside the shape."""
    axis = np.arange(side) + 0.5
    y = (axis[:, None] - layout.centre[0]) / layout.radius
    x = (axis[None, :] - layout.centre[1]) / layout.radius
    square = np.maximum(np.abs(x), np.abs(y))
    distance = np.hypot(x, y)
    bar = 0.34
    inside: dict[str, Any] = {
        "disc": distance <= 1,
        "ring": (distance <= 1) & (distance >= 0.5),
        "square": square <= 0.9,
        "frame": (square <= 0.9) & (square >= 0.45),
        "triangle": (y <= 0.9) & (np.abs(x) <= (y + 1) / 1.9),
        "diamond": np.abs(x) + np.abs(y) <= 1,
        "plus": (square <= 1) & (np.minimum(np.abs(x), np.abs(y)) <= bar),
        "saltire": (square <= 0.95) & (np.abs(np.abs(x) - np.abs(y)) <= bar * 1.3),
    }
    return np.asarray(inside[layout.shape], dtype=np.bool_)


def _draw_cue(config: ScenesConfig, split: str, index: int, label: str) -> str:
    """The class that the patch names. A twin in `conflict` never has the patch of its twin in `ood`."""
    random = np.random.default_rng([config.seed, _CUE_STREAM[split], index])
    others = [other for other in LABELS if other != label]
    if split == "ood":
        return str(random.choice(LABELS))
    if split == "conflict":
        twins_cue = _draw_cue(config, "ood", index, label)
        return str(random.choice([other for other in others if other != twins_cue]))
    return label if random.random() < config.cue_correlation else str(random.choice(others))


def _draw_patch(image: NDArray[np.float64], layout: _Layout, cue: str) -> None:
    side = layout.patch_side
    y, x = np.mgrid[:side, :side] * 6 // side  # the 6x6 pattern, enlarged with the image
    pattern = {
        "round": y % 2,
        "boxy": x % 2,
        "pointed": (x + y) % 2,
        "crossed": (y // 2 + x // 2) % 2,
    }[cue]
    top, left = layout.patch_corner
    image[top : top + side, left : left + side] = np.where(pattern, 235.0, 20.0)[..., None]


def _rationales(layout: _Layout) -> tuple[str, ...]:
    slots = {
        "size": layout.size,
        "colour": layout.colour,
        "shape": layout.shape,
        "place": layout.place,
        "attribute": ATTRIBUTES[layout.label],
    }
    return tuple(template.format(**slots) for template in TEMPLATES)


def _extra(layout: _Layout, cue: str, split: str, index: int) -> dict[str, Any]:
    top, left = layout.patch_corner
    extra: dict[str, Any] = {
        "cue_class": cue,
        "cue_box": [left, top, left + layout.patch_side, top + layout.patch_side],
        "slots": {
            "colour": layout.colour,
            "shape": layout.shape,
            "size": layout.size,
            "place": layout.place,
        },
    }
    if split in ("ood", "conflict"):
        twin = "conflict" if split == "ood" else "ood"
        extra["twin"] = f"{twin}-{index:05d}"
    return extra
