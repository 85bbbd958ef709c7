"""How well heat maps agree with masks.

Maps M are (N, H, W) floats, masks (N, H, W) bool of the same size; every function returns one
score for each sample, shape (N,). Energy and regions are taken from relu(M), so scale does not
matter, and a map without any positive value scores 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.floating[Any]]
Masks = NDArray[np.bool_]
Scores = NDArray[np.float64]


def energy_in_mask(maps: Maps, masks: Masks) -> Scores:
    """sum of relu(M) inside the mask / sum of relu(M); in [0, 1].

    The energy-based pointing game (Wang et al., Score-CAM, CVPR workshops 2020), with a mask in
    the place of a box.
    """
    energy = _positive(maps)
    total = energy.sum(axis=(1, 2))
    inside = np.where(masks, energy, 0.0).sum(axis=(1, 2))
    return _ratio(inside, total)


def energy_in_box(maps: Maps, boxes: NDArray[np.integer[Any]]) -> Scores:
    """`energy_in_mask` of boxes (N, 4) = x0, y0, x1, y1 in pixels, x1 and y1 exclusive; in [0, 1]."""
    _, height, width = maps.shape
    ys, xs = np.mgrid[:height, :width]
    x0, y0, x1, y1 = (boxes[:, side, None, None] for side in range(4))
    return energy_in_mask(maps, (xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1))


def pointing_game(maps: Maps, masks: Masks) -> Scores:
    """1 where the map's maximum lies in the mask, else 0 (Zhang et al., ECCV 2016, without tolerance).

    Among equal maxima the first in row-major order counts; a constant map points nowhere and scores 0.
    """
    flat = maps.reshape(len(maps), -1)
    hit = np.take_along_axis(masks.reshape(len(maps), -1), flat.argmax(axis=1)[:, None], axis=1)[:, 0]
    return (hit & (flat.max(axis=1) > flat.min(axis=1))).astype(np.float64)


def iou_at_half_max(maps: Maps, masks: Masks) -> Scores:
    """Intersection over union of the mask and the region relu(M) >= max / 2; in [0, 1]."""
    region = half_max_region(maps)
    union = (region | masks).sum(axis=(1, 2))
    return _ratio((region & masks).sum(axis=(1, 2)), union)


def precision_recall_f1_at_half_max(maps: Maps, masks: Masks) -> tuple[Scores, Scores, Scores]:
    """Of the region relu(M) >= max / 2 against the mask: share of the region in the mask, share of the
    mask in the region, and their harmonic mean; each in [0, 1]."""
    region = half_max_region(maps)
    common = (region & masks).sum(axis=(1, 2))
    region_area, mask_area = region.sum(axis=(1, 2)), masks.sum(axis=(1, 2))
    precision, recall = _ratio(common, region_area), _ratio(common, mask_area)
    return precision, recall, _ratio(2 * common, region_area + mask_area)


def half_max_region(maps: Maps) -> Masks:
    """(N, H, W) bool: where relu(M) reaches half of its maximum; empty for a map without positives."""
    energy = _positive(maps)
    peak = energy.max(axis=(1, 2), keepdims=True)
    return (energy >= peak / 2) & (peak > 0)


def iou_best_threshold(maps: Maps, masks: Masks) -> Scores:
    """The highest IoU with the mask that any threshold on relu(M) > 0 gives, sample by sample; in [0, 1].

    It tells the map's shape from the choice of a threshold; since it looks at the mask to choose,
    it is an upper bound and not a score that a user of the map would reach.
    """
    return np.array([_best_iou(*pair) for pair in zip(_positive(maps), masks, strict=True)])


def _best_iou(energy: Maps, mask: Masks) -> float:
    flat = energy.ravel()
    order = np.argsort(-flat, kind="stable")
    values = flat[order]
    common = np.cumsum(mask.ravel()[order])
    size = np.arange(1, len(values) + 1)
    iou = common / np.maximum(size + mask.sum() - common, 1)
    ends_level = np.append(values[1:] < values[:-1], True) & (values > 0)
    return float(iou[ends_level].max(initial=0.0))


def relevance_rank_accuracy(maps: Maps, masks: Masks) -> Scores:
    """Share of the K highest pixels of M that lie in the mask, K the mask's area; in [0, 1].

    Arras et al., Information Fusion 2022. Among equal values the first in row-major order count; a
    constant map ranks nothing and scores 0, as does an empty mask.
    """
    return np.array([_rank_accuracy(*pair) for pair in zip(maps, masks, strict=True)])


def _rank_accuracy(saliency: Maps, mask: Masks) -> float:
    area = int(mask.sum())
    if not area or saliency.max() == saliency.min():
        return 0.0
    top = np.argsort(-saliency.ravel(), kind="stable")[:area]
    return float(mask.ravel()[top].sum() / area)


def _positive(maps: Maps) -> NDArray[np.float64]:
    return np.maximum(np.nan_to_num(maps.astype(np.float64), posinf=0.0, neginf=0.0), 0.0)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Scores:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
