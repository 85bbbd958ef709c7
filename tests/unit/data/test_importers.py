"""Each importer on a source of its form, written by the test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megl_core.config import DataConfig, ScenesConfig
from megl_core.data.contract import Sample, read_annotations
from megl_core.data.images import decode_mask
from megl_core.data.importers import ImportReport, import_dataset
from megl_core.data.importers.coco_masks import draw_masks
from megl_core.data.importers.megl_release import load_map
from megl_core.errors import DataError
from tests.unit.data.build import Silent, encode, noise, tree

SCENES = ScenesConfig(num_train=12, num_val=4, num_test=4)


def run(importer: str, source: Path | None, target: Path) -> ImportReport:
    return import_dataset(importer, source, target, DataConfig(scenes=SCENES), Silent())


def samples(target: Path) -> dict[str, Sample]:
    rows = [row for _, row in read_annotations(target)]
    assert all(isinstance(row, Sample) for row in rows)
    return {row.id: row for row in rows if isinstance(row, Sample)}


def description(target: Path) -> dict[str, Any]:
    value = json.loads((target / "dataset.json").read_text())
    assert isinstance(value, dict)
    return value


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# --- procedural ------------------------------------------------------------------------------


def test_procedural_writes_what_the_generator_made(tmp_path: Path) -> None:
    report = run("procedural", None, tmp_path / "d")
    assert report.num_images == 12 + 4 + 3 * 4
    written = samples(tmp_path / "d")
    assert len(written) == report.num_images
    assert sum(sample.mask is not None for sample in written.values()) == report.num_masks
    assert description(tmp_path / "d")["labels"] == ["boxy", "crossed", "pointed", "round"]
    assert len(description(tmp_path / "d")["parameters_sha256"]) == 64


def test_procedural_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    run("procedural", None, tmp_path / "a")
    run("procedural", None, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for name in tree(tmp_path / "a"):
        if (path := tmp_path / "a" / name).is_file():
            assert path.read_bytes() == (tmp_path / "b" / name).read_bytes()


# --- megl-release ----------------------------------------------------------------------------

LEFT_HALF = np.array([[True, True, False, False]] * 3)
VARIANTS = {
    "HxW uint8": (LEFT_HALF * 255).astype(np.uint8),
    "HxW of 0 and 1": LEFT_HALF.astype(np.uint8),
    "HxW bool": LEFT_HALF,
    "HxW float64": LEFT_HALF * 1.0,
    "HxW float32, graded": np.array([[0.8, 0.4, 0.39, 0.0]] * 3, dtype=np.float32),
    "HxW float16": (LEFT_HALF * 0.5).astype(np.float16),
    "HxWx3 uint8": np.repeat((LEFT_HALF * 200).astype(np.uint8)[..., None], 3, axis=2),
    "HxWx3 float": np.repeat((LEFT_HALF * 0.9)[..., None], 3, axis=2),
    "3xHxW uint8": np.repeat((LEFT_HALF * 200).astype(np.uint8)[None], 3, axis=0),
    "3xHxW float": np.repeat((LEFT_HALF * 0.9)[None], 3, axis=0),
    "3xHxW, one channel": np.stack([LEFT_HALF * 0.0, LEFT_HALF * 0.7, LEFT_HALF * 0.0]),
    "1xHxW": (LEFT_HALF * 0.9)[None],
}


@pytest.mark.parametrize("array", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_npy_variant_marks_the_same_pixels(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "map.npy", array)
    assert np.array_equal(load_map(tmp_path / "map.npy"), LEFT_HALF)


def test_an_all_zero_map_marks_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", np.zeros((3, 4)))
    assert not load_map(tmp_path / "map.npy").any()


BAD_ARRAYS = {
    "objects": (np.array([{"a": 1}], dtype=object), "no usable .npy"),
    "text": (np.array([["a"]]), "no array of real numbers"),
    "nan": (np.array([[np.nan, 1.0]]), "negative or non-finite"),
    "negative": (np.array([[-1.0, 1.0]]), "negative or non-finite"),
    "five dimensions": (np.zeros((1, 1, 1, 2, 2)), "shape"),
    "two channels": (np.zeros((5, 5, 2)), "shape"),
    "nothing": (np.zeros((0, 4)), "0 values"),
}


@pytest.mark.parametrize(("array", "reason"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays_say_why(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "map.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=reason):
        load_map(tmp_path / "map.npy")


@pytest.mark.parametrize(
    ("header", "damaged"),
    [(b"(4, 4)", b"(4, 9)"), (b"(4, 4), }", b"(4, 4), (")],
    ids=["claims more than the file holds", "is no Python literal"],
)
def test_an_array_with_a_damaged_header(tmp_path: Path, header: bytes, damaged: bytes) -> None:
    np.save(tmp_path / "map.npy", np.zeros((4, 4)))
    content = (tmp_path / "map.npy").read_bytes()
    (tmp_path / "map.npy").write_bytes(content.replace(header, damaged))
    with pytest.raises(DataError, match=r"no usable .npy"):
        load_map(tmp_path / "map.npy")


def megl_source(root: Path, mapping: dict[str, Any] | None) -> Path:
    put(root / "images/a.png", encode(noise(1)))
    put(root / "images/b.png", encode(noise(2)))
    (root / "maps").mkdir()
    np.save(root / "maps/a.npy", np.eye(10, 12))
    rows = {
        "1": {
            "image_path": "images/a.png",
            "visual_exp": "maps/a.npy",
            "class_id": 1,
            "exp": ["It barks.", " "],
            "ans": "a dog",
        },
        "2": {"image_path": "old/path/b.png", "visual_exp": "", "class_id": 0, "exp": [], "ans": "a cat"},
    }
    put(root / "exp_annotation.json", rows)
    if mapping is not None:
        put(root / "label_class_id_mapping.json", mapping)
    return root


@pytest.mark.parametrize("mapping", [{"cat": 0, "dog": 1}, {"0": "cat", "1": "dog"}])
def test_megl_release(tmp_path: Path, mapping: dict[str, Any]) -> None:
    report = run("megl-release", megl_source(tmp_path / "s", mapping), tmp_path / "d")
    assert report == ImportReport(2, 1, 1, 0, {"cat": 1, "dog": 1})
    written = samples(tmp_path / "d")
    assert written["1"] == Sample("1", "images/1.png", "dog", "masks/1.png", ("It barks.",))
    assert written["2"] == Sample("2", "images/2.png", "cat")
    mask = decode_mask((tmp_path / "d/masks/1.png").read_bytes())
    assert np.array_equal(mask, np.eye(10, 12) > 0)
    assert (tmp_path / "d/images/2.png").read_bytes() == encode(noise(2))
    assert description(tmp_path / "d")["labels"] == ["cat", "dog"]


def test_megl_release_without_mapping_takes_the_answers(tmp_path: Path) -> None:
    run("megl-release", megl_source(tmp_path / "s", None), tmp_path / "d")
    assert {sample.label for sample in samples(tmp_path / "d").values()} == {"a dog", "a cat"}
    assert description(tmp_path / "d")["labels"] is None


def test_megl_release_with_one_class_id_for_two_labels(tmp_path: Path) -> None:
    source = megl_source(tmp_path / "s", {"cat": 0, "dog": 1, "puppy": 1})
    with pytest.raises(DataError, match="the class id 1 to 'dog' and to 'puppy'"):
        run("megl-release", source, tmp_path / "d")


def test_megl_release_reports_every_bad_row(tmp_path: Path) -> None:
    source = megl_source(tmp_path / "s", {"cat": 0})  # row 1 has class 1
    rows = json.loads((source / "exp_annotation.json").read_text())
    rows["3"] = rows["2"] | {"image_path": "../../etc/passwd"}
    rows["4"] = rows["2"] | {"visual_exp": "maps/absent.npy"}
    rows["5"] = rows["2"] | {"exp": "one string"}
    rows["6"] = ["no object"]
    put(source / "exp_annotation.json", rows)
    with pytest.raises(DataError, match="5 rows cannot be imported") as caught:
        run("megl-release", source, tmp_path / "d")
    keys = [problem.split(":")[0] for problem in caught.value.problems]
    assert keys == [f"exp_annotation.json key '{key}'" for key in "13456"]
    assert not (tmp_path / "d").exists()


def test_a_key_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "s/exp_annotation.json", b'{"1": {}, "1": {}}')
    with pytest.raises(DataError, match="key '1' occurs twice"):
        run("megl-release", tmp_path / "s", tmp_path / "d")


# --- coco ------------------------------------------------------------------------------------


def coco_source(root: Path) -> Path:
    for number in (1, 2, 3):
        put(root / f"train2017/{number:012d}.png", encode(noise(number)))
    image: dict[str, Any] = {"width": 12, "height": 10}
    instances = {
        "images": [image | {"id": number, "file_name": f"{number:012d}.png"} for number in (1, 2, 3)],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 19, "name": "horse"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 18, "area": 20,
             "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]]},
            {"id": 2, "image_id": 1, "category_id": 17, "area": 5, "segmentation": [[9, 9, 11, 9, 11, 8]]},
            {"id": 3, "image_id": 1, "category_id": 18, "area": 2,
             "segmentation": {"size": [10, 12], "counts": [118, 2]}},
            {"id": 4, "image_id": 2, "category_id": 17, "area": 9, "segmentation": []},
        ],
    }  # fmt: skip
    captions = {
        "annotations": [{"image_id": 1, "caption": "A dog. "}, {"image_id": 1, "caption": "It sits."}]
    }
    put(root / "annotations/instances_train2017.json", instances)
    put(root / "annotations/captions_train2017.json", captions)
    return root


def test_coco(tmp_path: Path) -> None:
    report = run("coco", coco_source(tmp_path / "s"), tmp_path / "d")
    assert report == ImportReport(2, 1, 1, 1, {"cat": 1, "dog": 1})
    written = samples(tmp_path / "d")
    dog = written["train2017-1"]
    assert (dog.label, dog.split, dog.explanations) == ("dog", "train", ("A dog.", "It sits."))
    expected = np.zeros((10, 12), dtype=bool)
    expected[0:4, 0:5] = True  # the polygon's border belongs to it
    expected[8:10, 11] = True  # the last two pixels, column by column
    assert np.array_equal(decode_mask((tmp_path / "d" / str(dog.mask)).read_bytes()), expected)
    assert written["train2017-2"].mask is None
    assert description(tmp_path / "d")["labels"] == ["cat", "dog", "horse"]


def test_an_area_may_be_any_integer(tmp_path: Path) -> None:
    source = coco_source(tmp_path / "s")
    document = json.loads((source / "annotations/instances_train2017.json").read_text())
    document["annotations"][1]["area"] = 10**400
    put(source / "annotations/instances_train2017.json", document)
    run("coco", source, tmp_path / "d")
    assert samples(tmp_path / "d")["train2017-1"].label == "cat"


@pytest.mark.parametrize(
    ("counts", "marked"),
    [
        ([2, 3, 7], [2, 3, 4]),
        ("237", [2, 3, 4]),
        # 2, 3, 4, 3: the fourth is written as its difference 0 to the second
        ("2340", [2, 3, 4, 9, 10, 11]),
        # 2, 3, 4, 2, 1: differences -1 ("O") to 3 and -3 ("M") to 4
        ("234OM", [2, 3, 4, 9, 10]),
    ],
)
def test_run_length_codes(counts: Any, marked: list[int]) -> None:
    mask = draw_masks([{"size": [4, 3], "counts": counts}], width=3, height=4)
    assert mask is not None
    assert np.flatnonzero(mask.T.reshape(-1)).tolist() == marked


def test_a_long_run_needs_two_digits() -> None:
    """100 = 4 + 3 * 32: digit 4 with "more" (4 + 32 + 48 = "T"), then 3."""
    mask = draw_masks([{"size": [10, 12], "counts": "T3d0"}], width=12, height=10)
    assert mask is not None
    assert mask.sum() == 20


BAD_SHAPES = {
    "two corners": [[0, 0, 1, 1]],
    "odd": [[0, 0, 1, 1, 2]],
    "text": [["a"] * 6],
    "infinite": [[float("inf")] * 6],
    "no number": [[float("nan")] * 6],
    "beyond 64 bits": [[0, 0, 4, 0, 4, 1 << 64]],
    "beyond a float": [[0, 0, 4, 0, 4, 10**400]],
    "far away": [[0, 0, 4, 0, 4, 1e300]],
    "other size": {"size": [3, 4], "counts": [12]},
    "too short": {"size": [4, 3], "counts": [2, 3]},
    "negative": {"size": [4, 3], "counts": [13, -1]},
    "wrong digit": {"size": [4, 3], "counts": "\x01"},
    "number": 7,
}


@pytest.mark.parametrize("shape", BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_malformed_segmentations_are_errors(shape: Any) -> None:
    with pytest.raises(DataError):
        draw_masks([shape], width=3, height=4)


def test_a_huge_canvas_is_refused() -> None:
    with pytest.raises(DataError, match="too many pixels"):
        draw_masks([[[0, 0, 1, 1, 2, 2]]], width=50_000, height=50_000)


# --- act-x and vqa-x -------------------------------------------------------------------------


def test_act_x_raw(tmp_path: Path) -> None:
    put(tmp_path / "s/images/007.jpg", encode(noise(1), "JPEG"))
    rows = {"q1": {"ans": "yoga, power", "iid": "007", "exp": ["She holds a pose.", "A mat."]}}
    put(tmp_path / "s/textual/exp_train_split.json", rows)
    put(tmp_path / "s/textual/exp_val_split.json", {"q2": rows["q1"] | {"exp": []}})
    report = run("act-x", tmp_path / "s", tmp_path / "d")
    assert report == ImportReport(2, 0, 1, 0, {"yoga, power": 2})
    assert samples(tmp_path / "d")["q1"] == Sample(
        "q1", "images/q1.jpg", "yoga, power", None, ("She holds a pose.", "A mat."), "train", "007"
    )
    assert samples(tmp_path / "d")["q2"].split == "val"


def test_act_x_processed(tmp_path: Path) -> None:
    put(tmp_path / "s/images/007.jpg", encode(noise(1), "JPEG"))
    row = {"answers": "yoga", "image_id": "007", "image_name": "007.jpg", "explanation": ["A mat."]}
    put(tmp_path / "s/actX_test.json", {"9": row})
    run("act-x", tmp_path / "s", tmp_path / "d")
    expected = Sample("9", "images/9.jpg", "yoga", None, ("A mat.",), "test", "007")
    assert samples(tmp_path / "d") == {"9": expected}


ANSWERS = [{"answer": answer, "answer_id": number} for number, answer in enumerate(["no", "yes", "yes"])]
IMAGE_NAME = "COCO_val2014_000000000042.jpg"


def test_vqa_x_processed(tmp_path: Path) -> None:
    put(tmp_path / f"s/images/{IMAGE_NAME}", encode(noise(1), "JPEG"))
    row = {
        "question": "Is it raining?",
        "answers": ANSWERS,
        "image_id": "42",
        "image_name": IMAGE_NAME,
        "explanation": ["There are umbrellas."],
    }
    put(tmp_path / "s/vqaX_train.json", {"420001": row})
    run("vqa-x", tmp_path / "s", tmp_path / "d")
    expected = Sample(
        "420001", "images/420001.jpg", "yes", None, ("There are umbrellas.",), "train", "42",
        {"question": "Is it raining?"},
    )  # fmt: skip
    assert samples(tmp_path / "d") == {"420001": expected}


def test_vqa_x_raw_joins_the_answers_of_vqa(tmp_path: Path) -> None:
    put(tmp_path / f"s/val2014/{IMAGE_NAME}", encode(noise(1), "JPEG"))
    put(tmp_path / "s/textual/test_exp_anno.json", {"420001": ["Umbrellas."], "5": ["No such question."]})
    annotations = [
        {"question_id": 420001, "image_id": 42, "answers": ANSWERS},
        {"question_id": 430001, "image_id": 43, "answers": ANSWERS},
    ]
    put(
        tmp_path / "s/v2_mscoco_val2014_annotations.json",
        {"data_subtype": "val2014", "annotations": annotations},
    )
    questions = [{"question_id": 420001, "question": "Is it raining?"}]
    put(tmp_path / "s/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    with pytest.raises(DataError, match="1 row cannot be imported") as caught:
        run("vqa-x", tmp_path / "s", tmp_path / "d")
    assert caught.value.problems == ("test_exp_anno.json key '5': no answers for this question",)
    put(tmp_path / "s/textual/test_exp_anno.json", {"420001": ["Umbrellas."]})
    run("vqa-x", tmp_path / "s", tmp_path / "d")
    sample = samples(tmp_path / "d")["420001"]
    assert (sample.label, sample.group, sample.split) == ("yes", "42", "test")
    assert (sample.explanations, sample.extra) == (("Umbrellas.",), {"question": "Is it raining?"})


@pytest.mark.parametrize("importer", ["act-x", "vqa-x", "coco", "megl-release", "folder"])
def test_a_folder_of_another_form_is_an_error(tmp_path: Path, importer: str) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError):
        run(importer, tmp_path / "s", tmp_path / "d")
    assert tree(tmp_path) == {"s"}
