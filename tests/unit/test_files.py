"""Files: atomic writes through every kind of failure, digests, and paths that stay inside."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megl_core import files
from megl_core.errors import DataError, MeglError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- atomic files and folders ----------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    files.write_bytes(target, b"old")
    files.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["file"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "漢" * 85])
def test_a_name_may_be_as_long_as_the_file_system_lets_it(tmp_path: Path, name: str) -> None:
    files.write_bytes(tmp_path / name, b"new")
    with files.atomic_directory(tmp_path / "below" / name, marker="file") as temporary:
        (temporary / "file").write_bytes(b"")
    assert names(tmp_path) == sorted(["below", name])
    assert names(tmp_path / "below") == [name]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    files.write_bytes(target, b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(target) as temporary:
        write_and_interrupt(temporary)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with files.atomic_directory(target, marker="old") as temporary:
        (temporary / "old").write_bytes(b"1")
    with files.atomic_directory(target, marker="old") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "new").write_bytes(b"2")
    assert files.tree_digests(target) == {"sub/new": hashlib.sha256(b"2").hexdigest()}
    assert names(tmp_path) == ["folder"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with files.atomic_directory(target, marker="old") as temporary:
        (temporary / "old").write_bytes(b"1")
    with pytest.raises(KeyboardInterrupt), files.atomic_directory(target, marker="old") as temporary:
        write_and_interrupt(temporary / "new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def write_and_interrupt(path: Path) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from megl_core import files

target = Path(sys.argv[1])
folder = target.is_dir()
with files.atomic_directory(target, marker="old") if folder else files.atomic_file(target) as temporary:
    part = temporary / "part" if temporary.is_dir() else temporary
    part.write_bytes(b"x" * 100_000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_9_in_the_middle_leaves_the_old_content(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_bytes(b"old")
    else:
        target.mkdir()
        (target / "old").write_bytes(b"old")
    before = files.sha256_tree(target) if kind == "folder" else files.sha256_file(target)

    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)

    assert done.returncode == -signal.SIGKILL
    assert (files.sha256_tree(target) if kind == "folder" else files.sha256_file(target)) == before


def test_what_killed_processes_left_goes_with_the_next_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    left = [path for path in tmp_path.iterdir() if path != target]
    assert len(left) == 2
    for path in left:
        os.utime(path, (0, 0))
    with files.atomic_directory(target, marker="old") as slow:
        os.utime(slow.parent, (0, 0))  # it takes its time, and is alive
        with files.atomic_directory(target, marker="old") as temporary:
            (temporary / "old").write_bytes(b"new")
        (slow / "old").write_bytes(b"newer")
    assert (target / "old").read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_content(tiny_disk: Path) -> None:
    files.write_bytes(tiny_disk / "file", b"old")
    with files.atomic_directory(tiny_disk / "folder", marker="old") as temporary:
        (temporary / "old").write_bytes(b"old")

    with pytest.raises(MeglError, match="free some space") as caught:
        files.write_bytes(tiny_disk / "file", b"x" * 2_000_000)
    assert os.strerror(errno.ENOSPC) in caught.value.what
    assert str(tiny_disk / "file") == caught.value.where
    with (
        pytest.raises(MeglError, match="free some space"),
        files.atomic_directory(tiny_disk / "folder", marker="old") as new,
    ):
        (new / "big").write_bytes(b"x" * 2_000_000)

    assert (tiny_disk / "file").read_bytes() == b"old"
    assert names(tiny_disk / "folder") == ["old"]
    assert names(tiny_disk) == ["file", "folder"]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((MeglError, NotADirectoryError)):
        files.write_bytes(tmp_path / "file" / "below", b"")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_folder_in_the_place_of_a_file_is_a_clear_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MeglError, match="Is a directory"):
        files.write_bytes(tmp_path / "folder", b"")
    with pytest.raises(MeglError, match="is a folder"):
        files.refuse_folder(tmp_path / "folder")
    assert names(tmp_path) == ["folder"]


# --- JSON and digests ------------------------------------------------------------------------


def test_canonical_json_is_one_form_for_one_value() -> None:
    value = {"b": [1, 2.5, None, True], "a": "é\n"}
    assert files.canonical_json(value) == '{"a":"é\\n","b":[1,2.5,null,true]}'.encode()
    assert files.canonical_json({"a": 1, "b": 2}) == files.canonical_json({"b": 2, "a": 1})
    assert files.sha256_json({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.canonical_json({"a": number})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "file.json", {"a": number})
    assert names(tmp_path) == []


def test_json_files_are_readable_and_read_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"a": "é", "b": 1}


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_json_that_cannot_be_read_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")


def test_digests_are_those_of_the_bytes_and_the_names(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_file(tmp_path / "tree" / "a") == abc
    assert files.tree_digests(tmp_path / "tree") == {"a": abc}
    assert files.sha256_tree(tmp_path / "tree") == hashlib.sha256(f'{{"a":"{abc}"}}'.encode()).hexdigest()
    before = files.sha256_tree(tmp_path / "tree")
    (tmp_path / "tree" / "a").rename(tmp_path / "tree" / "b")
    assert files.sha256_tree(tmp_path / "tree") != before


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    with pytest.raises(DataError, match=r"'caf\\udce9.png' is not UTF-8"):
        files.sha256_tree(tmp_path)


# --- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "relative", ["a.png", "images/a.png", "images/./a.png", "..a/b", "images/not-there.png"]
)
def test_paths_inside_are_resolved(tmp_path: Path, relative: str) -> None:
    assert files.resolve_inside(tmp_path, relative) == (tmp_path / relative).resolve()


@pytest.mark.parametrize(
    "relative",
    ["", "/etc/passwd", "//etc/passwd", "..", "../../etc/passwd", "images/../../secret", "a/..", "a\x00b"],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(DataError, match="unsafe path"):
        files.resolve_inside(tmp_path, relative)


def test_symlinks_may_stay_inside_but_not_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "images" / "a.png").write_bytes(b"a")
    (root / "alias.png").symlink_to("images/a.png")
    (root / "file.png").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "rootlike").symlink_to(tmp_path / "root-of-another")
    (tmp_path / "root-of-another").mkdir()

    assert files.resolve_inside(root, "alias.png") == (root / "images" / "a.png").resolve()
    for relative in ("file.png", "folder/secret", "rootlike/x"):
        with pytest.raises(DataError, match="unsafe path"):
            files.resolve_inside(root, relative)


def test_symlinks_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    with pytest.raises(DataError, match="lead in a circle"):
        files.resolve_inside(tmp_path, "a.png")


def test_the_root_itself_may_be_reached_through_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert files.resolve_inside(tmp_path / "link", "a.png") == (tmp_path / "real" / "a.png").resolve()


# --- the moment of replacing a folder ---------------------------------------------------------


def fill(folder: Path, text: str) -> None:
    with files.atomic_directory(folder, marker="file") as temporary:
        (temporary / "file").write_text(text)


def test_a_folder_is_replaced_in_one_step_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "target", "old")
    monkeypatch.setattr(files, "_swap", lambda new, path: pytest.fail("two steps"))
    fill(tmp_path / "target", "new")
    assert (tmp_path / "target" / "file").read_text() == "new"
    assert names(tmp_path) == ["target"]


def test_an_interrupted_swap_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system cannot exchange two names, Ctrl-C may fall between the two renames."""
    fill(tmp_path / "target", "old")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if target == tmp_path / "target" and (self / "file").read_text() == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "target", "new")
    assert (tmp_path / "target" / "file").read_text() == "old"
    assert names(tmp_path) == ["target"]


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="server"), files.atomic_file(tmp_path / "x"):
        raise ConnectionError("server down")
    assert names(tmp_path) == []


def test_nobodys_own_files_are_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    fill(precious, "an empty folder may be filled")
    fill(precious, "and one of ours replaced")
    (precious / "file").rename(precious / "thesis.txt")
    with pytest.raises(MeglError, match="holds something else"):
        fill(precious, "new")
    (tmp_path / "plain").write_text("thesis")
    with pytest.raises(MeglError, match="holds something else"):
        fill(tmp_path / "plain", "new")
    assert names(tmp_path) == ["plain", "precious"]
    assert names(precious) == ["thesis.txt"]


def test_a_link_stays_and_the_folder_behind_it_is_replaced(tmp_path: Path) -> None:
    link, folder = tmp_path / "link", tmp_path / "disk" / "folder"
    link.symlink_to(folder)
    for text in ("made", "replaced"):
        fill(link, text)
        assert link.readlink() == folder
        assert (folder / "file").read_text() == text
    with pytest.raises(KeyboardInterrupt), files.atomic_directory(link, marker="file") as temporary:
        write_and_interrupt(temporary / "file")
    assert (folder / "file").read_text() == "replaced"
    assert (names(tmp_path), names(folder.parent), names(folder)) == (["disk", "link"], ["folder"], ["file"])


def test_a_link_that_leads_in_a_circle_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(MeglError, match="leads in a circle"):
        fill(tmp_path / "circle", "new")
    assert names(tmp_path) == ["circle"]


def test_the_folder_one_stands_in_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill(Path(), "new")
    assert (tmp_path / "here" / "file").read_text() == "new"
