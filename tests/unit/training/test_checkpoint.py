"""The writer of checkpoints: apart from the loop, one at a time, and never silent about a failure."""

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from megl_core.errors import DataError, MeglError, UnavailableError
from megl_core.locks import locked_folder
from megl_core.training import checkpoint
from megl_core.training.checkpoint import (
    CheckpointWriter,
    Snapshot,
    check,
    held,
    newest_first,
    restore,
    take_snapshot,
)


def model_and_optimizer() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_snapshot_is_not_moved_by_later_steps() -> None:
    model, optimizer = model_and_optimizer()
    snapshot = take_snapshot(model, optimizer, 1, {})
    before = {name: tensor.clone() for name, tensor in {**snapshot.weights, **snapshot.optimizer}.items()}
    optimizer.step()
    model(torch.randn(4, 2))
    after = {**snapshot.weights, **snapshot.optimizer}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_frozen_weights_are_left_out_and_statistics_are_not() -> None:
    model, optimizer = model_and_optimizer()
    snapshot = take_snapshot(model, optimizer, 1, {})
    assert set(snapshot.weights) == {
        *("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"),
        *("2.weight", "2.bias"),
    }
    assert {key.partition("/")[0] for key in snapshot.optimizer} == {
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
    }


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.submit(take_snapshot(model, optimizer, 7, {"history": [{"loss": 0.1}]}))
        writer.wait()
    other, its_optimizer = model_and_optimizer()
    its_optimizer.step()
    with torch.no_grad():
        for parameter in [*other[1].parameters(), *other[2].parameters()]:  # type: ignore[index]
            parameter.add_(1)
    (newest,) = newest_first(tmp_path)
    check(newest)
    saved = restore(newest, other, its_optimizer)
    assert (saved["step"], saved["history"]) == (7, [{"loss": 0.1}])
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    states = [
        [each.state[parameter] for group in each.param_groups for parameter in group["params"]]
        for each in (optimizer, its_optimizer)
    ]
    for one, two in zip(*states, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_a_write_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    write = checkpoint.write_checkpoint

    def slow(folder: Path, snapshot: Snapshot, keep: int) -> None:
        may_write.wait(10)
        write(folder, snapshot, keep)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow)
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.submit(Snapshot(1, {}, {"a": torch.zeros(1)}, {}))
        assert newest_first(tmp_path) == []  # `submit` is back before anything is on the disk
        assert writer.age == 0
        may_write.set()
        writer.wait()
        assert [path.name for path in newest_first(tmp_path)] == ["step-00000001"]
        time.sleep(0.01)
        assert writer.age > 0


def watch(writer: CheckpointWriter) -> None:
    """What the loop does between steps."""
    for _ in range(1000):
        assert writer.age == 0
        time.sleep(0.01)


def test_a_failed_write_reaches_the_loop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with CheckpointWriter(tmp_path / "file", keep=1) as writer:
        writer.submit(Snapshot(1, {}, {"a": torch.zeros(1)}, {}))
        with pytest.raises(MeglError, match="cannot write"):
            watch(writer)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000003.x1y2").mkdir()
    (tmp_path / "step-00000002").mkdir()
    with CheckpointWriter(tmp_path, keep=1):
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    checkpoint.write_checkpoint(tmp_path, Snapshot(1, {}, {"a": torch.zeros(4)}, {}), keep=1)
    (newest,) = newest_first(tmp_path)
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        check(newest)


def test_one_training_at_a_time_writes_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model.checkpoints" / "run"
    monkeypatch.setattr(checkpoint, "_HELD_SECONDS", 0.0)
    with (
        locked_folder(folder),
        pytest.raises(UnavailableError, match="another training") as caught,
        held(folder, print),
    ):
        pass
    assert caught.value.where == str(folder)


def test_a_training_waits_for_one_that_ends(tmp_path: Path) -> None:
    folder, is_held, told = tmp_path / "model.checkpoints" / "run", threading.Event(), threading.Event()

    def hold() -> None:
        with locked_folder(folder):
            is_held.set()
            told.wait()

    other = threading.Thread(target=hold)
    other.start()
    is_held.wait()
    with held(folder, lambda _: told.set()):
        (folder / "step-00000001").mkdir()
    other.join()
    assert newest_first(folder) == [folder / "step-00000001"]


def test_a_folder_that_holds_no_checkpoint_does_not_stay(tmp_path: Path) -> None:
    with held(tmp_path / "model.checkpoints" / "run", print):
        assert (tmp_path / "model.checkpoints" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "found"),
    [('"step": 1\n', '"step": 2\n'), ('"history"', '"histary"'), ("0.1", "NaN"), ('"files"', '"filez"')],
)
def test_a_changed_state_is_noticed(tmp_path: Path, written: str, found: str) -> None:
    snapshot = Snapshot(1, {"history": [{"loss": 0.1}]}, {"a": torch.zeros(4)}, {})
    state = checkpoint.write_checkpoint(tmp_path, snapshot, keep=1) / "state.json"
    check(state.parent)
    content = state.read_text()
    assert content.count(written) == 1
    state.write_text(content.replace(written, found))
    with pytest.raises(DataError, match="step-00000001 cannot be read"):
        check(state.parent)


def test_a_checkpoint_under_the_name_of_another_step_is_noticed(tmp_path: Path) -> None:
    written = checkpoint.write_checkpoint(tmp_path, Snapshot(1, {}, {"a": torch.zeros(4)}, {}), keep=1)
    moved = written.rename(tmp_path / "step-00000002")
    with pytest.raises(DataError, match=r"state\.json is damaged"):
        check(moved)


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tiny_disk: Path) -> None:
    checkpoint.write_checkpoint(tiny_disk, Snapshot(1, {}, {"a": torch.zeros(4)}, {}), keep=1)
    with pytest.raises(MeglError, match=r"No space left(.|\n)*free some space"):
        checkpoint.write_checkpoint(tiny_disk, Snapshot(2, {}, {"a": torch.zeros(400_000)}, {}), keep=1)
    (kept,) = tiny_disk.iterdir()
    check(kept)
