"""`megl explain`: image files in, panels out."""

import json
import subprocess
import sys

import pytest

from megl_core.errors import ConfigError, DataError
from megl_core.explain.many import explain_files
from tests.unit.explain.conftest import LABELS


def test_files_become_panels_with_names_of_their_own(model_folder, picture, tmp_path):
    paths = [tmp_path / "a" / "one.png", tmp_path / "b" / "one.jpg", tmp_path / "b" / "one-2.png"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)
    results = explain_files(model_folder, paths, tmp_path / "out")
    names = [result["panel"].rsplit("/", 1)[1] for result in results]
    assert len(set(names)) == 3
    assert names[:2] == ["one.png", "one-2.png"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    assert [result["image"] for result in results] == [str(path) for path in paths]
    json.dumps(results)


def test_no_panel_replaces_an_image(model_folder, picture, tmp_path):
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for number, path in enumerate(paths):
        picture(number).save(path)
    before = [path.read_bytes() for path in paths]
    (tmp_path / "link").symlink_to(tmp_path)
    results = explain_files(model_folder, paths, tmp_path / "link")
    assert [path.read_bytes() for path in paths] == before
    assert [result["panel"].rsplit("/", 1)[1] for result in results] == ["one-2.png", "two-2.png"]


def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder(model_folder, picture, tmp_path):
    picture(0).save(tmp_path / "one.png")
    with pytest.raises(DataError, match=r"is a folder(.|\n)*/\*\.jpg"):
        explain_files(model_folder, [tmp_path], tmp_path / "out")
    with pytest.raises(ConfigError, match="--output names a folder"):
        explain_files(model_folder, [tmp_path / "one.png"], tmp_path / "one.png")


def test_all_bad_files_are_named_and_nothing_is_written(model_folder, picture, tmp_path):
    picture(0).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [tmp_path / name for name in ("good.png", "text.png", "cut.png", "absent.png")]
    with pytest.raises(DataError) as caught:
        explain_files(model_folder, paths, tmp_path / "out")
    assert len(caught.value.problems) == 3
    for name in ("text.png", "cut.png", "absent.png"):
        assert any(str(tmp_path / name) in problem for problem in caught.value.problems)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_line(model_folder, picture, tmp_path):
    picture(0).save(tmp_path / "one.png")
    (tmp_path / "bad.png").write_text("no picture")

    def megl(*arguments):
        command = [sys.executable, "-m", "megl_core.cli", "explain", *arguments, "--model", str(model_folder)]
        return subprocess.run(
            [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False
        )

    good = megl(str(tmp_path / "one.png"), "--json")
    assert good.returncode == 0, good.stderr
    (result,) = json.loads(good.stdout)
    assert result["label"] in LABELS
    assert (tmp_path / "out" / "one.png").is_file()
    bad = megl(str(tmp_path / "bad.png"))
    assert bad.returncode == 3
    assert "bad.png" in bad.stderr
    assert "Traceback" not in bad.stderr
