import pytest
from PIL import Image

from megl_core.config import PackConfig, SplitConfig
from megl_core.data.contract import ANNOTATIONS, Sample
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.data.packed import LocalFiles
from megl_core.errors import DataError
from megl_core.evaluation.cues import Cue, find_cue
from megl_core.files import canonical_json
from megl_core.metrics.text import common_phrase
from tests.conftest import shared_data
from tests.unit.evaluation.conftest import LABELS


@pytest.fixture
def packed_with(tmp_path):
    """Packs rows of (label, split, extra), each with a picture of its own."""

    def make(rows):
        (tmp_path / "set" / "images").mkdir(parents=True)
        lines = []
        for number, (label, split, extra) in enumerate(rows):
            name = f"images/{number}.png"
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "set" / name)
            sample = Sample(id=str(number), image=name, label=label, split=split, extra=extra)
            lines.append(canonical_json(sample.to_json()).decode())
        (tmp_path / "set" / ANNOTATIONS).write_text("\n".join(lines))
        write_manifest(scan(tmp_path / "set", SplitConfig()), tmp_path / "manifest.parquet")
        pack(tmp_path / "set", tmp_path / "manifest.parquet", tmp_path / "packed", PackConfig())
        return tmp_path / "packed"

    return make


def test_a_column_of_labels_names_the_class_itself(packed):
    assert find_cue(LocalFiles(packed), ["absent", "cue_class"], LABELS) == Cue(
        "cue_class", {label: label for label in LABELS}
    )


def test_without_a_manifest_nothing_can_be_told(tmp_path):
    with pytest.raises(DataError, match="lack their manifest"):
        find_cue(LocalFiles(tmp_path), ["scene"], ["cat"])


def test_without_such_a_column_there_is_no_cue(packed):
    assert find_cue(LocalFiles(packed), ["absent"], LABELS) is None
    assert find_cue(LocalFiles(packed), [], LABELS) is None


def test_training_rows_tell_which_value_goes_with_which_label(packed_with):
    data = packed_with(
        [
            ("cat", "train", {"scene": "sofa", "polar": 1}),
            ("cat", "train", {"scene": "sofa", "polar": 2}),
            ("cat", "train", {"scene": "park", "polar": 1}),
            ("dog", "train", {"scene": "park", "polar": 2}),
            ("dog", "train", {"scene": None}),
            *[("dog", "test", {"scene": "sofa"})] * 3,
        ]
    )
    assert find_cue(LocalFiles(data), ["scene", "polar"], ["cat", "dog"]) == Cue(
        "scene", {"cat": "sofa", "dog": "park"}
    )
    assert find_cue(LocalFiles(data), ["polar"], ["cat", "dog"]).aligned["cat"] == "1"


def test_a_column_that_training_lacks_goes_with_nothing(packed_with):
    data = packed_with([("cat", "train", {}), ("cat", "test", {"scene": "sofa"})])
    assert find_cue(LocalFiles(data), ["scene"], ["cat"]) == Cue("scene", {})


def test_real_photos_on_scenes_that_lie(tmp_path):
    """The scene goes with the object 19 times in 20; the place stands in the sentences only."""
    dataset = shared_data("eth80_scenes")
    table = scan(dataset, SplitConfig())
    write_manifest(table, tmp_path / "manifest.parquet")
    assert find_cue(LocalFiles(tmp_path), ["scene"], sorted(set(table["label"].to_pylist()))).aligned == {
        "apple": "beach",
        "car": "forest",
        "cow": "river",
        "cup": "parkinglot",
        "dog": "agricultural",
        "horse": "denseresidential",
        "pear": "runway",
        "tomato": "golfcourse",
    }
    rows = ("upper", "middle", "lower")
    places = [f"in the {row} {column}" for row in rows for column in ("left", "centre", "right")]
    phrases = ["in the centre", *places]
    assert all(common_phrase(texts, phrases) for texts in table["explanations"].to_pylist())
