"""What every importer owes: all rows or none, safe paths, one file for each id."""

import json
import os
from pathlib import Path

import pytest

from megl_core.config import DataConfig, StorageConfig
from megl_core.data.contract import Sample, read_annotations
from megl_core.data.importers import IMPORTERS, import_dataset
from megl_core.data.sources import find_source
from megl_core.errors import ConfigError, DataError, MeglError
from tests.unit.data.build import Silent, bomb, encode, noise, row, tree, write_dataset, write_rows


def run(source: Path, target: Path, **settings: object) -> None:
    import_dataset("folder", source, target, DataConfig(name="pets", **settings), Silent())


def test_a_folder_is_copied_byte_for_byte(tmp_path: Path) -> None:
    rows = write_dataset(tmp_path / "s")
    (tmp_path / "s/images/s2.png").write_bytes(bomb())  # decoding is validation's business
    run(tmp_path / "s", tmp_path / "d")
    assert tree(tmp_path / "d") == tree(tmp_path / "s") | {"dataset.json"}
    assert [json.loads(line) for line in (tmp_path / "d/annotations.jsonl").read_text().splitlines()] == rows
    for name in tree(tmp_path / "s") - {"images", "masks", "annotations.jsonl"}:
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "s" / name).read_bytes()
    assert json.loads((tmp_path / "d/dataset.json").read_text()) == {
        "name": "pets",
        "labels": None,
        "importer": "folder",
        "source": str(tmp_path / "s"),
    }


def test_the_configuration_declares_the_labels(tmp_path: Path) -> None:
    write_dataset(tmp_path / "s")
    run(tmp_path / "s", tmp_path / "d", labels=["dog", "cat"])
    assert json.loads((tmp_path / "d/dataset.json").read_text())["labels"] == ["dog", "cat"]


def test_every_bad_row_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / "s")
    (tmp_path / "outside.png").write_bytes(encode(noise(1)))
    (tmp_path / "s/images/link.png").symlink_to(tmp_path / "outside.png")
    lines = [
        json.dumps(row(0)).encode(),
        json.dumps(row(1, image="../../etc/passwd")).encode(),
        json.dumps(row(2, image="images/link.png")).encode(),
        b'{"id": "\xff"}',
        json.dumps(row(3, image="images/absent.png")).encode(),
        json.dumps(row(0)).encode(),
        json.dumps(row(4, mask="images")).encode(),
        json.dumps(row(5, image="images/" + "x" * 300)).encode(),
    ]
    (tmp_path / "s/annotations.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="7 rows cannot be imported; nothing was written") as caught:
        run(tmp_path / "s", tmp_path / "d")
    problems = caught.value.problems
    assert [problem.split(":")[0] for problem in problems] == [
        f"annotations.jsonl line {line}" for line in (2, 3, 4, 5, 6, 7, 8)
    ]
    assert "must be relative and stay in its folder" in problems[0]
    assert "leads out" in problems[1]
    assert "not valid UTF-8" in problems[2]
    assert "no file 'images/absent.png'" in problems[3]
    assert "id 's0' occurs twice, first in annotations.jsonl line 1" in problems[4]
    assert "no file 'images'" in problems[5]
    assert "cannot be read: File name too long" in problems[6]
    assert {path.name for path in tmp_path.iterdir()} == {"s", "outside.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "s")
    (tmp_path / "s/images/s3.png").chmod(0)
    with pytest.raises(DataError, match="1 row cannot be imported") as caught:
        run(tmp_path / "s", tmp_path / "d")
    assert "line 4: 'images/s3.png' cannot be read: Permission denied" in caught.value.problems[0]
    with pytest.raises(DataError, match="a file of the source cannot be read") as caught:
        find_source(DataConfig(importer="folder", source=str(tmp_path / "s")), StorageConfig())
    assert caught.value.where == str(tmp_path / "s/images/s3.png")


def test_a_failed_import_leaves_the_old_dataset(tmp_path: Path) -> None:
    rows = write_dataset(tmp_path / "s")
    run(tmp_path / "s", tmp_path / "d")
    before = tree(tmp_path / "d")
    write_rows(tmp_path / "s", [*rows, row(9)])
    with pytest.raises(DataError):
        run(tmp_path / "s", tmp_path / "d")
    assert tree(tmp_path / "d") == before


def test_a_thousand_problems_are_enough(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    write_rows(tmp_path / "s", [row(number) for number in range(1200)])
    with pytest.raises(DataError, match="1200 rows") as caught:
        run(tmp_path / "s", tmp_path / "d")
    assert len(caught.value.problems) == 1000


def test_two_ids_never_share_a_file(tmp_path: Path) -> None:
    identifiers = [
        "a/b",
        "a_b",
        "a b",
        "A_B",
        "../up",
        ".hidden",
        "-dash",
        "é",
        "x" * 300,
        "x" * 301,
        "nul\u0000",
    ]
    write_dataset(tmp_path / "s")
    images = [f"images/s{number % 6}.png" for number in range(len(identifiers))]
    rows = [row(7, id=name, image=image) for name, image in zip(identifiers, images, strict=True)]
    write_rows(tmp_path / "s", rows)
    run(tmp_path / "s", tmp_path / "d")
    written = [item for _, item in read_annotations(tmp_path / "d") if isinstance(item, Sample)]
    assert [sample.id for sample in written] == identifiers
    assert len({sample.image for sample in written}) == len(identifiers)
    for sample, image in zip(written, images, strict=True):
        assert (tmp_path / "d" / sample.image).parent == tmp_path / "d/images"
        assert (tmp_path / "d" / sample.image).read_bytes() == (tmp_path / "s" / image).read_bytes()


def test_an_unknown_suffix_is_not_carried_over(tmp_path: Path) -> None:
    write_dataset(tmp_path / "s")
    (tmp_path / "s/images/s0.png").rename(tmp_path / "s/images/s0.html")
    write_rows(tmp_path / "s", [row(0, image="images/s0.html")])
    run(tmp_path / "s", tmp_path / "d")
    assert (tmp_path / "d/images/s0.bin").is_file()


def test_wrong_calls_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no importer named 'zip'") as caught:
        import_dataset("zip", tmp_path, tmp_path / "d", DataConfig(), Silent())
    assert all(name in str(caught.value) for name in IMPORTERS)
    with pytest.raises(ConfigError, match="needs a source"):
        import_dataset("coco", None, tmp_path / "d", DataConfig(), Silent())
    with pytest.raises(DataError, match="no such source folder"):
        import_dataset("coco", tmp_path / "absent", tmp_path / "d", DataConfig(), Silent())


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, small_disk: Path) -> None:
    write_dataset(tmp_path / "s", count=12)
    for number in range(12):
        (tmp_path / f"s/images/s{number}.png").write_bytes(encode(noise(number, 256, 256)))  # 190 kB each
    with pytest.raises(MeglError, match="No space left on device") as caught:
        run(tmp_path / "s", small_disk / "d")
    assert str(small_disk / "d") in str(caught.value)
    assert list(small_disk.iterdir()) == []
