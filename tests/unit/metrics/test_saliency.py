import numpy as np
import pytest

from megl_core.metrics import saliency

MAP = np.array([[[4.0, 2.0, 0.0], [1.0, -5.0, 1.0], [0.0, 0.0, 2.0]]])  # positive sum 10, maximum 4
MASK = np.array([[[1, 0, 0], [1, 1, 0], [0, 0, 0]]], dtype=bool)
NOTHING = np.zeros((1, 3, 3))


def test_energy_in_mask_ignores_negative_evidence():
    assert saliency.energy_in_mask(MAP, MASK) == pytest.approx([0.5])


def test_energy_scores_each_sample_on_its_own():
    maps = np.concatenate([MAP, MAP * 1000, NOTHING])
    masks = np.concatenate([MASK, ~MASK, MASK])
    assert saliency.energy_in_mask(maps, masks) == pytest.approx([0.5, 0.5, 0.0])


def test_energy_survives_nan():
    broken = MAP.copy()
    broken[0, 0, 0] = np.nan  # 1 of the remaining 6 lies in the mask
    assert saliency.energy_in_mask(broken, MASK) == pytest.approx([1 / 6])


def test_energy_in_box_excludes_the_far_edge():
    boxes = np.array([[1, 0, 3, 2]])  # columns 1-2, rows 0-1: 2 + 0 + relu(-5) + 1
    assert saliency.energy_in_box(MAP, boxes) == pytest.approx([0.3])


def test_pointing_game():
    maps = np.concatenate([MAP, MAP, NOTHING])
    masks = np.concatenate([MASK, ~MASK, np.ones((1, 3, 3), dtype=bool)])
    assert saliency.pointing_game(maps, masks).tolist() == [1.0, 0.0, 0.0]


def test_pointing_game_takes_the_first_of_equal_maxima():
    tied = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    first = np.array([[[0, 1], [0, 0]]], dtype=bool)
    second = np.array([[[0, 0], [1, 0]]], dtype=bool)
    assert saliency.pointing_game(tied, first).tolist() == [1.0]
    assert saliency.pointing_game(tied, second).tolist() == [0.0]


def test_region_scores_at_half_maximum():
    # region: the 4 and both 2s; one of three in the mask of three
    precision, recall, f1 = saliency.precision_recall_f1_at_half_max(MAP, MASK)
    assert saliency.iou_at_half_max(MAP, MASK) == pytest.approx([1 / 5])
    assert (precision[0], recall[0], f1[0]) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_region_of_an_empty_map_is_empty():
    assert saliency.iou_at_half_max(NOTHING, MASK).tolist() == [0.0]
    assert saliency.iou_best_threshold(NOTHING, MASK).tolist() == [0.0]
    assert saliency.precision_recall_f1_at_half_max(NOTHING, MASK)[0].tolist() == [0.0]


def test_best_threshold_by_hand():
    # thresholds 4, 2, 1 give IoU 1/3, 1/5, 2/6
    assert saliency.iou_best_threshold(MAP, MASK) == pytest.approx([1 / 3])


def test_best_threshold_cannot_split_equal_values():
    # both pixels have value 1: only both together can be cut, IoU 1/2
    flat = np.array([[[1.0, 1.0], [0.0, 0.0]]])
    mask = np.array([[[1, 0], [0, 0]]], dtype=bool)
    assert saliency.iou_best_threshold(flat, mask) == pytest.approx([0.5])


def test_best_threshold_matches_trying_every_threshold():
    random = np.random.default_rng(0)
    maps = random.normal(size=(5, 8, 8)).round(1)
    masks = random.random((5, 8, 8)) < 0.3
    expected = []
    for one, mask in zip(maps, masks, strict=True):
        regions = [one >= value for value in np.unique(one[one > 0])]
        expected.append(max((region & mask).sum() / (region | mask).sum() for region in regions))
    assert saliency.iou_best_threshold(maps, masks) == pytest.approx(expected)


def test_relevance_rank_accuracy():
    # the three highest values are 4, 2, 2; only the 4 lies in the mask
    assert saliency.relevance_rank_accuracy(MAP, MASK) == pytest.approx([1 / 3])
    assert saliency.relevance_rank_accuracy(NOTHING, MASK).tolist() == [0.0]
    assert saliency.relevance_rank_accuracy(MAP, np.zeros_like(MASK)).tolist() == [0.0]


@pytest.fixture
def drawn_masks():
    """Six masks of 8x8 pixels, none empty, none full."""
    masks = np.random.default_rng(1).random((6, 8, 8)) < 0.3
    masks[:, 0, 0], masks[:, 7, 7] = True, False
    return masks


def every_score(maps, masks):
    """(8, N): all metrics that compare a map with a mask."""
    return np.array(
        [
            saliency.energy_in_mask(maps, masks),
            saliency.pointing_game(maps, masks),
            saliency.iou_at_half_max(maps, masks),
            saliency.iou_best_threshold(maps, masks),
            saliency.relevance_rank_accuracy(maps, masks),
            *saliency.precision_recall_f1_at_half_max(maps, masks),
        ]
    )


def test_the_mask_itself_is_the_perfect_map(drawn_masks):
    assert every_score(drawn_masks.astype(float), drawn_masks).tolist() == [[1.0] * 6] * 8


def test_the_inverted_mask_scores_nothing(drawn_masks):
    """Each mask is the smaller part of its picture, so that even its K highest pixels lie outside."""
    assert every_score(1.0 - drawn_masks, drawn_masks).tolist() == [[0.0] * 6] * 8


def test_a_constant_map_knows_no_place(drawn_masks):
    maps, area = np.ones((6, 8, 8)), drawn_masks.mean(axis=(1, 2))
    expected = [area, [0] * 6, area, area, [0] * 6, area, [1] * 6, 2 * area / (1 + area)]
    assert every_score(maps, drawn_masks) == pytest.approx(np.array(expected))


def test_scale_does_not_matter(drawn_masks):
    maps = np.random.default_rng(2).normal(size=(6, 8, 8))
    assert every_score(maps * 1e-6, drawn_masks) == pytest.approx(every_score(maps * 1e6, drawn_masks))


def test_a_map_of_nan_scores_nothing_and_breaks_nothing(drawn_masks):
    scores = every_score(np.full((6, 8, 8), np.nan), drawn_masks)
    assert np.isfinite(scores).all()
    assert scores[:4].tolist() == [[0.0] * 6] * 4
