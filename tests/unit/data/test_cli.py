"""`megl data`, as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megl_core.config import SplitConfig
from megl_core.data.importers import IMPORTERS
from megl_core.data.manifest import read_manifest, scan, write_manifest
from megl_core.data.packed import read_info
from tests.conftest import REPOSITORY
from tests.unit.data.build import row, write_dataset, write_rows

SMALL = [
    f"--set=data.scenes.num_{split}={count}" for split, count in (("train", 40), ("val", 8), ("test", 8))
]


def megl(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megl_core.cli", "data", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_generate_pack_show(tmp_path: Path) -> None:
    generated = megl("generate", *SMALL, "--json", folder=tmp_path)
    assert generated.returncode == 0, generated.stderr
    report = json.loads(generated.stdout)
    assert (report["dataset"], report["num_images"]) == ("data/scenes", 40 + 8 + 3 * 8)
    packed = megl("pack", "data/scenes", "--json", folder=tmp_path)
    assert packed.returncode == 0, packed.stderr
    info = read_info(tmp_path / "runs/packed")
    assert json.loads(packed.stdout)["digest"] == info.digest
    shown = megl("show", "runs/packed", "--verify", "--json", folder=tmp_path)
    value = json.loads(shown.stdout)
    assert value["digest"] == info.digest
    assert value["splits"]["train"]["labels"] == {"boxy": 10, "crossed": 10, "pointed": 10, "round": 10}
    table = megl("show", "data/scenes", folder=tmp_path)
    assert info.digest in table.stdout
    assert "pointed" in table.stdout


def test_import_names_the_bad_rows_without_a_traceback(tmp_path: Path) -> None:
    rows = write_dataset(tmp_path / "s")
    write_rows(tmp_path / "s", [*rows, row(0, image="../../etc/passwd"), rows[1]])
    result = megl("import", "folder", "s", "d", folder=tmp_path)
    assert result.returncode == 3
    assert "annotations.jsonl line 7: unsafe path '../../etc/passwd'" in result.stderr
    assert "annotations.jsonl line 8: id 's1' occurs twice" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "d").exists()


def test_the_folder_one_stands_in_can_be_imported_into(tmp_path: Path) -> None:
    write_dataset(tmp_path / "s")
    (tmp_path / "here").mkdir()
    result = megl("import", "folder", tmp_path / "s", ".", folder=tmp_path / "here")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "s"]
    assert (tmp_path / "here/images/s0.png").is_file()


def test_a_manifest_from_before_an_edit_is_not_packed(tmp_path: Path) -> None:
    rows = write_dataset(tmp_path / "pets")
    write_manifest(scan(tmp_path / "pets", SplitConfig()), tmp_path / "m.parquet")
    write_rows(tmp_path / "pets", [*rows[:3], rows[3] | {"label": "cat"}, *rows[4:]])
    result = megl("pack", "pets", "p", "--manifest", "m.parquet", folder=tmp_path)
    assert result.returncode == 6
    assert "line 4 changed since the manifest was made" in result.stderr
    assert "fix:   validate the dataset again: megl data validate" in result.stderr
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
def test_validate_prints_its_verdict_and_keeps_the_manifest(tmp_path: Path) -> None:
    write_dataset(tmp_path / "pets", count=12)
    (tmp_path / "runs/validation").mkdir(parents=True)
    (tmp_path / "runs/validation/manifest.parquet").write_bytes(b"cut off")
    small = "--set=validation.image_side.min=8"  # the pictures are 12x10
    passed = megl("validate", "pets", "--json", small, folder=tmp_path)
    assert passed.returncode == 0, passed.stderr
    assert json.loads(passed.stdout)["passed"] is True
    told = megl("validate", "pets", small, "--set=validation.words_per_text.min=60", folder=tmp_path)
    assert "warning: words_per_text" in told.stdout
    assert read_manifest(tmp_path / "runs/validation/manifest.parquet").num_rows == 12
    (tmp_path / "pets/images/s7.png").write_bytes(b"")
    failed = megl("validate", "pets", "--json", small, folder=tmp_path)
    assert failed.returncode == 4
    assert json.loads(failed.stdout)["passed"] is False
    assert "s7 (line 8)" in failed.stderr


@pytest.mark.parametrize("verb", ["generate", "import", "validate", "pack", "show", "upload", "restore"])
def test_every_verb_has_an_example(tmp_path: Path, verb: str) -> None:
    result = megl(verb, "--help", folder=tmp_path)
    assert result.returncode == 0
    assert f"Example: megl data {verb}" in result.stdout


def test_the_help_names_every_importer(tmp_path: Path) -> None:
    text = megl("import", "--help", folder=tmp_path).stdout
    assert all(name in text for name in IMPORTERS)
