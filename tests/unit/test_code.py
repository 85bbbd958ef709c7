"""What counts as the same code."""

from pathlib import Path

import pytest

from megl_core.code import _version


def test_builds_of_one_version_are_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for build in ("cpu", "cu128"):
        folder = tmp_path / build / f"framework_of_{build}-2.13.0+{build}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: framework-of-{build}\nVersion: 2.13.0+{build}\n")
        monkeypatch.syspath_prepend(tmp_path / build)
        assert _version(f"framework-of-{build}") == "2.13.0"
    assert _version("no-such-package") is None
