import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from megl_core.config import EvaluationConfig
from megl_core.errors import DataError
from megl_core.evaluation import evaluate
from megl_core.evaluation.charts import learning_curves
from megl_core.evaluation.report import write_report

HISTORY = [
    {"epoch": 1, "step": 3, "loss": 2.0, "visual": 0.5, "learning_rate": 0.001, "val_accuracy": 0.5},
    {"epoch": 2, "step": 6, "loss": 1.0, "visual": 0.25, "learning_rate": 0.003, "val_accuracy": 0.75},
]


class Page(HTMLParser):
    """Words, and what the page would load."""

    def __init__(self, html):
        super().__init__()
        self.words = ""
        self.sources = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.words += f" {data}"

    @property
    def text(self):
        """The words with every kind of space as one plain space."""
        return " ".join(self.words.split())


@pytest.fixture(scope="module")
def folders(packed, crossed_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    evaluate(crossed_model, packed, EvaluationConfig(min_group=1, gallery=1), root / "evaluation")
    (root / "model").mkdir()
    training = {"history": HISTORY, "config": {"train": {"epochs": 2}}, "seconds": 12.3, "steps": 6}
    (root / "model" / "training.json").write_text(json.dumps(training))
    return root


def test_a_full_report(folders):
    gate = {
        "passed": False,
        "rows": [
            {
                "metric": "test.accuracy",
                "value": 0.25,
                "champion": None,
                "bound": ">= 0.9",
                "passed": False,
                "note": "no champion <yet>",
            },
            {
                "metric": "ood.accuracy",
                "value": 0.9,
                "champion": 0.8,
                "bound": "more than 0 above the champion",
                "low": 0.0625,
                "high": 0.1375,
                "passed": True,
                "note": "",
            },
        ],
    }
    validation = {
        "passed": True,
        "num_rows": 28,
        "checks": [
            {"name": "ids_unique", "status": "pass", "num_offenders": 0, "explanation": "Ids are unique."},
            {"name": "drift", "status": "warn", "num_offenders": 2, "explanation": "Nothing moved."},
        ],
    }
    (folders / "gate.json").write_text(json.dumps(gate))
    (folders / "validation.json").write_text(json.dumps(validation))
    path = write_report(
        folders / "report.html",
        evaluation=folders / "evaluation",
        training=folders / "model",
        gate=folders / "gate.json",
        validation=folders / "validation.json",
        version={"name": "megl", "version": 3, "stage": "Staging"},
        provenance={"code_digest": "c0de", "git_commit": None, "dvc": {"md5": "f00"}},
    )
    page = Page(path.read_text())
    for expected in (
        "megl version 3",
        "gate failed",
        "Staging",
        "data passed with warnings",
        "no champion <yet>",
        "ood.accuracy 0.9 0.8 +0.0625 to +0.138 more than 0 above the champion pass",
        "accuracy, test 25.0%",
        "training 12 s",
        "crossed 90%",
        "is pointed",
        "learning rate",
        "drift",
        "code digest c0de",
        'dvc {"md5": "f00"}',
        "insertion probability while",
        "accuracy, cue conflicts",
        "Not measured: bertscore (evaluation.bertscore_model is not set);",
    ):
        assert expected in page.text
    assert "git commit" not in page.text
    pictures = [source for source in page.sources if source.startswith("data:image/webp")]
    assert len(pictures) == 6
    assert all(source.startswith(("data:", "#")) for source in page.sources)


def test_a_report_needs_no_more_than_an_evaluation(folders, tmp_path):
    path = write_report(tmp_path / "report.html", evaluation=folders / "evaluation", training=tmp_path)
    page = Page(path.read_text())
    assert "Report of a training run" in page.text
    assert "Gate" not in page.text
    assert "Data validation" not in page.text


def test_an_evaluation_from_before_newer_metrics_is_still_shown(folders, tmp_path):
    shutil.copytree(folders / "evaluation", tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "evaluation.json"
    measured = json.loads(path.read_text())
    del measured["left_out"], measured["cue"]
    for metrics in measured["metrics"].values():
        del metrics["insertion_auc"], metrics["faithfulness_n"]
    path.write_text(json.dumps(measured))
    write_report(tmp_path / "report.html", evaluation=tmp_path / "evaluation", training=tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "worst group" in text
    assert "Not measured" not in text


def test_a_gallery_cannot_lead_out_of_its_folder(folders, tmp_path):
    shutil.copytree(folders / "evaluation", tmp_path / "evaluation")
    listing = tmp_path / "evaluation" / "gallery" / "test.json"
    cases = json.loads(listing.read_text())
    cases[0]["file"] = "../../secret.png"
    listing.write_text(json.dumps(cases))
    with pytest.raises(DataError, match="unsafe path"):
        write_report(tmp_path / "report.html", evaluation=tmp_path / "evaluation", training=tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_curves_are_the_same_for_the_same_history():
    first, second = learning_curves(HISTORY), learning_curves(HISTORY)
    assert first == second
    titles = [title for title in ("losses", "validation", "learning rate") if f">{title}<" in first]
    assert titles == ["losses", "validation", "learning rate"]
    assert "currentColor" in first
    assert not re.search(r"<svg[^>]* (width|height)=", first)


def test_no_history_no_curves():
    assert learning_curves([]) is None
    assert learning_curves([{"epoch": 1, "seconds": 3.0}]) is None
