from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.cells import configured
from benchmarks.sources import Photos, withhold_masks
from megl_core.config import PackConfig, SplitConfig
from megl_core.data.manifest import root_digest, scan
from megl_core.data.pack import pack
from megl_core.data.packed import PackedDataset
from tests.unit.benchmarks.tiny import write_photos
from tests.unit.data.build import write_rows


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training images, 8 of val, 8 of test; all have a mask."""
    folder = tmp_path_factory.mktemp("photos") / "pets"
    write_photos(folder, num_train=20)
    return folder


@pytest.fixture(scope="module")
def table(photos: Path) -> pa.Table:
    return scan(photos, SplitConfig())


def kept(table: pa.Table, split: str = "train") -> set[str]:
    rows = table.select(["id", "split", "mask"]).to_pylist()
    return {row["id"] for row in rows if row["split"] == split and row["mask"] is not None}


@pytest.mark.parametrize(("share", "masks"), [(0, 0), (10, 2), (52, 10), (54, 11), (100, 20)])
def test_a_share_of_the_training_masks_stays_rounded(table: pa.Table, share: int, masks: int) -> None:
    assert len(kept(withhold_masks(table, share, seed=0))) == masks


def test_sets_of_growing_share_are_nested_and_another_seed_keeps_others(table: pa.Table) -> None:
    tenth, half = (kept(withhold_masks(table, share, seed=3)) for share in (10, 50))
    assert tenth < half < kept(table)
    assert kept(withhold_masks(table, 50, seed=4)) != half


def test_masks_of_validation_and_test_stay(table: pa.Table) -> None:
    without = withhold_masks(table, 0, seed=0)
    assert kept(without, "val") == kept(table, "val") != set()
    assert kept(without, "test") == kept(table, "test") != set()


def test_a_withheld_mask_leaves_what_a_row_without_a_mask_is(
    photos: Path, table: pa.Table, tmp_path: Path
) -> None:
    withheld = withhold_masks(table, 50, seed=0)
    stays = kept(withheld) | kept(withheld, "val") | kept(withheld, "test")
    rows = write_photos(tmp_path / "pets", num_train=20)
    write_rows(tmp_path / "pets", [row if row["id"] in stays else {**row, "mask": None} for row in rows])
    assert withheld.drop_columns("line").equals(scan(tmp_path / "pets", SplitConfig()).drop_columns("line"))
    assert root_digest(withheld) != root_digest(table)


def test_the_packed_data_hold_the_masks_that_stay(photos: Path, tmp_path: Path) -> None:
    config = configured({})
    dataset, manifest = Photos(photos, share=10, seed=0, images=20).write(config, tmp_path)
    assert (dataset, manifest.parent) == (photos, tmp_path)
    pack(dataset, manifest, tmp_path / "packed", PackConfig())
    assert PackedDataset(tmp_path / "packed", "train").annotated.sum() == 2
    assert PackedDataset(tmp_path / "packed", "test").annotated.sum() == 8


def test_what_decides_the_data_is_the_set_and_not_where_it_lies() -> None:
    config = configured({})
    here = Photos(Path("/here/pets"), 10, 0, 20).settings(config)
    assert Photos(Path("/there/pets"), 10, 0, 20).settings(config) == here
    for other in (
        Photos(Path("cars"), 10, 0, 20),
        Photos(Path("pets"), 9, 0, 20),
        Photos(Path("pets"), 10, 1, 20),
    ):
        assert other.settings(config) != here


@pytest.mark.parametrize(
    ("text", "stride", "seconds"),
    [(0.0, 4, 74.0), (3.0, 4, 98.0), (0.0, 2, 162.8)],  # 20000 times 0.0037, 0.0049, 0.0037 * 2.2
)
def test_the_estimate_counts_decoder_and_stem(text: float, stride: int, seconds: float) -> None:
    config = configured({"objective.text": text, "model.backbone.stem_stride": stride, "train.epochs": 20})
    assert Photos(Path("pets"), 0, 0, images=1000).seconds(config) == pytest.approx(seconds)
