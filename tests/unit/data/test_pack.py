import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from megl_core.config import PackConfig, SplitConfig
from megl_core.data.manifest import SCHEMA, read_manifest, root_digest, scan, write_manifest
from megl_core.data.pack import pack
from megl_core.data.packed import PackedDataset, PackInfo, read_info, verify, verify_index
from megl_core.errors import DataError, IntegrityError, MeglError
from tests.conftest import shared_data
from tests.unit.data.build import Silent, box_mask, encode, noise, row, tree, write_dataset, write_rows


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """s0..s3 train, s4 val, s5 test; s2 has a group and a free column. File order: s5 first."""
    root = tmp_path / "dataset"
    rows = write_dataset(root)
    splits = ["train", "train", "train", "train", "val", "test"]
    rows = [sample | {"split": split} for sample, split in zip(rows, splits, strict=True)]
    rows[2] |= {"group": "g", "polar": 22}
    write_rows(root, rows[::-1])
    return root


def packed(root: Path, output: Path, labels: list[str] | None = None, shard_mb: int = 1) -> PackInfo:
    manifest = output.parent / "manifest.parquet"
    write_manifest(scan(root, SplitConfig(), Silent()), manifest)
    return pack(root, manifest, output, PackConfig(shard_mb=shard_mb), labels, Silent())


def test_rows_come_back_in_the_order_of_their_ids(dataset: Path, tmp_path: Path) -> None:
    packed(dataset, tmp_path / "p")
    data = PackedDataset(tmp_path / "p", "train")
    assert [data[index].id for index in range(len(data))] == ["s0", "s1", "s2", "s3"]
    assert [data[index].label for index in range(4)] == [0, 1, 0, 1]
    assert data.annotated.tolist() == [True, True, False, False]
    first, third, fourth = data[0], data[2], data[3]
    assert first.image == encode(noise(0))
    assert first.mask == encode(box_mask())
    assert first.explanations == ("Sample 0 has ears.",)
    assert (first.group, first.extra, third.mask) == (None, {}, None)
    assert (third.group, third.extra, third.label) == ("g", {"polar": 22}, 0)
    assert fourth.explanations == ()
    with pytest.raises(IndexError):
        data[4]


def test_the_folder_describes_itself(dataset: Path, tmp_path: Path) -> None:
    info = packed(dataset, tmp_path / "p")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert info == PackInfo(root_digest(manifest), ["cat", "dog"], {"test": 1, "train": 4, "val": 1})
    assert read_info(tmp_path / "p") == info
    assert tree(tmp_path / "p") == {
        "dataset.json",
        "manifest.parquet",
        "test-00000.arrow",
        "test.index.arrow",
        "train-00000.arrow",
        "train.index.arrow",
        "val-00000.arrow",
        "val.index.arrow",
    }
    description = json.loads((tmp_path / "p/dataset.json").read_text())
    assert description["splits"]["train"] == {
        "rows": 4,
        "annotated": 2,
        "with_text": 3,
        "shards": ["train-00000.arrow"],
    }
    assert read_manifest(tmp_path / "p/manifest.parquet").equals(manifest)


def test_the_datasets_library_opens_a_shard(dataset: Path, tmp_path: Path) -> None:
    packed(dataset, tmp_path / "p")
    opened = datasets.Dataset.from_file(str(tmp_path / "p/train-00000.arrow"))
    assert opened.features["label"].names == ["cat", "dog"]
    first = opened[0]
    assert np.array_equal(np.asarray(first["image"]), noise(0))
    assert np.array_equal(np.asarray(first["mask"]), box_mask())
    assert first["explanations"] == ["Sample 0 has ears."]
    assert opened[2]["mask"] is None
    assert json.loads(opened[2]["extra"]) == {"polar": 22}


def test_the_same_content_is_the_same_shard_bytes(dataset: Path, tmp_path: Path) -> None:
    first = packed(dataset, tmp_path / "p")
    rows = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
    (dataset / "images/s0.png").rename(dataset / "images/renamed.png")
    next(sample for sample in rows if sample["id"] == "s0")["image"] = "images/renamed.png"
    write_rows(dataset, rows[::-1])
    assert packed(dataset, tmp_path / "q") == first
    for name in tree(tmp_path / "p") - {"manifest.parquet"}:
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes()


def test_large_splits_become_several_shards(tmp_path: Path) -> None:
    """Eight images of 192 kB are more than one shard of 1 MB."""
    root = tmp_path / "dataset"
    write_dataset(root, count=8)
    for number in range(8):
        (root / f"images/s{number}.png").write_bytes(encode(noise(number, 256, 256), "BMP"))
    write_rows(root, [row(number, mask=None, split="train") for number in range(8)])
    packed(root, tmp_path / "p")
    assert {"train-00000.arrow", "train-00001.arrow"} <= tree(tmp_path / "p")
    assert verify(tmp_path / "p").splits == {"train": 8}
    data = PackedDataset(tmp_path / "p", "train")
    assert set(data.shard_numbers.tolist()) == {0, 1}
    for number in range(8):
        assert data[number].id == f"s{number}"
        assert data[number].image == encode(noise(number, 256, 256), "BMP")


def test_labels_have_the_given_order(dataset: Path, tmp_path: Path) -> None:
    packed(dataset, tmp_path / "p", labels=["eel", "dog", "cat"])
    data = PackedDataset(tmp_path / "p", "train")
    assert [data[index].label for index in range(len(data))] == [2, 1, 2, 1]


def test_declared_labels_come_before_those_of_the_rows(dataset: Path, tmp_path: Path) -> None:
    (dataset / "dataset.json").write_text('{"labels": ["dog", "cat"]}')
    assert packed(dataset, tmp_path / "p").labels == ["dog", "cat"]


def test_an_undeclared_label_names_its_row(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        packed(dataset, tmp_path / "p", labels=["cat"])
    assert caught.value.problems[0] == "row 's5' (line 1): label 'dog' is not one of cat"
    assert len(caught.value.problems) == 3
    assert tree(tmp_path / "p") == set()
    assert not (tmp_path / "p").exists()


def test_a_label_that_never_trains_is_undeclared(dataset: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
    write_rows(dataset, [rows[0] | {"label": "eel"}, *rows[1:]])
    with pytest.raises(DataError, match="'eel' is not one of cat, dog"):
        packed(dataset, tmp_path / "p")


def test_a_set_without_training_rows_is_told_once(dataset: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
    write_rows(dataset, [{**sample, "split": "training"} for sample in rows])
    with pytest.raises(DataError, match="the splits are training") as caught:
        packed(dataset, tmp_path / "p")
    assert caught.value.problems == ()
    assert caught.value.where == str(dataset / "annotations.jsonl")
    assert packed(dataset, tmp_path / "p", labels=["cat", "dog"]).splits == {"training": 6}


def test_packed_data_are_replaced_and_reports_are_not(dataset: Path, tmp_path: Path) -> None:
    packed(dataset, tmp_path / "p")
    packed(dataset, tmp_path / "p")
    reports = tmp_path / "validation"
    reports.mkdir()
    write_manifest(scan(dataset, SplitConfig(), Silent()), reports / "manifest.parquet")
    (reports / "validation.html").write_text("passed")
    with pytest.raises(MeglError, match="holds a manifest, but no packed data"):
        packed(dataset, reports)
    assert tree(reports) == {"manifest.parquet", "validation.html"}


def test_broken_images_are_not_packed(dataset: Path, tmp_path: Path) -> None:
    (dataset / "images/s5.png").write_bytes(encode(noise(5))[:100])
    (dataset / "masks/s1.png").unlink()
    with pytest.raises(DataError) as caught:
        packed(dataset, tmp_path / "p")
    assert [problem.split(": ")[:2] for problem in caught.value.problems] == [
        ["row 's5' (line 1)", "image"],
        ["row 's1' (line 5)", "mask"],
    ]


def test_what_the_contract_forbids_is_not_packed(dataset: Path, tmp_path: Path) -> None:
    (dataset / "masks/s0.png").write_bytes(encode(box_mask(width=6, height=5)))
    rows = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
    write_rows(dataset, [*rows, rows[2]])
    with pytest.raises(DataError) as caught:
        packed(dataset, tmp_path / "p")
    assert caught.value.problems == (
        "row 's0' (line 6): mask: 6 x 5 pixels, the image has 12 x 10",
        "row 's3' (line 7): the id stands in line 3 already",
    )
    assert caught.value.where == str(dataset / "annotations.jsonl")


@pytest.mark.parametrize("name", ["images/s0.png", "masks/s0.png"])
@pytest.mark.parametrize("change", ["flip", "remove", "link"])
def test_bytes_that_changed_since_the_scan_are_noticed(
    dataset: Path, tmp_path: Path, name: str, change: str
) -> None:
    manifest = tmp_path / "manifest.parquet"
    write_manifest(scan(dataset, SplitConfig(), Silent()), manifest)
    content = bytearray((dataset / name).read_bytes())
    (dataset / name).unlink()
    if change == "flip":
        content[-1] ^= 1
        (dataset / name).write_bytes(content)
    elif change == "link":
        (tmp_path / "outside.png").write_bytes(content)
        (dataset / name).symlink_to(tmp_path / "outside.png")
    before = tree(tmp_path)
    with pytest.raises(IntegrityError) as caught:
        pack(dataset, manifest, tmp_path / "p", PackConfig(), None, Silent())
    assert name in str(caught.value)
    assert tree(tmp_path) == before


def test_a_full_disk_leaves_nothing_half_packed(tmp_path: Path, small_disk: Path) -> None:
    root = tmp_path / "dataset"
    write_dataset(root, count=8)
    for number in range(8):
        (root / f"images/s{number}.png").write_bytes(encode(noise(number, 256, 256), "BMP"))
    write_rows(root, [row(number, mask=None) for number in range(8)])
    manifest = tmp_path / "manifest.parquet"
    write_manifest(scan(root, SplitConfig(), Silent()), manifest)
    with pytest.raises(MeglError, match="No space left on device") as caught:
        pack(root, manifest, small_disk / "p", PackConfig(), None, Silent())
    assert str(small_disk / "p") in str(caught.value)
    assert list(small_disk.iterdir()) == []


def test_an_edited_manifest_is_noticed(dataset: Path, tmp_path: Path) -> None:
    table = scan(dataset, SplitConfig(), Silent())
    rows = table.to_pylist()
    rows[0]["explanations"] = ["Another reason."]
    write_manifest(type(table).from_pylist(rows, schema=SCHEMA), tmp_path / "m.parquet")
    with pytest.raises(IntegrityError, match="row 's5'"):
        pack(dataset, tmp_path / "m.parquet", tmp_path / "p", PackConfig(), None, Silent())


def test_verify_computes_the_digest_from_the_shards(dataset: Path, tmp_path: Path) -> None:
    info = packed(dataset, tmp_path / "p")
    assert verify(tmp_path / "p") == info
    shard = tmp_path / "p/train-00000.arrow"
    content = shard.read_bytes()
    position = content.index(encode(noise(2))) + 60  # inside the pixels of s2
    changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
    shard.write_bytes(changed)
    with pytest.raises(IntegrityError, match="do not have the recorded digest"):
        verify(tmp_path / "p")


def test_an_image_that_changed_is_noticed_when_it_is_read(dataset: Path, tmp_path: Path) -> None:
    packed(dataset, tmp_path / "p")
    shard = tmp_path / "p/train-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[content.index(encode(noise(2))) + 60] ^= 1
    shard.write_bytes(content)
    data = PackedDataset(tmp_path / "p", "train")
    assert data[1].image == encode(noise(1))
    assert data.annotation(2).id == "s2"
    with pytest.raises(IntegrityError, match="the image of sample 's2' is not the one that was packed"):
        data.image(2)


def test_the_index_alone_has_the_root_digest(dataset: Path, tmp_path: Path) -> None:
    """An image is named there by its digest, so that only its absence and its change are left to find."""
    info = packed(dataset, tmp_path / "p")
    for shard in (tmp_path / "p").glob("*-0*.arrow"):
        shard.unlink()
    assert verify_index(tmp_path / "p") == info


@pytest.mark.parametrize("old", ["Sample 0 has ears.", hashlib.sha256(encode(noise(1))).hexdigest()])
def test_an_edited_index_is_noticed(dataset: Path, tmp_path: Path, old: str) -> None:
    packed(dataset, tmp_path / "p")
    index = tmp_path / "p/train.index.arrow"
    content = index.read_bytes()
    assert content.count(old.encode()) == 1
    index.write_bytes(content.replace(old.encode(), old[::-1].encode()))
    for check in (verify, verify_index):
        with pytest.raises(IntegrityError, match="the index does not have the recorded digest"):
            check(tmp_path / "p")


@pytest.mark.parametrize("change", [8, 1 << 40, -(1 << 40)])
def test_an_index_that_points_elsewhere_is_noticed(dataset: Path, tmp_path: Path, change: int) -> None:
    """What it says of the images' places is in no digest, but has to fit the shards."""
    packed(dataset, tmp_path / "p")
    data = PackedDataset(tmp_path / "p", "train")
    index = tmp_path / "p/train.index.arrow"
    (_, place, _), content = list(data.places())[1], index.read_bytes()
    index.write_bytes(
        content.replace(place.to_bytes(8, "little"), (place + change).to_bytes(8, "little", signed=True))
    )
    with pytest.raises(IntegrityError, match="does not say where the image of sample 's1' lies"):
        verify(tmp_path / "p")
    with pytest.raises(IntegrityError, match="the image of sample 's1' is not the one"):
        PackedDataset(tmp_path / "p", "train").image(1)


@pytest.mark.parametrize("damage", ["cut", "absent"])
@pytest.mark.parametrize("name", ["train-00000.arrow", "train.index.arrow"])
def test_a_damaged_file_is_an_integrity_error(dataset: Path, tmp_path: Path, name: str, damage: str) -> None:
    packed(dataset, tmp_path / "p")
    file = tmp_path / "p" / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=f"{name} cannot be read"):
        verify(tmp_path / "p")
    with pytest.raises(IntegrityError):
        PackedDataset(tmp_path / "p", "train").image(3)


def test_what_is_not_there_is_named(dataset: Path, tmp_path: Path) -> None:
    packed(dataset, tmp_path / "p")
    with pytest.raises(DataError, match="test, train, val"):
        PackedDataset(tmp_path / "p", "ood")
    (dataset / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="not a packed dataset"):
        read_info(dataset)
    for path in (tmp_path / "absent", dataset / "annotations.jsonl"):
        with pytest.raises(DataError, match="no packed data here") as caught:
            read_info(path)
        assert "megl data pack" in str(caught.value.fix)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eth80_scenes", "magnetic_tile", "ucm_captions"])
def test_real_sets_are_packed_and_verified(tmp_path: Path, name: str) -> None:
    info = packed(shared_data(name), tmp_path / "p", shard_mb=8)
    assert verify(tmp_path / "p") == info
    assert sum(info.splits.values()) == pq.read_metadata(tmp_path / "p/manifest.parquet").num_rows
    assert "train-00001.arrow" in tree(tmp_path / "p")
