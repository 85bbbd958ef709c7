import json
import math
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from megl_core.config import EvaluationConfig, PackConfig, SplitConfig
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.data.packed import read_info
from megl_core.errors import ConfigError, DataError, MeglError
from megl_core.evaluation import evaluate, read_evaluation
from megl_core.files import sha256_tree
from megl_core.metrics.meteor import why_unavailable
from megl_core.progress import LineReporter
from tests.unit.data.build import write_dataset
from tests.unit.evaluation.conftest import LABELS, tiny_model

CONFIG = EvaluationConfig(min_group=1, gallery=2)


@pytest.fixture(scope="module")
def evaluated(packed, crossed_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    return evaluate(crossed_model, packed, CONFIG, folder)


def test_a_model_that_always_says_crossed(evaluated):
    """Two of eight images are crossed; the model is 90 % sure of it and has no positive evidence anywhere."""
    assert list(evaluated.metrics) == ["conflict", "ood", "test", "val"]
    metrics = evaluated.metrics["ood"]
    expected = {
        "n": 8,
        "accuracy": 0.25,
        "auc": 0.5,
        "ece": 0.65,
        "macro_f1": 0.4 / 4,  # 2 * 2 / (4 + 6) for crossed, 0 for the others
        "worst_group_accuracy": 0.0,
        "masks_n": 8,
        "energy_in_mask": 0.0,
        "energy_in_cue": 0.0,
        "pointing_game": 0.0,
        "cue_flip_rate": 0.0,
        "rationale_n": 8,
        "rationale_filtered_n": 2,
        "slot_n": 8,
        # every image, however blurred, is crossed with 90 %
        "insertion_auc": 0.9,
        "deletion_auc": 0.9,
        "comprehensiveness": 0.0,
        "sufficiency": 0.0,
        "faithfulness_n": 8,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_file_says_what_was_measured_on_what(evaluated, packed, crossed_model):
    written = read_evaluation(evaluated.folder)
    assert written["metrics"] == evaluated.metrics
    assert written["model_digest"] == evaluated.model_digest == sha256_tree(crossed_model)
    assert written["data_digest"] == evaluated.data_digest == read_info(packed).digest
    assert written["labels"] == LABELS
    assert (written["primary_split"], written["shifted_split"]) == ("test", "ood")
    assert written["confusion"]["test"] == [[0, 0, 0, 2]] * 4
    assert [row["n"] for row in written["per_class"]["test"]] == [2, 2, 2, 2]


def test_the_cue_splits_the_accuracy(evaluated):
    """`cue_class` holds labels, so each goes with itself: in `conflict` never, elsewhere by chance."""
    assert read_evaluation(evaluated.folder)["cue"] == {
        "column": "cue_class",
        "aligned": {label: label for label in LABELS},
    }
    conflict = evaluated.metrics["conflict"]
    assert (conflict["conflicting_n"], conflict["conflicting_accuracy"]) == (8, 0.25)
    assert "aligned_n" not in conflict
    ood = evaluated.metrics["ood"]
    assert ood.get("aligned_n", 0) + ood["conflicting_n"] == 8


def test_what_was_not_measured_is_said(evaluated):
    assert read_evaluation(evaluated.folder)["left_out"] == {
        "meteor": "evaluation.meteor is off",
        "bertscore": "evaluation.bertscore_model is not set",
        "clipscore": "evaluation.clipscore_model is not set",
    }


def test_faithfulness_can_be_switched_off(packed, crossed_model, tmp_path):
    config = EvaluationConfig(splits=["test"], max_texts=0, faithfulness_samples=0)
    metrics = evaluate(crossed_model, packed, config, tmp_path / "out").metrics["test"]
    assert not {"insertion_auc", "faithfulness_n"} & metrics.keys()
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert {row["insertion_auc"] for row in rows} == {None}


def test_without_java_meteor_is_left_out_with_the_reason(packed, crossed_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    config = EvaluationConfig(splits=["test"], meteor=True)
    evaluated = evaluate(crossed_model, packed, config, tmp_path / "out")
    assert "meteor" not in evaluated.metrics["test"]
    assert read_evaluation(evaluated.folder)["left_out"]["meteor"] == "no Java on this machine"


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable() is not None, reason=f"METEOR: {why_unavailable()}")
def test_meteor_is_measured_where_it_is_asked_for(packed, crossed_model, tmp_path):
    config = EvaluationConfig(splits=["test"], meteor=True)
    evaluated = evaluate(crossed_model, packed, config, tmp_path / "out")
    assert 0.0 <= evaluated.metrics["test"]["meteor"] <= 1.0
    assert "meteor" not in read_evaluation(evaluated.folder)["left_out"]


def test_a_judge_that_cannot_be_loaded_stops_the_evaluation(packed, crossed_model, tmp_path):
    config = EvaluationConfig(bertscore_model=str(tmp_path / "bert"))
    with pytest.raises(ConfigError, match="bertscore_model cannot be loaded"):
        evaluate(crossed_model, packed, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_there_is_a_row_for_every_sample(evaluated):
    table = pq.read_table(evaluated.folder / "predictions.parquet").to_pylist()
    assert len(table) == 28
    assert len({row["id"] for row in table}) == 28
    for row in table:
        assert row["predicted"] == "crossed"
        assert row["correct"] == (row["label"] == "crossed")
        assert row["confidence"] == pytest.approx(0.9)
        assert sum(row["probabilities"]) == pytest.approx(1.0)
        assert row["rationale"] is not None
        assert len(row["references"]) == 3
        assert set(json.loads(row["extra"])) >= {"cue_class", "cue_box", "slots"}


def test_the_gallery_has_a_picture_for_every_case(evaluated):
    gallery = evaluated.folder / "gallery"
    assert {path.name for path in gallery.glob("*.json")} == {"test.json", "ood.json"}
    cases = json.loads((gallery / "test.json").read_text())
    assert [case["kind"] for case in cases] == ["best"] * 2 + ["worst"] * 2 + ["random"] * 2
    assert [case["label"] == "crossed" for case in cases[:4]] == [True, True, False, False]
    for case in cases:
        with Image.open(gallery / case["file"]) as picture:
            assert picture.size == (3 * 192 + 2 * 6, 192)


def test_labels_are_matched_by_name(packed, crossed_model, tmp_path):
    """The same network under rotated names: what was `crossed` is now called `round`."""
    folder = tmp_path / "model"
    shutil.copytree(crossed_model, folder)
    description = json.loads((folder / "config.json").read_text())
    description["labels"] = ["boxy", "pointed", "crossed", "round"]
    (folder / "config.json").write_text(json.dumps(description))
    evaluated = evaluate(folder, packed, EvaluationConfig(splits=["test"], max_texts=0), tmp_path / "out")
    confusion = read_evaluation(evaluated.folder)["confusion"]["test"]
    assert evaluated.metrics["test"]["accuracy"] == 0.25
    assert confusion == [[0, 0, 0, 2]] * 4
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert {row["label"] for row in rows if row["correct"]} == {"round"}


def test_labels_unknown_to_the_model_are_named(packed, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tiny_model(packed, ["round", "boxy"]).save(folder)
    with pytest.raises(DataError, match="does not know the labels pointed, crossed"):
        evaluate(folder, packed, CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_split_is_refused(packed, crossed_model, tmp_path):
    with pytest.raises(ConfigError, match="names shifted"):
        evaluate(crossed_model, packed, EvaluationConfig(splits=["test", "shifted"]), tmp_path / "out")


@pytest.mark.parametrize(
    "typo", [{"primary_split": "tset"}, {"shifted_split": "odd"}, {"group_columns": ["sceen", "cue"]}]
)
def test_a_name_of_ones_own_that_is_not_in_the_data_is_refused(packed, crossed_model, tmp_path, typo):
    with pytest.raises(ConfigError, match=f"evaluation.{next(iter(typo))} names"):
        evaluate(crossed_model, packed, CONFIG.model_copy(update=typo), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_primary_split_than_the_default_is_told(packed, crossed_model, tmp_path, capsys):
    config = EvaluationConfig(splits=["val"], max_texts=0, faithfulness_samples=0)
    evaluated = evaluate(crossed_model, packed, config, tmp_path / "out", LineReporter())
    assert read_evaluation(evaluated.folder)["primary_split"] == "val"
    assert "no split 'test' to evaluate: primary is 'val'" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(packed, tmp_path):
    with pytest.raises(DataError, match="no trained model"):
        evaluate(tmp_path, packed, CONFIG, tmp_path / "out")


def test_a_folder_of_something_else_is_refused_before_the_model_is_read(packed, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MeglError, match="holds something else"):
        evaluate(tmp_path / "no model", packed, CONFIG, tmp_path)


def test_another_version_of_the_file_is_refused(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"format_version": 99}')
    with pytest.raises(DataError, match="not an evaluation of version 1"):
        read_evaluation(tmp_path)


def test_a_set_without_cues_slots_and_groups(packed, tmp_path):
    """Cats and dogs with a few masks and texts, pictures of 12x10 pixels, no free column."""
    write_dataset(tmp_path / "dataset", count=12)
    table = scan(tmp_path / "dataset", SplitConfig(val=0.0, test=0.5))
    write_manifest(table, tmp_path / "manifest.parquet")
    pack(
        tmp_path / "dataset", tmp_path / "manifest.parquet", tmp_path / "packed", PackConfig(), ["cat", "dog"]
    )
    (tmp_path / "model").mkdir()
    tiny_model(packed, ["cat", "dog"]).save(tmp_path / "model")
    metrics = evaluate(tmp_path / "model", tmp_path / "packed", CONFIG, tmp_path / "out").metrics["test"]
    assert metrics["n"] == 6
    absent = {"energy_in_cue", "cue_flip_rate", "slot_accuracy", "worst_group_accuracy", "aligned_n"}
    assert not absent & metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())
