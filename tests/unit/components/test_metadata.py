"""What components say of themselves is what they are."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.metadata import FOLDER, interface, read_metadata, steps
from megl_core.errors import ConfigError
from tests.conftest import REPOSITORY


def component(step: str) -> Any:
    return getattr(importlib.import_module(f"components.{step}.component"), step)


def test_every_folder_is_a_component_with_its_papers() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(steps()) == folders
    assert {"prerequisites", "ingest", "train", "promote", "notify"} <= folders
    for step in steps():
        assert (FOLDER / step / "README.md").is_file(), step


@pytest.mark.parametrize("step", steps())
def test_metadata_names_the_components_own_inputs_and_outputs(step: str) -> None:
    metadata = read_metadata(step)
    assert metadata.name == step == component(step).python_func.__name__
    assert {"inputs": metadata.inputs, "outputs": metadata.outputs} == interface(component(step)), (
        "run python scripts/write_component_docs.py"
    )


@pytest.mark.parametrize("step", steps())
def test_no_component_asks_for_more_than_its_limit(step: str) -> None:
    resources = read_metadata(step).resources
    for quantity in (resources.cpu, resources.memory):
        assert 0 < _number(quantity.request) <= _number(quantity.limit)


def _number(quantity: str) -> float:
    factors = {"m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
    unit = quantity.lstrip("0123456789.")
    return float(quantity.removesuffix(unit)) * factors.get(unit, 1)


def test_readmes_are_fresh() -> None:
    script = [sys.executable, "scripts/write_component_docs.py", "--check"]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_step_or_a_wrong_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such parameter file"):
        read_metadata("nobody")
    (tmp_path / "pack").mkdir()
    text = (FOLDER / "pack" / "metadata.yaml").read_text().replace("cached:", "cashed:")
    (tmp_path / "pack" / "metadata.yaml").write_text(text)
    monkeypatch.setattr("components.metadata.FOLDER", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'cached'"):
        read_metadata("pack")
