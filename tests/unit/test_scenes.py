"""The procedural set says the truth about itself."""

import numpy as np
import pytest

from megl_core.config import ScenesConfig
from megl_core.data.scenes import ATTRIBUTES, COLUMNS, LABELS, ROWS, SHAPES, SPLITS, Scene, scenes

CONFIG = ScenesConfig(num_train=200, num_val=8, num_test=120, mask_share=0.25, seed=3)


@pytest.fixture(scope="module")
def made() -> list[Scene]:
    return list(scenes(CONFIG))


def of(made: list[Scene], split: str) -> list[Scene]:
    return [scene for scene in made if scene.sample.split == split]


def test_same_seed_same_pixels_and_other_seed_other_pixels(made: list[Scene]) -> None:
    again = list(scenes(CONFIG))
    assert all(
        np.array_equal(a.image, b.image) and a.sample == b.sample for a, b in zip(made, again, strict=True)
    )
    other = next(iter(scenes(CONFIG.model_copy(update={"seed": 4}))))
    assert not np.array_equal(other.image, made[0].image)


def test_asking_for_more_images_keeps_the_earlier_ones(made: list[Scene]) -> None:
    more = list(scenes(CONFIG.model_copy(update={"num_train": 260})))
    for a, b in zip(of(made, "train"), of(more, "train"), strict=False):
        assert np.array_equal(a.image, b.image)


def test_splits_and_labels_are_balanced(made: list[Scene]) -> None:
    assert {split: len(of(made, split)) for split in SPLITS} == {
        "train": 200, "val": 8, "test": 120, "ood": 120, "conflict": 120,
    }  # fmt: skip
    for label in LABELS:
        assert sum(scene.sample.label == label for scene in of(made, "train")) == 50


def test_mask_shares_are_exact_and_nested() -> None:
    def kept(share: float) -> set[str]:
        config = CONFIG.model_copy(update={"mask_share": share})
        return {s.sample.id for s in scenes(config) if s.sample.split == "train" and s.mask is not None}

    small, large = kept(0.1), kept(0.5)
    assert (len(small), len(large)) == (20, 100)
    assert small < large
    assert len(kept(0.0)) == 0


def test_the_cue_tells_the_class_as_often_as_asked(made: list[Scene]) -> None:
    def share(split: str) -> float:
        return float(np.mean([s.sample.extra["cue_class"] == s.sample.label for s in of(made, split)]))

    assert 0.88 < share("train") < 1.0
    assert 0.1 < share("ood") < 0.4
    assert share("conflict") == 0.0


def test_twins_differ_in_the_patch_and_in_nothing_else(made: list[Scene]) -> None:
    for ood, conflict in zip(of(made, "ood"), of(made, "conflict"), strict=True):
        assert ood.sample.extra["twin"] == conflict.sample.id
        assert conflict.sample.extra["twin"] == ood.sample.id
        left, top, right, bottom = ood.sample.extra["cue_box"]
        same = np.ones(ood.image.shape[:2], dtype=bool)
        same[top:bottom, left:right] = False
        assert np.array_equal(ood.image[same], conflict.image[same])
        assert ood.sample.extra["cue_class"] != conflict.sample.extra["cue_class"]


def test_the_patch_never_touches_the_object(made: list[Scene]) -> None:
    for scene in made:
        if scene.mask is not None:
            left, top, right, bottom = scene.sample.extra["cue_box"]
            around = scene.mask[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
            assert not around.any(), scene.sample.id


def test_masks_mark_the_object_where_the_rationale_says_it_is(made: list[Scene]) -> None:
    for scene in of(made, "test"):
        assert scene.mask is not None
        assert 0.01 < scene.mask.mean() < 0.3
        rows, columns = np.nonzero(scene.mask)
        slots = scene.sample.extra["slots"]
        third = [min(2, int(3 * value / 32)) for value in (rows.mean(), columns.mean())]
        assert f"{ROWS[third[0]]} {COLUMNS[third[1]]}" == slots["place"]
        assert slots["shape"] in SHAPES[scene.sample.label]


def test_rationales_name_every_slot_and_the_attribute(made: list[Scene]) -> None:
    for scene in of(made, "test"):
        assert len(scene.sample.explanations) == 3
        for text in scene.sample.explanations:
            for value in [*scene.sample.extra["slots"].values(), ATTRIBUTES[scene.sample.label]]:
                assert value in text


def test_any_size_can_be_drawn() -> None:
    config = ScenesConfig(num_train=8, num_val=4, num_test=4, size=96, mask_share=1.0)
    scene = next(iter(scenes(config)))
    assert scene.image.shape == (96, 96, 3)
    left, _, right, _ = scene.sample.extra["cue_box"]
    assert right - left == 18
