"""What validation finds in real datasets: oddities that were looked at and are true."""

from pathlib import Path

import pytest

from megl_core.config import SplitConfig, ValidationConfig
from megl_core.data.manifest import scan, write_manifest
from megl_core.validation import Check, validate
from tests.conftest import shared_data
from tests.unit.test_html import Page

pytestmark = pytest.mark.slow


def checks_of(name: str, output: Path) -> dict[str, Check]:
    dataset = shared_data(name)
    manifest = output / "manifest.parquet"
    write_manifest(scan(dataset, SplitConfig()), manifest)
    result = validate(dataset, manifest, ValidationConfig(max_offenders=100), output)

    page = Page((output / "validation.html").read_text())
    assert page.addresses == []
    shown = sum(
        len(check.offenders) * (2 if check.name in ("near_duplicates", "exact_duplicates") else 1)
        for check in result.with_status("warn")
    )
    assert len(page.all("img")) == shown
    return {check.name: check for check in result.checks}


def test_magnetic_tile_has_masks_of_a_pixel_or_two(tmp_path: Path) -> None:
    checks = checks_of("magnetic_tile", tmp_path)

    tiny = checks["mask_area"]
    assert tiny.status == "warn"
    assert tiny.num_offenders == 10
    assert ("uneven_exp3_24829", 1284) in [(offender.id, offender.line) for offender in tiny.offenders]
    assert tiny.observed["min"] == pytest.approx(2.4e-5, rel=0.01)
    # 952 flawless tiles have nothing to mark, 4 masks are empty at the source: 956 of 1344 in all.
    assert checks["missing_masks"].observed == pytest.approx(956 / 1344, abs=0.02)


def test_eth80_scenes_shares_scene_photos_between_its_two_test_splits(tmp_path: Path) -> None:
    near = checks_of("eth80_scenes", tmp_path)["near_duplicates"]

    assert (near.status, near.num_offenders) == ("warn", 44)
    for offender in near.offenders:
        assert "in train" not in offender.detail  # the training scenes are not seen again


def test_ucm_captions_has_no_masks(tmp_path: Path) -> None:
    checks = checks_of("ucm_captions", tmp_path)

    assert (checks["missing_masks"].status, checks["missing_masks"].observed) == ("warn", 1.0)
    assert checks["mask_area"].status == "pass"
    assert checks["words_per_text"].status == "pass"
    near = {offender.id for offender in checks["near_duplicates"].offenders}
    assert near == {"harbor17", "harbor87"}
