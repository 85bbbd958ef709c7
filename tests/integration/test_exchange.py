"""The two kinds of exchange keep the same promises; checkpoints in them."""

import logging
from pathlib import Path

import pytest

from megl_core.config import StorageConfig
from megl_core.errors import DataError, IntegrityError, UnavailableError
from megl_core.remote.checkpoints import CheckpointCopies, fetch_newest
from megl_core.remote.exchange import Exchange, SharedFolder, open_exchange

pytestmark = pytest.mark.service


@pytest.fixture(params=["folder", "s3"])
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Exchange:
    if request.param == "folder":
        return open_exchange(str(tmp_path / "exchange"), StorageConfig())
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    return open_exchange("s3://exchange/team/", request.getfixturevalue("bucket"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights" / "one").write_bytes(b"1" * 100)
    return folder


def damage(exchange: Exchange, name: str) -> None:
    """Change a file's bytes behind the exchange's back."""
    exchange.write(name, b"2" * 100)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("[!.]*") if path.is_file())  # no locks
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_comes_back_as_it_was(exchange: Exchange, model: Path, tmp_path: Path) -> None:
    part = exchange.below("trainings/abc")
    part.put("model", model)
    part.put("model", model)
    part.fetch("model", tmp_path / "back")
    part.fetch("model", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(model)
    assert exchange.folders("trainings") == ["abc"]
    assert exchange.folders("trainings/abc") == ["model"]


def test_a_folder_is_replaced_by_another(exchange: Exchange, model: Path, tmp_path: Path) -> None:
    exchange.put("model", model)
    (model / "config.json").write_text('{"other": 1}')
    exchange.put("model", model)
    exchange.fetch("model", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(model)


def test_what_was_changed_or_is_not_there_is_told(exchange: Exchange, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete folder"):
        exchange.fetch("model", tmp_path / "back")
    exchange.put("model", model)
    damage(exchange, "model/weights/one")
    with pytest.raises(IntegrityError):
        exchange.fetch("model", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_files_are_read_as_written_and_absent_ones_are_none(exchange: Exchange) -> None:
    assert exchange.read("order.json") is None
    exchange.write("order.json", b"{}")
    assert exchange.read("order.json") == b"{}"


def test_removing_spares_the_neighbours(exchange: Exchange, model: Path) -> None:
    for name in ("step-1", "step-10"):
        exchange.put(f"run/{name}", model)
    exchange.remove("run/step-1")
    exchange.remove("run/step-2")
    assert exchange.folders("run") == ["step-10"]
    exchange.remove("run")
    assert exchange.folders("run") == []


def test_a_link_out_of_the_folder_is_refused(exchange: Exchange, model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (model / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="leads out"):
        exchange.put("model", model)
    assert exchange.read("model/link") is None


# --- checkpoints ------------------------------------------------------------------------------


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / "0123456789abcdef" / f"step-{step:08d}"
    made.mkdir(parents=True)
    (made / "state.json").write_text(str(step))
    return made


def test_the_newest_checkpoints_are_kept_and_the_newest_is_fetched(
    exchange: Exchange, tmp_path: Path
) -> None:
    copies = CheckpointCopies(exchange, keep=2)
    for step in (1, 2, 10):
        copies.save(checkpoint(tmp_path / "node", step))
    run = "checkpoints/0123456789abcdef"
    assert exchange.folders(run) == ["step-00000002", "step-00000010"]
    fetch_newest(exchange, tmp_path / "other")
    assert contents(tmp_path / "other") == {"0123456789abcdef/step-00000010/state.json": b"10"}


def test_a_damaged_checkpoint_falls_back_and_is_cleared_away(
    exchange: Exchange, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copies = CheckpointCopies(exchange, keep=2)
    for step in (1, 2):
        copies.save(checkpoint(tmp_path / "node", step))
    run = "checkpoints/0123456789abcdef"
    damage(exchange, f"{run}/step-00000002/state.json")
    exchange.write(f"{run}/step-00000003/state.json", b"3")  # its index was not written any more
    fetch_newest(exchange, tmp_path / "other")
    assert contents(tmp_path / "other") == {"0123456789abcdef/step-00000001/state.json": b"1"}
    assert "trying the one before" in capfd.readouterr().err
    copies = CheckpointCopies(exchange, keep=1)
    copies.save(checkpoint(tmp_path / "continued", 2))
    assert exchange.folders(run) == ["step-00000002"]


def test_a_copy_that_is_no_copy_any_more_is_replaced(exchange: Exchange, tmp_path: Path) -> None:
    run = "checkpoints/0123456789abcdef"
    exchange.write(f"{run}/step-00000002/state.json", b"2")  # its index is gone
    CheckpointCopies(exchange, keep=2).save(checkpoint(tmp_path / "continued", 2))
    fetch_newest(exchange, tmp_path / "other")
    assert contents(tmp_path / "other") == {"0123456789abcdef/step-00000002/state.json": b"2"}


def test_a_store_that_is_away_costs_a_message(
    bucket: StorageConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    away = bucket.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    exchange = open_exchange("s3://exchange/team", away)
    CheckpointCopies(exchange, keep=2).save(checkpoint(tmp_path, 7))
    assert "step-00000007 was not copied to the exchange" in capfd.readouterr().err
    with pytest.raises(UnavailableError):
        exchange.folders("trainings")


def test_a_relative_folder_is_the_same_place_for_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert SharedFolder("exchange").address == str(tmp_path / "exchange")
