"""What the card says: the evaluation's numbers, the unwelcome ones among them, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from megl_core.errors import DataError
from megl_core.explain.model_card import findings, interval, model_card
from megl_core.files import write_json

TEST = {
    "n": 600.0, "accuracy": 0.9, "macro_f1": 0.875, "ece": 0.04, "worst_group_accuracy": 0.25,
    "energy_in_mask": 0.4, "masks_n": 120.0, "slot_accuracy": 0.955, "slot_n": 600.0, "cider": 2.5,
}  # fmt: skip
OOD = {"n": 50.0, "accuracy": 0.58, "cue_flip_rate": 0.3, "cue_flip_n": 40.0}


def evaluation(**changes: Any) -> dict[str, Any]:
    return {
        "labels": ["boxy", "round"],
        "data_digest": "d" * 64,
        "model_digest": "m" * 64,
        "primary_split": "test",
        "shifted_split": "ood",
        "metrics": {"test": TEST, "ood": OOD},
        "groups": {"test": [{"label": "boxy", "scene": "river", "accuracy": 0.25, "n": 12}], "ood": []},
        "left_out": {"meteor": "no Java on this machine"},
    } | changes


def described(**changes: Any) -> dict[str, Any]:
    model = {
        "saliency": "centered",
        "backbone": {"name": "hf", "path": "microsoft/resnet-50"},
        "decoder": {"name": "small", "path": None},
    }
    return {"labels": ["boxy", "round"], "model": model | changes, "decoder": None}


def card(
    tmp_path: Path, measured: dict[str, Any], config: dict[str, Any], licence: str = "mit"
) -> tuple[Any, str]:
    """The header as a tree, and the text."""
    write_json(tmp_path / "model" / "config.json", config)
    write_json(tmp_path / "evaluation" / "evaluation.json", measured)
    _, front, text = model_card(tmp_path / "model", tmp_path / "evaluation", licence).split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_interval_is_wilsons() -> None:
    """6 of 8: published tables give 0.409 to 0.929. 10 of 10 are no certainty."""
    assert interval(0.75, 8) == pytest.approx((0.4093, 0.9285), abs=1e-4)
    assert interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_the_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    front, _ = card(tmp_path, evaluation(), described())
    assert (front["license"], front["library_name"]) == ("mit", "megl")
    assert front["pipeline_tag"] == "image-classification"
    assert front["base_model"] == ["microsoft/resnet-50"]
    assert front["metrics"] == ["accuracy", "f1"]
    ((test, ood),) = [entry["results"] for entry in front["model-index"]]
    assert test["dataset"] == {"name": "d" * 12, "type": "megl", "split": "test"}
    assert test["metrics"] == [
        {"type": "accuracy", "name": "accuracy", "value": 0.9},
        {"type": "f1", "name": "macro_f1", "value": 0.875},
    ]
    assert [metric["value"] for metric in ood["metrics"]] == [0.58]


def test_a_folder_of_this_machine_is_no_base_model(tmp_path: Path) -> None:
    backbone = {"name": "hf", "path": "/home/somebody/weights/resnet"}
    front, text = card(tmp_path, evaluation(), described(backbone=backbone))
    assert "base_model" not in front
    assert "hf, from resnet;" in text
    assert "somebody" not in text


def test_the_numbers_are_said_plainly() -> None:
    assert findings(evaluation()) == [
        "On `test`, 90.0% of 600 images are classified right (95 % interval 87.3% to 92.2%).",
        "On `ood`, 58.0% of 50 images are classified right (95 % interval 44.2% to 70.6%). "
        "So few images say little.",
        "On shifted data (`ood`) it gets 32.0 points fewer right than on `test`.",
        "The worst group of `test` (label boxy, scene river) has an accuracy of 25.0% (12 images).",
        "On `ood`, 30.0% of the predictions change when only the spurious cue is exchanged (40 pairs).",
        "Its probabilities differ from how often it is right by 4.0% on average.",
        "Of the evidence in its heat maps, 40.0% lies in the regions that people marked (`test`, 120 images)."
        " Most of the evidence lies elsewhere: do not trust these maps.",
        "Of the facts that its rationales should name, 95.5% are named rightly (`test`, 600 images). "
        "The rest is missing or wrong, in sentences that read as well.",
    ]


def test_what_is_not_known_is_said_too() -> None:
    measured = evaluation(shifted_split=None, metrics={"test": {"n": 200.0, "accuracy": 0.9}}, groups={})
    assert findings(measured)[1:] == [
        "No shifted data were evaluated: how it does on pictures of another kind is not known.",
        "Nothing is known about its heat maps: no annotated regions to compare them with.",
        "No rationales were measured.",
    ]
    measured["metrics"]["test"] |= {"energy_in_mask": 0.8, "masks_n": 9.0, "bleu4": 0.3}
    *_, maps, texts = findings(measured)
    assert maps.endswith("(`test`, 9 images).")
    assert "whether what they say is true was not measured" in texts


def test_tables_hold_what_was_measured_and_leave_gaps(tmp_path: Path) -> None:
    _, text = card(tmp_path, evaluation(), described())
    lines = text.splitlines()
    assert "| | test | ood |" in lines
    assert "| accuracy | 90.0% | 58.0% |" in lines
    assert "| cue flips |  | 30.0% |" in lines
    assert "| CIDEr-D | 2.50 |  |" in lines
    assert "| images | 600 | 50 |" in lines
    assert "BLEU-4" not in text
    assert "- Not measured: meteor (no Java on this machine)." in lines
    assert f"| model | `{'m' * 64}` |" in lines


@pytest.mark.parametrize("licence", ["mit", "unknown"])
def test_an_unknown_licence_is_a_limit(tmp_path: Path, licence: str) -> None:
    front, text = card(tmp_path, evaluation(), described(), licence)
    assert front["license"] == licence
    assert ("Nobody has said under which licence" in text) == (licence == "unknown")


def test_the_training_is_told_where_it_is_recorded(tmp_path: Path) -> None:
    objective = {"visual": 2.0, "text": 0.0, "consistency": 1.0, "region": 0.3}
    record = {"steps": 75, "data_digest": "t" * 64}
    config = {"config": {"train": {"batch_size": 32}, "objective": objective}}
    write_json(tmp_path / "model" / "training.json", record | config)
    _, text = card(tmp_path, evaluation(), described())
    assert (
        "75 steps in batches of 32; weights beside the classes: visual 2, consistency 1, region 0.3" in text
    )
    assert f"| data of the training | `{'t' * 64}` |" in text


def test_labels_cannot_break_the_header(tmp_path: Path) -> None:
    labels = ["a: b", "- c", "#d"]
    front, text = card(tmp_path, evaluation(labels=labels), described() | {"labels": labels})
    assert front["license"] == "mit"
    assert "It knows 3 classes: a: b, - c, #d." in text


def test_no_evaluation_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no metrics"):
        card(tmp_path, evaluation(metrics={}), described())
    with pytest.raises(DataError, match="other classes"):
        card(tmp_path, evaluation(labels=["hen"]), described())
