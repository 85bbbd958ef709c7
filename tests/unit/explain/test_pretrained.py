"""`MEGL.from_pretrained` and `save_pretrained`, and the example of docs/explain.md."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from megl_core import MEGL
from megl_core.errors import ConfigError, DataError, MeglError, UnavailableError
from megl_core.files import write_json
from tests.conftest import FRAMEWORKS, REPOSITORY
from tests.unit.explain.conftest import LABELS


def test_importing_the_package_loads_no_framework_and_asking_for_megl_does() -> None:
    code = (
        "import sys, megl_core\n"
        f"print(sorted({set(FRAMEWORKS)!r} & set(sys.modules)))\n"
        "from megl_core import MEGL\n"
        "print('torch' in sys.modules, 'mlflow' in sys.modules, MEGL.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True False MEGL"]


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import megl_core

    with pytest.raises(AttributeError, match="has no attribute 'MEGLE'"):
        megl_core.MEGLE  # noqa: B018


def test_a_saved_model_comes_back(model, picture, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json")
    }
    for source in (tmp_path / "saved", str(tmp_path / "saved")):
        loaded = MEGL.from_pretrained(source)
        before, after = model.explain(picture(0)), loaded.explain(picture(0))
        assert torch.equal(before.probabilities, after.probabilities)
        assert torch.equal(before.heat_map, after.heat_map)
        assert before.rationale == after.rationale


def test_devices(model_folder: Path, tmp_path: Path) -> None:
    assert MEGL.from_pretrained(model_folder, "cpu").device.type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert MEGL.from_pretrained(model_folder, "auto").device.type == expected
    with pytest.raises(ConfigError, match="tpu"):
        MEGL.from_pretrained(model_folder, "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="CUDA"):
            MEGL.from_pretrained(model_folder, "cuda")
    with pytest.raises(DataError, match="no trained model"):
        MEGL.from_pretrained(tmp_path)


def test_only_a_model_of_ours_is_replaced(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "note.txt").write_text("of the old one")
    model.save_pretrained(tmp_path / "ours")
    assert not (tmp_path / "ours" / "note.txt").exists()
    theirs = tmp_path / "checkpoint"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"me")
    for folder in (theirs, tmp_path / "photos"):
        held = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(MeglError, match="there already"):
            model.save_pretrained(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == held


def test_with_an_evaluation_the_folder_has_a_card(model, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation"
    write_json(
        evaluation / "evaluation.json",
        {"labels": LABELS, "primary_split": "test", "metrics": {"test": {"accuracy": 0.75, "n": 8}}},
    )
    model.save_pretrained(tmp_path / "saved", evaluation, licence="mit")
    _, front, text = (tmp_path / "saved" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    assert "75.0% of 8 images are classified right" in text
    assert MEGL.from_pretrained(tmp_path / "saved").labels == LABELS


def test_an_evaluation_of_other_classes_leaves_no_half_of_a_folder(model, tmp_path: Path) -> None:
    report = tmp_path / "evaluation.json"
    write_json(report, {"labels": ["hen"], "metrics": {"test": {"accuracy": 0.5}}})
    with pytest.raises(DataError, match="other classes"):
        model.save_pretrained(tmp_path / "saved", report)
    assert list(tmp_path.iterdir()) == [report]


def test_the_example_of_the_documentation_runs(
    model_folder: Path, picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs" / "explain.md").read_text()
    example = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line]) == 5
    shutil.copytree(model_folder, tmp_path / "runs" / "model")
    picture(0).save(tmp_path / "photo.jpg")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = MEGL.from_pretrained(model_folder).explain(tmp_path / "photo.jpg")
    assert done.stdout.split("\n")[0] == f"{expected.predicted} {expected.rationale}"
    assert Image.open(tmp_path / "explanation.png").size == expected.plot().size
