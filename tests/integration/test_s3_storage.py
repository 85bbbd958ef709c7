"""Folders on S3: whole and verified, or not there, whatever network and store do."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megl_core.config import DataConfig
from megl_core.data.ingest import ingest
from megl_core.errors import DataError, IntegrityError, UnavailableError
from megl_core.storage.s3 import (
    INDEX,
    download_file,
    download_folder,
    exists,
    list_folder,
    open_client,
    upload_folder,
)
from tests.integration.faulty_store import SECRET, Proxy, settings
from tests.unit.data.build import write_dataset

pytestmark = pytest.mark.service

URI = "s3://datasets/sets/birds"
BIG = bytes(range(256)) * 4096 * 10  # 10 MiB: two parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "birds"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations.jsonl").write_text("{}\n")
    (folder / "images" / "a b?#ä.png").write_bytes(BIG)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("checksum", ["SHA256", "CRC32", None])
def test_a_folder_comes_back_as_it_was(
    proxy: Proxy, folder: Path, tmp_path: Path, checksum: str | None
) -> None:
    config = settings(proxy, checksum=checksum)
    assert not exists(URI, config)
    upload_folder(folder, URI, config)
    assert exists(URI, config)
    download_folder(URI, tmp_path / "copy", config)
    assert content(tmp_path / "copy") == content(folder)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_there_already_is_not_sent_again(proxy: Proxy, folder: Path) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("none")
    upload_folder(folder, URI, settings(proxy))
    assert [line for line in proxy.requests if line.startswith(("PUT", "POST", "DELETE"))] == []


@pytest.mark.parametrize("fault", ["503", "reset", "truncated", "stall"])
def test_a_download_goes_on_after_a_fault(proxy: Proxy, folder: Path, tmp_path: Path, fault: str) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("GET /datasets/sets/birds/images", fault)
    download_folder(URI, tmp_path / "copy", settings(proxy))
    assert proxy.faults == []
    assert content(tmp_path / "copy") == content(folder)
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in proxy.ranges]
    assert any(starts) == (fault != "503")  # what had arrived was not asked for again


def test_a_download_that_was_given_up_is_resumed_by_the_next_call(
    proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("GET /datasets/sets/birds/images", "truncated")
    with pytest.raises(UnavailableError):
        download_folder(URI, tmp_path / "copy", settings(proxy, retries=0))
    assert not (tmp_path / "copy").exists()
    proxy.fail("none")
    download_folder(URI, tmp_path / "copy", settings(proxy))
    assert proxy.ranges == [f"bytes={len(BIG) // 2}-"]
    assert content(tmp_path / "copy") == content(folder)


def test_an_ingest_that_was_cut_off_goes_on_where_it_stopped(proxy: Proxy, tmp_path: Path) -> None:
    write_dataset(tmp_path / "birds", count=2)
    upload_folder(tmp_path / "birds", URI, settings(proxy))
    data = DataConfig(name="birds", importer="folder", source=URI)
    proxy.fail("GET /datasets/sets/birds/images", "truncated")
    with pytest.raises(UnavailableError):
        ingest(data, tmp_path / "workspace", settings(proxy, retries=0, threads=1))
    assert not (tmp_path / "workspace/datasets/birds").exists()
    fetched = len(proxy.ranges)
    proxy.fail("none")
    assert ingest(data, tmp_path / "workspace", settings(proxy, threads=1)).num_samples == 2
    assert len(proxy.ranges) == 5 - fetched + 1  # of five files, the one that was cut off is asked for twice
    assert proxy.ranges[0] != "bytes=0-"
    assert list((tmp_path / "workspace/datasets").glob(".*.source")) == []


def test_a_changed_object_starts_anew(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    config = settings(proxy)
    client = open_client(config)
    client.put_object(Bucket="datasets", Key="one", Body=b"a" * 1000)
    proxy.fail("GET /datasets/one", "truncated")
    with pytest.raises(UnavailableError):
        download_file("s3://datasets/one", tmp_path / "one", settings(proxy, retries=0))
    client.put_object(Bucket="datasets", Key="one", Body=b"b" * 1000)
    download_file("s3://datasets/one", tmp_path / "one", config)
    assert (tmp_path / "one").read_bytes() == b"b" * 1000


def test_wrong_bytes_are_refused_and_not_kept(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("GET /datasets/sets/birds/images", "wrong bytes", "wrong bytes")
    with pytest.raises(IntegrityError, match="not what the index says"):
        download_folder(URI, tmp_path / "copy", settings(proxy))
    assert not (tmp_path / "copy").exists()
    download_folder(URI, tmp_path / "copy", settings(proxy))
    assert content(tmp_path / "copy") == content(folder)


@pytest.mark.parametrize("fault", ["503", "reset", "truncated", "stall"])
def test_an_index_that_breaks_off_is_asked_for_again(proxy: Proxy, folder: Path, fault: str) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail(f"GET /datasets/sets/birds/{INDEX}", fault)
    assert list_folder(URI, settings(proxy)).keys() == content(folder).keys()
    assert proxy.faults == []
    proxy.fail(f"GET /datasets/sets/birds/{INDEX}", *[fault] * 9)
    with pytest.raises(UnavailableError):
        list_folder(URI, settings(proxy))


def test_bytes_that_were_garbled_once_are_asked_for_again(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("GET /datasets/sets/birds/images", "wrong bytes")
    download_folder(URI, tmp_path / "copy", settings(proxy))
    assert content(tmp_path / "copy") == content(folder)


def test_a_part_that_a_crash_damaged_is_no_end(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("GET /datasets/sets/birds/images", "truncated")
    with pytest.raises(UnavailableError):
        download_folder(URI, tmp_path / "copy", settings(proxy, retries=0))
    (part,) = tmp_path.glob(".copy.partial/images/.*.part")
    part.write_bytes(bytes(part.stat().st_size))
    download_folder(URI, tmp_path / "copy", settings(proxy))
    assert content(tmp_path / "copy") == content(folder)


def test_a_store_that_sends_all_where_a_range_was_asked_for_is_understood(
    proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    open_client(settings(proxy)).put_object(Bucket="datasets", Key="one", Body=BIG)
    proxy.fail("GET /datasets/one", "truncated", "whole")
    download_file("s3://datasets/one", tmp_path / "one", settings(proxy))
    assert proxy.faults == []
    assert (tmp_path / "one").read_bytes() == BIG


def test_answers_without_content_are_counted(proxy: Proxy, tmp_path: Path) -> None:
    open_client(settings(proxy)).put_object(Bucket="datasets", Key="one", Body=b"a" * 1000)
    proxy.fail("GET /datasets/one", *["empty"] * 9)
    with pytest.raises(UnavailableError, match="0 read"):
        download_file("s3://datasets/one", tmp_path / "one", settings(proxy))
    assert len(proxy.faults) == 9 - 3  # a try and two more


def test_processes_that_download_the_same_folder_do_it_once(
    proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    upload_folder(folder, URI, settings(proxy))
    proxy.fail("none")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: download_folder(URI, tmp_path / "copy", settings(proxy)), range(3)))
    assert content(tmp_path / "copy") == content(folder)
    assert len(proxy.ranges) == len(content(folder))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_upload_that_stops_between_files_leaves_the_folder_absent(proxy: Proxy, folder: Path) -> None:
    upload_folder(folder, URI, settings(proxy))
    (folder / "annotations.jsonl").write_text("{}\n{}\n")
    proxy.fail("/images/", *["503"] * 9)
    with pytest.raises(UnavailableError, match="SlowDown"):
        upload_folder(folder, URI, settings(proxy))
    proxy.fail("none")
    assert not exists(URI, settings(proxy))
    upload_folder(folder, URI, settings(proxy))
    assert exists(URI, settings(proxy))


@pytest.mark.parametrize("path", ["../escaped", "/escaped", "images/../../escaped"])
def test_a_key_that_leads_out_of_the_folder_is_refused(proxy: Proxy, tmp_path: Path, path: str) -> None:
    index = json.dumps({path: {"size": 1, "sha256": "0" * 64}}).encode()
    open_client(settings(proxy)).put_object(Bucket="datasets", Key=f"sets/birds/{INDEX}", Body=index)
    with pytest.raises(DataError, match="unsafe path"):
        download_folder(URI, tmp_path / "copy", settings(proxy))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_away_is_told_without_secrets(proxy: Proxy, tmp_path: Path) -> None:
    away = settings(proxy, endpoint_url="http://127.0.0.1:9", retries=0)
    with pytest.raises(UnavailableError, match="Could not connect") as caught:
        download_folder(URI, tmp_path / "copy", away)
    assert SECRET not in str(caught.value)


def test_nothing_at_the_address_is_told(proxy: Proxy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete folder"):
        download_folder(URI, tmp_path / "copy", settings(proxy))
    with pytest.raises(DataError, match="404"):
        download_file("s3://datasets/nothing", tmp_path / "one", settings(proxy))
