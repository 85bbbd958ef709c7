import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from megl_core.config import SplitConfig
from megl_core.data.manifest import (
    SCHEMA,
    read_manifest,
    require_current,
    root_digest,
    scan,
    write_manifest,
)
from megl_core.errors import DataError, IntegrityError
from tests.conftest import shared_data
from tests.unit.data.build import Silent, bomb, box_mask, encode, noise, row, write_dataset, write_rows


def scanned(root: Path, known: Path | None = None) -> pa.Table:
    return scan(root, SplitConfig(val=0.0, test=0.5), Silent(), known)


def by_id(root: Path) -> dict[str, dict[str, object]]:
    return {item["id"]: item for item in scanned(root).to_pylist()}


def test_a_row_holds_what_was_measured(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    table = scanned(tmp_path)
    assert table.schema.equals(SCHEMA)
    first = table.to_pylist()[0]
    image, mask = encode(noise(0)), encode(box_mask())
    text = '["Sample 0 has ears."]'
    assert first["image_sha256"] == hashlib.sha256(image).hexdigest()
    assert first["mask_sha256"] == hashlib.sha256(mask).hexdigest()
    assert first["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (first["image_bytes"], first["width"], first["height"]) == (len(image), 12, 10)
    assert (first["mask_width"], first["mask_height"], first["mask_area"]) == (12, 10, 0.1)
    digested = {
        "id": "s0",
        "label": "cat",
        "split": first["split"],
        "group": None,
        "image_sha256": first["image_sha256"],
        "mask_sha256": first["mask_sha256"],
        "explanations": ["Sample 0 has ears."],
        "extra": "{}",
    }
    canonical = json.dumps(digested, sort_keys=True, separators=(",", ":")).encode()
    assert first["row_sha256"] == hashlib.sha256(canonical).hexdigest()


def test_rows_keep_file_order_and_line_numbers(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=40)
    table = scanned(tmp_path)
    assert table["id"].to_pylist() == [f"s{number}" for number in range(40)]
    assert table["line"].to_pylist() == list(range(1, 41))
    assert table["text_sha256"].null_count == 1  # s3 has no text
    assert table["mask"].null_count == 38


def test_broken_files_are_recorded_not_raised(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "images/s0.png").write_bytes(encode(noise(0, 64, 64), "JPEG")[:700])
    (tmp_path / "images/s1.png").write_bytes(bomb())
    (tmp_path / "images/s2.png").write_bytes(b"")
    (tmp_path / "images/s3.png").unlink()
    (tmp_path / "masks/s1.png").write_bytes(b"junk")
    rows = by_id(tmp_path)
    assert "truncated" in str(rows["s0"]["image_error"])
    assert "too many pixels" in str(rows["s1"]["image_error"])
    assert "empty" in str(rows["s2"]["image_error"])
    assert "no such file" in str(rows["s3"]["image_error"])
    assert rows["s3"]["image_sha256"] is None
    assert "not an image" in str(rows["s1"]["mask_error"])
    assert rows["s0"]["width"] is None
    assert rows["s0"]["image_sha256"] is not None
    assert rows["s4"]["image_error"] is None


def test_a_mask_of_another_size_is_recorded(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "masks/s0.png").write_bytes(encode(box_mask(width=6, height=5)))
    first = by_id(tmp_path)["s0"]
    assert (first["mask_width"], first["mask_height"], first["mask_error"]) == (6, 5, None)
    assert first["mask_area"] == 12 / 30


def test_duplicate_ids_stay_in(tmp_path: Path) -> None:
    rows = write_dataset(tmp_path)
    write_rows(tmp_path, [*rows, rows[0]])
    assert scanned(tmp_path)["id"].to_pylist().count("s0") == 2


def test_rows_that_cannot_be_represented_are_raised_together(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "images/link.png").symlink_to("/etc/passwd")
    (tmp_path / "images/circle.png").symlink_to("circle.png")
    lines = [
        json.dumps(row(0)).encode(),
        b'{"id": "\xff"}',
        json.dumps(row(1, image="../../etc/passwd")).encode(),
        json.dumps(row(2, image="images/link.png")).encode(),
        json.dumps(row(3, mask="/etc/passwd")).encode(),
        json.dumps(row(4, image="images/circle.png")).encode(),
        b"",
    ]
    (tmp_path / "annotations.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="5 bad rows") as caught:
        scanned(tmp_path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        f"annotations.jsonl line {line}" for line in (2, 3, 4, 5, 6)
    ]
    assert "'../../etc/passwd'" in caught.value.problems[1]
    assert "leads out" in caught.value.problems[2]


def test_the_digest_knows_content_not_names_or_order(tmp_path: Path) -> None:
    rows = write_dataset(tmp_path / "a")
    digest = root_digest(scanned(tmp_path / "a"))
    write_dataset(tmp_path / "b")
    for number, sample in enumerate(rows):
        renamed = f"images/picture-{number}.PNG"
        (tmp_path / "b" / sample["image"]).rename(tmp_path / "b" / renamed)
        sample["image"] = renamed
    write_rows(tmp_path / "b", rows[::-1])
    assert root_digest(scanned(tmp_path / "b")) == digest


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_one_flipped_bit_is_another_digest(tmp_path: Path, folder: str) -> None:
    write_dataset(tmp_path)
    digest = root_digest(scanned(tmp_path))
    path = tmp_path / folder / "s1.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert root_digest(scanned(tmp_path)) != digest


@pytest.mark.parametrize(
    "change",
    [
        {"label": "dog"},
        {"explanations": ["No ears."]},
        {"group": "g"},
        {"mask": None},
        {"free": 1},
        {"id": "z"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_row_says_is_in_the_digest(tmp_path: Path, change: dict[str, object]) -> None:
    rows = write_dataset(tmp_path)
    digest = root_digest(scanned(tmp_path))
    write_rows(tmp_path, [{**rows[0], **change}, *rows[1:]])
    assert root_digest(scanned(tmp_path)) != digest


def test_known_bytes_are_not_decoded_again(tmp_path: Path) -> None:
    """The earlier manifest claims another width for s0's bytes; the new scan believes it."""
    write_dataset(tmp_path / "data")
    table = scanned(tmp_path / "data")
    claimed = pa.array([77, *table["width"].to_pylist()[1:]], pa.int32())
    position = SCHEMA.get_field_index("width")
    write_manifest(table.set_column(position, SCHEMA.field("width"), claimed), tmp_path / "known.parquet")
    (tmp_path / "data/images/s1.png").write_bytes(encode(noise(99, width=5)))
    again = scanned(tmp_path / "data", known=tmp_path / "known.parquet")
    assert again["width"].to_pylist() == [77, 5, 12, 12, 12, 12]


@pytest.mark.parametrize("known", ["absent", "broken", "older version", "other code", "code not told"])
def test_measures_of_anything_else_are_taken_again(tmp_path: Path, known: str) -> None:
    write_dataset(tmp_path / "data")
    table, path = scanned(tmp_path / "data"), tmp_path / "known.parquet"
    claimed = table.set_column(
        SCHEMA.get_field_index("width"), SCHEMA.field("width"), pa.array([77] * 6, pa.int32())
    )
    if known == "broken":
        path.write_bytes(b"PAR1")
    elif known == "older version":
        write_manifest(claimed.drop_columns("mask_area"), path)
    elif known != "absent":
        metadata = {"measured_by": "0" * 64} if known == "other code" else None
        write_manifest(claimed.replace_schema_metadata(metadata), path)
    assert scanned(tmp_path / "data", known=path).equals(table)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    table = scanned(tmp_path / "data")
    write_manifest(table, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").equals(table)
    assert read_manifest(tmp_path / "m.parquet", ["id", "split"]).column_names == ["id", "split"]


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not a readable manifest"):
        read_manifest(tmp_path / "text.parquet")
    write_manifest(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="not a manifest of this version"):
        read_manifest(tmp_path / "other.parquet")


CHANGES = {
    "label": {"label": "dog"},
    "text": {"explanations": ["No ears."]},
    "declared split": {"split": "ood"},
    "mask": {"mask": None},
    "another image": {"image": "images/s4.png"},
    "free column": {"free": 1},
    "no sample": {"label": ""},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_annotations_that_changed_since_the_scan_are_noticed(
    tmp_path: Path, change: dict[str, object]
) -> None:
    rows = write_dataset(tmp_path)
    table = scanned(tmp_path)
    require_current(table, tmp_path)
    write_rows(tmp_path, [rows[0] | change, *rows[1:]])
    with pytest.raises(IntegrityError, match="line 1 changed since"):
        require_current(table, tmp_path)


@pytest.mark.parametrize("count", [5, 7])
def test_rows_that_are_new_or_gone_since_the_scan_are_noticed(tmp_path: Path, count: int) -> None:
    rows = write_dataset(tmp_path)
    table = scanned(tmp_path)
    write_rows(tmp_path, [*rows, row(6)][:count])
    with pytest.raises(IntegrityError, match=f"line {max(count, 6)} changed since"):
        require_current(table, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows", "masks"),
    [("eth80_scenes", 3280, 3280), ("magnetic_tile", 1344, 388), ("ucm_captions", 1890, 0)],
)
def test_real_sets_scan_without_an_error(name: str, rows: int, masks: int) -> None:
    table = scan(shared_data(name), SplitConfig(), Silent())
    assert table.num_rows == rows
    assert rows - table["mask"].null_count == masks
    assert table["image_error"].null_count == table["mask_error"].null_count == rows
    assert len(set(table["id"].to_pylist())) == rows


@pytest.mark.slow
def test_real_groups_do_not_leak() -> None:
    """magnetic_tile declares no split; the same tile was photographed up to six times."""
    table = scan(shared_data("magnetic_tile"), SplitConfig(), Silent()).select(["group", "split", "label"])
    splits: dict[str, set[str]] = {}
    for item in table.to_pylist():
        splits.setdefault(item["group"], set()).add(item["split"])
    assert all(len(found) == 1 for found in splits.values())
    for label in set(table["label"].to_pylist()):
        present = {item["split"] for item in table.to_pylist() if item["label"] == label}
        assert present == {"train", "val", "test"}
