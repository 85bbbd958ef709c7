"""A model over a packed split: a `Prediction` for each sample, its heat map scored against its mask."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from megl_core.config import EvaluationConfig
from megl_core.data.images import decode_image, decode_mask
from megl_core.data.packed import PackedDataset, PackedRow
from megl_core.evaluation.judges import FAITHFULNESS, TEXT_MODELS, TextJudge, judge_maps
from megl_core.explain.drawing import resize_map
from megl_core.files import canonical_json
from megl_core.metrics import saliency
from megl_core.models.megl import MEGL

MASK_SCORES = (
    "energy_in_mask",
    "pointing_game",
    "iou",
    "iou_best",
    "rank_accuracy",
    "mask_precision",
    "mask_recall",
    "mask_f1",
)
MAX_SIDE = 512

_CHOICE_SEED = 0
_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string()),
        pa.field("id", pa.string()),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("confidence", pa.float32()),
        pa.field("probabilities", pa.list_(pa.float32())),  # in the order of the model's labels
        *(pa.field(name, pa.float64()) for name in MASK_SCORES),  # null: no mask
        pa.field("energy_in_cue", pa.float64()),  # null: no cue_box
        *(pa.field(name, pa.float64()) for name in FAITHFULNESS),  # null: not among the chosen samples
        pa.field("rationale", pa.string()),  # null: none was asked for
        pa.field("references", pa.list_(pa.string())),
        *(pa.field(name, pa.float64()) for name in TEXT_MODELS),  # null: no such model, or nothing to judge
        pa.field("extra", pa.string()),  # free columns, canonical JSON
    ]
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one sample.

    Attributes:
        row: the sample's place in its split.
        label, predicted: indices into the model's labels.
        probabilities: (C,) float32.
        mask_scores: saliency metrics against the mask; None without one.
        energy_in_cue: share of the heat map's energy in `cue_box`; None without one.
        faithfulness: what hiding the map's pixels does; None where it was not tried.
        rationale: the generated sentence; None where none was asked for.
        references: the annotators' sentences.
        text_scores: what other models say of the rationale.
        extra: the sample's free columns.
    """

    row: int
    id: str
    label: int
    predicted: int
    probabilities: NDArray[np.float32]
    mask_scores: dict[str, float] | None
    energy_in_cue: float | None
    faithfulness: dict[str, float] | None
    rationale: str | None
    references: tuple[str, ...]
    text_scores: dict[str, float]
    extra: dict[str, Any]

    @property
    def confidence(self) -> float:
        """The probability of the predicted class."""
        return float(self.probabilities[self.predicted])

    @property
    def correct(self) -> bool:
        return self.predicted == self.label


def predict(
    model: MEGL,
    data: PackedDataset,
    label_map: list[int],
    config: EvaluationConfig,
    judge: TextJudge,
    advance: Callable[[int], None],
) -> list[Prediction]:
    """Run the model over a split; `label_map` turns the data's label indices into the model's.

    Heat maps explain the predicted class. A seeded choice of `config.max_texts` samples gets rationales,
    and one of `config.faithfulness_samples` has its heat maps tried. The result stands in the split's order.
    """
    shuffled = np.random.default_rng(_CHOICE_SEED).permutation(len(data)).tolist()
    num_texts = config.max_texts if model.can_write else 0
    tried = frozenset(shuffled[: config.faithfulness_samples])
    predictions = []
    for indices, write in _batches(shuffled, num_texts, config.batch_size):
        rows = [data[index] for index in indices]
        batch = _Batch(indices, rows, [decode_image(row.image) for row in rows])
        predictions += _predict_batch(model, batch, label_map, tried, judge if write else None, config)
        advance(len(rows))
    return sorted(predictions, key=lambda prediction: prediction.row)


def _batches(shuffled: list[int], num_texts: int, size: int) -> Iterator[tuple[list[int], bool]]:
    """Row indices in batches: first those that get a rationale, then the others, each part in order."""
    for part, write in ((shuffled[:num_texts], True), (shuffled[num_texts:], False)):
        indices = sorted(part)
        for start in range(0, len(indices), size):
            yield indices[start : start + size], write


@dataclass(frozen=True, eq=False)
class _Batch:
    indices: list[int]
    rows: list[PackedRow]
    images: list[Image.Image]


def _predict_batch(
    model: MEGL,
    batch: _Batch,
    label_map: list[int],
    tried: frozenset[int],
    judge: TextJudge | None,
    config: EvaluationConfig,
) -> list[Prediction]:
    """Predictions for a batch; rationales where there is someone to judge them."""
    inputs = torch.stack([model.preprocess(image) for image in batch.images])
    result = model.explain(inputs, write=judge is not None)
    probabilities = result.probabilities.cpu().numpy()
    predicted = result.predicted_index.tolist()
    maps = result.saliency.float().relu().cpu().numpy()
    places = [place for place, index in enumerate(batch.indices) if index in tried]
    faithful = {}
    if places:
        chosen = (inputs[places], result.saliency[places], result.predicted_index[places])
        faithful = dict(zip(places, judge_maps(model, *chosen, config), strict=True))
    references = [tuple(row.explanations) for row in batch.rows]
    text_scores = judge.judge(batch.images, result.rationale, references) if judge else None
    predictions = []
    for place, (index, row, image) in enumerate(zip(batch.indices, batch.rows, batch.images, strict=True)):
        box = cue_box(row.extra)
        predictions.append(
            Prediction(
                row=index,
                id=row.id,
                label=label_map[row.label],
                predicted=predicted[place],
                probabilities=probabilities[place],
                mask_scores=None if row.mask is None else score_map(maps[place], decode_mask(row.mask)),
                energy_in_cue=None if box is None else _energy_in(maps[place], box, image.size),
                faithfulness=faithful.get(place),
                rationale=result.rationale[place] if judge else None,
                references=references[place],
                text_scores=text_scores[place] if text_scores else {},
                extra=dict(row.extra),
            )
        )
    return predictions


def score_map(heat_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> dict[str, float]:
    """Saliency metrics of a map (h, w) of positive evidence, enlarged to its mask (H, W).

    A mask with more than `MAX_SIDE` pixels on a side is first thinned to fit; maps are far coarser.
    """
    mask = _reduce(mask)
    height, width = mask.shape
    maps, masks = resize_map(heat_map, width, height)[None], mask[None]
    scores = (
        saliency.energy_in_mask(maps, masks),
        saliency.pointing_game(maps, masks),
        saliency.iou_at_half_max(maps, masks),
        saliency.iou_best_threshold(maps, masks),
        saliency.relevance_rank_accuracy(maps, masks),
        *saliency.precision_recall_f1_at_half_max(maps, masks),
    )
    return {name: float(values[0]) for name, values in zip(MASK_SCORES, scores, strict=True)}


def _reduce(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    stride = -(-max(mask.shape) // MAX_SIDE)
    return mask[stride // 2 :: stride, stride // 2 :: stride]


def _energy_in(heat_map: NDArray[np.float32], box: list[float], size: tuple[int, int]) -> float:
    maps = resize_map(heat_map, *size)[None]
    return float(saliency.energy_in_box(maps, np.array([box]))[0])


def cue_box(extra: dict[str, Any]) -> list[float] | None:
    """The free column `cue_box` = [x0, y0, x1, y1] in pixels, or None where there is no such box."""
    box = extra.get("cue_box")
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = all(isinstance(side, int | float) and math.isfinite(side) for side in box)
    return box if numbers else None


def to_table(predictions: dict[str, list[Prediction]], labels: list[str]) -> pa.Table:
    """One row for each sample of each split, as predictions.parquet holds them."""
    rows = [_record(split, row, labels) for split, part in predictions.items() for row in part]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _record(split: str, prediction: Prediction, labels: list[str]) -> dict[str, Any]:
    scores = (prediction.mask_scores or {}) | (prediction.faithfulness or {}) | prediction.text_scores
    return scores | {
        "split": split,
        "id": prediction.id,
        "label": labels[prediction.label],
        "predicted": labels[prediction.predicted],
        "correct": prediction.correct,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "energy_in_cue": prediction.energy_in_cue,
        "rationale": prediction.rationale,
        "references": list(prediction.references),
        "extra": canonical_json(prediction.extra).decode(),
    }
