"""The ingest step in a workspace with a real DVC repository: what is imported anew, and what is kept."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megl_core.config import DataConfig, ScenesConfig
from megl_core.data import ingest as module
from megl_core.data.ingest import Ingested, ingest
from megl_core.errors import DataError, MeglError
from megl_core.files import read_json

SCENES = ScenesConfig(num_train=8, num_val=4, num_test=4, size=24)
CONFIG = DataConfig(scenes=SCENES)

pytestmark = pytest.mark.slow


@pytest.fixture
def first(tmp_path: Path) -> Ingested:
    return ingest(CONFIG, tmp_path)


def edit(dataset: Path) -> None:
    annotations = dataset / "annotations.jsonl"
    text = annotations.read_text()
    annotations.unlink()  # DVC may have linked it to its cache
    annotations.write_text(text.replace("There is", "Here is", 1))


def test_the_same_again_is_the_same_version(first: Ingested, tmp_path: Path) -> None:
    again = ingest(CONFIG, tmp_path)
    assert (again.digest, again.version, again.labels) == (first.digest, first.version, first.labels)
    assert first.num_samples == 24
    assert first.version["md5"].endswith(".dir")
    assert first.dvc.changed
    assert not again.dvc.changed


def test_an_edited_dataset_is_kept_and_has_another_digest(
    first: Ingested, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(first.dataset)
    edited = ingest(CONFIG, tmp_path)
    assert edited.digest != first.digest
    assert edited.version["md5"] != first.version["md5"]
    assert "Here is" in (first.dataset / "annotations.jsonl").read_text()
    assert "the data changed since the last run" in capsys.readouterr().err


def test_changed_settings_import_anew(first: Ingested, tmp_path: Path) -> None:
    more = CONFIG.model_copy(update={"scenes": SCENES.model_copy(update={"num_train": 12})})
    assert ingest(more, tmp_path).num_samples == 28


def test_edits_are_never_overwritten(first: Ingested, tmp_path: Path) -> None:
    edit(first.dataset)
    ingest(CONFIG, tmp_path)  # the edit is part of a run by now
    more = CONFIG.model_copy(update={"scenes": SCENES.model_copy(update={"seed": 5})})
    with pytest.raises(DataError, match="edited since it was imported"):
        ingest(more, tmp_path)
    assert "Here is" in (first.dataset / "annotations.jsonl").read_text()


KILLED = """
import os, signal, sys
from pathlib import Path
from megl_core.config import DataConfig
from megl_core.data import ingest as module

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(module, sys.argv[3], kill)
module.ingest(DataConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("at", ["replace_directory", "scan"])
def test_an_import_that_was_killed_is_nobodys_edit(first: Ingested, tmp_path: Path, at: str) -> None:
    """Before and after it took the dataset's place; whether the change stays, or is taken back."""
    more = CONFIG.model_copy(update={"scenes": SCENES.model_copy(update={"num_train": 12})})
    command = [sys.executable, "-c", KILLED, more.model_dump_json(), str(tmp_path), at]
    for config, samples in ((more, 28), (CONFIG, 24)):
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert ingest(config, tmp_path).num_samples == samples
        ingest(CONFIG, tmp_path)
    assert ingest(CONFIG, tmp_path).digest == first.digest


def test_what_is_no_dataset_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "scenes").mkdir(parents=True)
    (tmp_path / "datasets" / "scenes" / "notes.txt").write_text("mine")
    with pytest.raises(MeglError, match="holds something else"):
        ingest(CONFIG, tmp_path)
    assert (tmp_path / "datasets" / "scenes" / "notes.txt").read_text() == "mine"


def test_the_labels_and_their_order_are_part_of_the_result(first: Ingested, tmp_path: Path) -> None:
    labels = first.labels[::-1]
    other = ingest(CONFIG.model_copy(update={"labels": labels}), tmp_path)
    assert other.labels == labels
    assert ingest(CONFIG, tmp_path).labels == first.labels


def test_measures_of_other_code_are_not_reused(
    first: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_json(tmp_path / "datasets" / "scenes.json")
    assert module._known_manifest(tmp_path, record) == first.manifest
    monkeypatch.setattr(module, "measuring_code", lambda: "changed")
    assert module._known_manifest(tmp_path, record) is None


def test_a_damaged_manifest_is_measured_again(first: Ingested, tmp_path: Path) -> None:
    first.manifest.write_bytes(b"no parquet")
    assert ingest(CONFIG, tmp_path).digest == first.digest
