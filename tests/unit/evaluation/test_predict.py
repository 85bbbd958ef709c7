import numpy as np
import pytest

from megl_core.config import EvaluationConfig
from megl_core.data.packed import PackedDataset
from megl_core.evaluation.judges import FAITHFULNESS, TextJudge
from megl_core.evaluation.predict import MASK_SCORES, MAX_SIDE, cue_box, predict, score_map, to_table
from megl_core.models.megl import MEGL

NO_JUDGE = TextJudge(bert=None, clip=None)


def test_score_map_is_taken_at_the_masks_size():
    # the one hot cell of 2x2 becomes weights 1, .75, .25, 0 along each axis of 4x4: sum 2 x 2
    heat_map = np.array([[8.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, :2] = True  # holds (1 + .75)^2 of 4
    scores = score_map(heat_map, mask)
    assert set(scores) == set(MASK_SCORES)
    assert scores["energy_in_mask"] == pytest.approx(1.75**2 / 4)
    assert scores["pointing_game"] == 1.0
    assert scores["iou"] == 1.0  # 1, .75, .75 and .5625 reach one half


def test_a_map_of_another_shape_is_stretched_like_the_image():
    heat_map = np.array([[1.0, 0.0]], dtype=np.float32)
    mask = np.zeros((2, 6), dtype=bool)
    mask[:, :3] = True
    # along x: 1, 1, 2/3 in the mask, 1/3, 0, 0 outside
    assert score_map(heat_map, mask)["energy_in_mask"] == pytest.approx(8 / 9)


def test_a_huge_mask_scores_like_a_small_one():
    heat_map = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    small = np.zeros((MAX_SIDE, MAX_SIDE), dtype=bool)
    small[100:300, 50:200] = True
    huge = small.repeat(4, axis=0).repeat(4, axis=1)
    assert score_map(heat_map, huge) == pytest.approx(score_map(heat_map, small), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3], None),
        ("1234", None),
        ([1, 2, 3, "4"], None),
        ([1, 2, 3, float("nan")], None),
        (None, None),
    ],
)
def test_a_cue_box_has_four_numbers(value, expected):
    assert cue_box({"cue_box": value}) == expected


def test_predictions_stand_in_the_splits_order_and_only_some_have_a_text(packed, crossed_model):
    data = PackedDataset(packed, "test")
    model = MEGL.from_pretrained(crossed_model)
    counted = []
    config = EvaluationConfig(batch_size=3, max_texts=5, faithfulness_samples=4)
    predictions = predict(model, data, [0, 1, 2, 3], config, NO_JUDGE, counted.append)
    assert [prediction.id for prediction in predictions] == [data[index].id for index in range(8)]
    assert [prediction.row for prediction in predictions] == list(range(8))
    assert sum(prediction.rationale is not None for prediction in predictions) == 5
    assert sum(prediction.faithfulness is not None for prediction in predictions) == 4
    assert sum(counted) == 8


def test_batch_size_does_not_change_what_is_predicted(packed, crossed_model):
    model = MEGL.from_pretrained(crossed_model)
    tables = []
    for size in (3, 8):
        config = EvaluationConfig(batch_size=size)
        rows = predict(model, PackedDataset(packed, "test"), [0, 1, 2, 3], config, NO_JUDGE, lambda _: None)
        tables.append(to_table({"test": rows}, model.labels).to_pydict())
    assert tables[0].keys() == tables[1].keys()
    for name, column in tables[0].items():
        if name in ("confidence", "probabilities", *FAITHFULNESS):
            assert np.array(column) == pytest.approx(np.array(tables[1][name]), abs=1e-6)
        else:
            assert column == tables[1][name]
