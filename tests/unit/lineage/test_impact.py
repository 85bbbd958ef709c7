"""Which versions an image had a part in."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from megl_core.data.manifest import SCHEMA, write_manifest
from megl_core.errors import ConfigError, DataError
from megl_core.lineage import impact
from megl_core.lineage.impact import (
    EVALUATED,
    SELECTED,
    TRAINED,
    find_samples,
    impact_of_dataset,
    impact_of_sample,
)
from megl_core.registry.connection import connect
from megl_core.registry.history import Draft, History, open_history
from tests.unit.lineage.conftest import sample

OLD, NEW, GONE = "a" * 64, "b" * 64, "c" * 64


def register(history: History, version: int, trained: str, evaluated: str) -> None:
    details = {"data_digest": trained, "evaluated_digest": evaluated, "model_digest": "", "run_id": ""}
    history.append(lambda _: Draft("register", version, "a test", details))


def promote(history: History, version: int) -> None:
    details = {"from": "None", "to": "Production", "gate": {}, "forced": False, "approvals": []}
    history.append(lambda _: Draft("promote", version, "a test", details | {"champion": None}))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Two models: `one` with versions on old and new data, `two` on old data and on data nobody keeps."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    history = open_history(client, "one")
    register(history, 1, OLD, OLD)
    register(history, 2, NEW, OLD)
    promote(history, 2)
    other = open_history(client, "two")
    register(other, 1, OLD, NEW)
    register(other, 2, GONE, GONE)
    return uri


@pytest.fixture
def workspace(tmp_path: Path, manifest: Callable[..., Path]) -> Path:
    for digest, rows in {
        OLD: [
            sample("s1"),
            sample("s2", split="val"),
            sample("s3", split="test", mask="masks/3.png", mask_sha256="f" * 64),
        ],
        NEW: [sample("s2"), sample("s3", split="test"), sample("s4", split="test")],
    }.items():
        path = tmp_path / "workspace" / "manifests" / f"{digest}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest(digest, *rows).rename(path)
    return tmp_path / "workspace"


def test_a_sample_is_traced_to_its_versions_and_their_stages(uri: str, workspace: Path) -> None:
    expected = {
        "s1": [("one", 1, "None", (TRAINED,)), ("two", 1, "None", (TRAINED,))],
        "s2": [
            ("one", 1, "None", (SELECTED,)),
            ("one", 2, "Production", (TRAINED,)),
            ("two", 1, "None", (SELECTED,)),
        ],
        "s3": [
            ("one", 1, "None", (EVALUATED,)),
            ("one", 2, "Production", (EVALUATED,)),
            ("two", 1, "None", (EVALUATED,)),
        ],
        "s4": [("two", 1, "None", (EVALUATED,))],
        "s9": [],
    }
    for name, uses in expected.items():
        found = impact_of_sample(name, uri, workspace)
        assert [(use.name, use.version, use.stage, use.uses) for use in found.uses] == uses, name
        assert all(use.samples == (name,) for use in found.uses)
        assert found.unanswered == (f"the manifest of the data {GONE[:12]} is not kept",)


def test_a_dataset_is_traced_to_its_versions(uri: str) -> None:
    found = impact_of_dataset(NEW[:12], uri)
    assert [(use.name, use.version, use.uses) for use in found.uses] == [
        ("one", 2, (TRAINED,)),
        ("two", 1, (EVALUATED,)),
    ]
    with pytest.raises(ConfigError, match="is no digest"):
        impact_of_dataset("bbb", uri)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("s1", ["s1"]),
        ("1" * 12, ["s1"]),
        ("1" * 12 + "0" * 52, ["s1"]),
        ("1" * 11, []),  # too short to be a hash
        ("f" * 12, ["s3"]),  # of a mask
        ("2" * 12 + "1", []),
    ],
)
def test_a_sample_is_found_by_id_or_hash(manifest: Callable[..., Path], text: str, ids: list[str]) -> None:
    path = manifest("m", sample("s1"), sample("s2"), sample("s3", mask="m.png", mask_sha256="f" * 64))
    assert [row["id"] for row in find_samples(path, text)] == ids


def test_two_files_whose_hashes_begin_so_are_refused(
    uri: str, workspace: Path, manifest: Callable[..., Path]
) -> None:
    twins = [sample(name, image_sha256="7" * 12 + name[-1] * 52) for name in ("s1", "s2")]
    manifest("twins", *twins).rename(workspace / "manifests" / f"{OLD}.parquet")
    with pytest.raises(ConfigError, match="2 files have a SHA-256 that begins so"):
        impact_of_sample("7" * 12, uri, workspace)
    assert impact_of_sample("7" * 12 + "1" * 52, uri, workspace).uses


def test_a_file_that_is_no_manifest_gives_no_answer(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["s1"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="not a manifest"):
        find_samples(tmp_path / "other.parquet", "s1")


@pytest.mark.slow
def test_a_hundred_versions_over_a_million_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest is read once; how long that takes is printed."""
    uri, rows = f"sqlite:///{tmp_path}/mlflow.db", 1_000_000
    history = open_history(connect(uri), "large")
    for version in range(1, 101):
        register(history, version, OLD, OLD)
    path = tmp_path / "manifests" / f"{OLD}.parquet"
    write_manifest(large_manifest(rows), path)
    reads = []

    def counted(manifest: Path, text: str) -> list[dict[str, str]]:
        reads.append(manifest)
        return find_samples(manifest, text)

    monkeypatch.setattr(impact, "find_samples", counted)
    by_hash = f"{random.Random(777_777).getrandbits(256):064x}"
    for text in ("sample-0777777", by_hash):
        started = time.perf_counter()
        found = impact_of_sample(text, uri, tmp_path)
        seconds = time.perf_counter() - started
        with capsys.disabled():
            print(f"\n{text[:14]}: {len(found.uses)} versions, {rows} rows: {seconds:.2f} s")
        assert [use.version for use in found.uses] == list(range(1, 101))
        assert found.uses[0].samples == ("sample-0777777",)
    assert reads == [path, path]


def large_manifest(rows: int) -> pa.Table:
    """Row n is `sample-n` with the hash that n seeds; other columns are as short as they can be."""
    columns = {
        "id": [f"sample-{row:07d}" for row in range(rows)],
        "image_sha256": [f"{random.Random(row).getrandbits(256):064x}" for row in range(rows)],
    }
    filling = {"string": "train", "int64": 1, "list<element: string>": [], "list<item: string>": []}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        if field.nullable
        else pa.array([filling[str(field.type)]] * rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
