import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

from megl_core.config import EvaluationConfig
from megl_core.evaluation import evaluate, read_evaluation
from megl_core.evaluation.judges import FAITHFULNESS, judge_maps
from megl_core.metrics.bertscore import BertScore
from megl_core.metrics.faithfulness import insertion_auc, perturbation_curves
from tests.unit.evaluation.conftest import LABELS, tiny_model
from tests.unit.metrics.tiny import save_bert, save_clip


def test_maps_are_tried_at_the_images_size_on_the_models_own_probabilities(packed):
    torch.manual_seed(0)
    model = tiny_model(packed, LABELS).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # a model that is sure of something
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    explained = model.explain(images, write=False)
    chosen = (images, explained.saliency, explained.predicted_index)
    rows = judge_maps(model, *chosen, EvaluationConfig(batch_size=5))
    curves = perturbation_curves(
        lambda mixed: model.explain(mixed, write=False).probabilities,
        images,
        F.interpolate(explained.saliency[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0],
        explained.predicted_index,
    )
    assert [tuple(row) for row in rows] == [tuple(FAITHFULNESS)] * 3
    expected = insertion_auc(curves).tolist()
    assert [row["insertion_auc"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert curves.kept.std() > 0.01  # hiding pixels does change this model's mind


def test_models_from_local_folders_judge_the_rationales(packed, crossed_model, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "clip").mkdir()
    save_bert(tmp_path / "bert", ["the", "in", "red", "upper", "left", "ring", "."])
    save_clip(tmp_path / "clip")
    config = EvaluationConfig(
        splits=["test"],
        max_texts=5,
        batch_size=3,
        bertscore_model=str(tmp_path / "bert"),
        bertscore_layer=2,
        clipscore_model=str(tmp_path / "clip"),
    )
    evaluated = evaluate(crossed_model, packed, config, tmp_path / "out")
    metrics = evaluated.metrics["test"]
    assert (metrics["bertscore_n"], metrics["clipscore_n"]) == (5, 5)
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    written = [row for row in rows if row["rationale"] is not None]
    assert len(written) == 5
    expected = BertScore(str(tmp_path / "bert"), 2).score(
        [row["rationale"] for row in written], [row["references"] for row in written]
    )
    assert [row["bertscore"] for row in written] == pytest.approx(expected, abs=1e-5)
    assert metrics["bertscore"] == pytest.approx(sum(expected) / 5)
    assert metrics["clipscore"] == pytest.approx(sum(row["clipscore"] for row in written) / 5)
    assert list(read_evaluation(tmp_path / "out")["left_out"]) == ["meteor"]


def test_another_judge_is_another_method(packed, crossed_model, tmp_path):
    """Two evaluations are compared only where the same bytes judged: a path alone does not say that."""
    digests = []
    (tmp_path / "bert").mkdir()
    for pieces in (["red"], ["red", "ring"]):
        save_bert(tmp_path / "bert", pieces)
        config = EvaluationConfig(
            splits=["val"], max_texts=1, gallery=0, bertscore_model=str(tmp_path / "bert")
        )
        evaluate(crossed_model, packed, config, tmp_path / "out")
        digests.append(read_evaluation(tmp_path / "out")["method_digest"])
    assert digests[0] != digests[1]
