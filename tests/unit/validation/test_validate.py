"""The whole step on real files: verdict, JSON, page, gate."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from megl_core.config import Bound, SplitConfig, ValidationConfig, parse
from megl_core.data.manifest import read_manifest, root_digest, scan, write_manifest
from megl_core.errors import ConfigError, DataError, GateError
from megl_core.validation import validate
from tests.unit.test_html import Page

Row = dict[str, Any]
EVIL = "<script>alert('x')</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound dataset of ten 40 x 30 JPEG images of noise with PNG masks."""
    root = tmp_path / "pots"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for number in range(10):
        # Blocks of noise, so that the perceptual hashes are far apart.
        coarse = generator.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 30)).save(root / f"images/{number}.jpg")
        mask = np.zeros((30, 40), dtype=bool)
        mask[10:20, 10:20] = True
        Image.fromarray(mask).save(root / f"masks/{number}.png")
        rows.append(
            {
                "id": f"pot{number}",
                "image": f"images/{number}.jpg",
                "label": "cup" if number % 2 else "jug",
                "mask": f"masks/{number}.png",
                "explanations": ["it has a long curved handle"],
                "split": "train" if number < 6 else "test",
            }
        )
    write_rows(root, rows)
    return root


def write_rows(root: Path, rows: list[Row]) -> None:
    (root / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(root: Path, edit: Callable[[list[Row]], None]) -> None:
    rows = [json.loads(line) for line in (root / "annotations.jsonl").read_text().splitlines()]
    edit(rows)
    write_rows(root, rows)


def write_labels(rows: list[Row], label: str) -> None:
    for row in rows:
        row["label"] = label


def measure(root: Path) -> Path:
    path = root.parent / "manifest.parquet"
    write_manifest(scan(root, SplitConfig()), path)
    return path


def page_of(output: Path) -> Page:
    return Page((output / "validation.html").read_text())


def test_a_sound_dataset_passes(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = measure(folder)
    result = validate(folder, manifest, ValidationConfig(), tmp_path / "out")

    assert result.passed
    assert {check.status for check in result.checks} == {"pass", "skip"}
    assert (result.num_rows, result.labels) == (10, ("cup", "jug"))
    assert result.digest == root_digest(read_manifest(manifest))
    written = json.loads((tmp_path / "out/validation.json").read_text())
    assert written == json.loads(json.dumps(result.to_json()))
    assert capfd.readouterr().out == ""


def test_the_same_input_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    manifest = measure(folder)
    for name in ("one", "two"):
        validate(folder, manifest, ValidationConfig(), tmp_path / name)
    for name in ("validation.json", "validation.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_failed_gate_names_check_rows_and_report(folder: Path, tmp_path: Path) -> None:
    (folder / "images/3.jpg").write_bytes((folder / "images/3.jpg").read_bytes()[:200])
    Image.fromarray(np.ones((20, 20), dtype=bool)).save(folder / "masks/4.png")
    output = tmp_path / "out"

    with pytest.raises(GateError) as caught:
        validate(folder, measure(folder), ValidationConfig(), output)

    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "validation failed: 2 of 16 checks" in message
    assert "images_decode: pot3 (line 4): images/3.jpg: broken or truncated" in message
    assert "mask_matches_image: pot4 (line 5)" in message
    assert str(output / "validation.html") in message
    written = json.loads((output / "validation.json").read_text())
    assert not written["passed"]
    statuses = {check["name"]: check["status"] for check in written["checks"]}
    assert (statuses["images_decode"], statuses["mask_area"], statuses["drift"]) == ("fail", "warn", "skip")


def test_a_failed_limit_without_rows_is_told_with_its_value(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="min_rows: observed 10, allowed at least 11\n"):
        validate(folder, measure(folder), ValidationConfig(min_rows=11), tmp_path / "out")


def test_a_warning_does_not_stop_the_pipeline(folder: Path, tmp_path: Path) -> None:
    (folder / "images/3.jpg").unlink()
    config = ValidationConfig(images_decode="warn")

    result = validate(folder, measure(folder), config, tmp_path / "out")

    assert result.passed
    assert [check.name for check in result.with_status("warn")] == ["images_decode"]
    page = page_of(tmp_path / "out")
    assert "images/3.jpg: no such file" in page.text
    assert [span["aria-label"] for span in page.all("span") if span.get("role") == "img"] == [
        "image pot3, label cup: no such file"
    ]


def test_the_page_shows_offenders_with_their_masks_and_needs_no_network(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 40), dtype=bool)).save(folder / "masks/0.png")
    change(folder, lambda rows: rows[9].update(image="images/2.jpg"))  # test row 10 now repeats train row 3
    config = ValidationConfig(exact_duplicates="warn")

    validate(folder, measure(folder), config, tmp_path / "out")

    page = page_of(tmp_path / "out")
    assert page.addresses == []
    assert page.all("script") == []
    alts = [image["alt"] for image in page.all("img")]
    assert alts == [
        "image pot0, label jug, marked pixels tinted and framed",
        *("image pot2, label jug", "image pot9, label cup"),  # exact_duplicates: row 3 with row 10
        *("image pot9, label cup", "image pot2, label jug"),
        *("image pot2, label jug", "image pot9, label cup"),  # label_conflicts: likewise
        *("image pot9, label cup", "image pot2, label jug"),
    ]
    for image in page.all("img"):
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert (image["width"], image["height"]) == ("80", "60")  # 40 x 30, enlarged twice
    anchors = {link["href"] for link in page.all("a")}
    assert anchors == {"#mask_area", "#exact_duplicates", "#label_conflicts"}
    assert anchors == {f"#{section['id']}" for section in page.all("section") if "id" in section}


def test_the_page_shows_the_distributions(folder: Path, tmp_path: Path) -> None:
    validate(folder, measure(folder), ValidationConfig(), tmp_path / "out")

    text = " ".join(page_of(tmp_path / "out").text.split())
    assert "train cup 3 50.0% jug 3 50.0%" in text
    assert "test cup 2 50.0% jug 2 50.0%" in text
    assert "1% – 5% 0 0.0% 5% – 10% 10 100.0% 10% – 20% 0 0.0%" in text  # 100 of 1200 pixels
    assert "3 – 6 0 0.0% 6 – 9 10 100.0% 9 – 12 0 0.0%" in text  # six words


def test_markup_in_the_data_is_shown_and_not_run(folder: Path, tmp_path: Path) -> None:
    def poison(rows: list[Row]) -> None:
        rows[0].update(id=EVIL, label=EVIL, explanations=[EVIL])

    change(folder, poison)
    config = ValidationConfig(labels_declared="warn")

    validate(folder, measure(folder), config, tmp_path / "out", labels=["cup", "jug"])

    page = page_of(tmp_path / "out")
    assert page.all("script") == []
    assert EVIL in page.text


def test_a_path_out_of_the_folder_is_not_read_for_the_report(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((folder / "masks/0.png").read_bytes())
    manifest = measure(folder)
    table = read_manifest(manifest)
    images = ["../secret.png", *table["image"].to_pylist()[1:]]
    index = table.schema.get_field_index("image")
    table = table.set_column(index, table.schema.field("image"), [images])
    write_manifest(table, manifest)

    validate(folder, manifest, ValidationConfig(labels_declared="warn"), tmp_path / "out", labels=["cup"])

    page = page_of(tmp_path / "out")
    assert "unsafe path '../secret.png'" in page.text
    assert "image pot0, label jug" not in [image["alt"] for image in page.all("img")]


def test_declared_labels_come_from_argument_then_dataset_json_then_training_rows(
    folder: Path, tmp_path: Path
) -> None:
    manifest = measure(folder)

    def labels_of(labels: list[str] | None = None) -> tuple[str, ...]:
        config = ValidationConfig(labels_declared="off")
        return validate(folder, manifest, config, tmp_path / "out", labels=labels).labels

    assert labels_of() == ("cup", "jug")
    (folder / "dataset.json").write_text('{"labels": ["jug", "cup", "vase"]}')
    assert labels_of() == ("jug", "cup", "vase")
    assert labels_of(["jug"]) == ("jug",)


def test_drift_against_an_earlier_manifest(folder: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.parquet"
    measure(folder).rename(earlier)
    change(folder, lambda rows: write_labels(rows, "cup"))

    result = validate(folder, measure(folder), ValidationConfig(), tmp_path / "out", reference=earlier)

    drift = next(check for check in result.checks if check.name == "drift")
    assert drift.status == "warn"
    assert [offender.id for offender in drift.offenders] == ["labels"]


def test_something_else_than_a_manifest_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 no")
    for name in ("manifest.parquet", "nowhere.parquet"):
        with pytest.raises(DataError, match="manifest"):
            validate(folder, tmp_path / name, ValidationConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_importing_the_step_loads_no_heavy_library() -> None:
    code = (
        "import sys, megl_core.validation\n"
        "heavy = {'great_expectations', 'pandas', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_partly_given_bound_keeps_the_rest_of_its_default() -> None:
    config = parse(ValidationConfig, {"mask_area": {"severity": "fail"}, "class_share": {"max": None}})

    assert config.mask_area == Bound(severity="fail", min=0.0005, max=0.95)
    assert config.class_share == Bound(severity="warn", min=0.01, max=None)


@pytest.mark.parametrize("bound", [{"min": 2, "max": 1}, {"min": None, "max": None}])
def test_a_bound_that_allows_nothing_or_everything_is_an_error(bound: Row) -> None:
    with pytest.raises(ConfigError, match="image_side"):
        parse(ValidationConfig, {"image_side": bound})
