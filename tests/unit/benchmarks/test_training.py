"""The benchmark of the training: its parts are what they say, and its quick form runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import training
from benchmarks.training import chosen, measure
from benchmarks.training_gpu import measure_encoders
from benchmarks.training_loader import load_alone, measure_loader, repeat_shards
from benchmarks.training_maps import by_autograd, by_channel, closed_form
from benchmarks.training_page import bars, page
from benchmarks.training_plan import QUICK, VARIANTS, configuration, packed_scenes
from benchmarks.training_runs import (
    alone,
    evaluate_alone,
    step_seconds,
    steps_per_second,
    train_alone,
    write_alone,
)
from megl_core.config import changed
from megl_core.data.contract import TRAIN
from megl_core.data.packed import PackedDataset
from megl_core.errors import ConfigError, UnavailableError
from megl_core.files import read_json
from megl_core.models.saliency import class_map
from tests.conftest import REPOSITORY
from tests.unit.models.tiny import MAKERS

MACHINE = {"processor": "abacus", "cores": "2", "python": "3.11.0", "torch": "2.9.0", "numpy": "2.0.0"}
SMALL = replace(QUICK, channels=8)


def section(measured: dict[str, list[float]], load: float = 0.0) -> dict[str, Any]:
    return {
        "measured": measured,
        "code": "c" * 64,
        "finished": "2026-01-02",
        "load": load,
        "machine": MACHINE,
    }


STEPS = {
    "32 px/plain classifier": [0.020, 0.020],
    "32 px/decoder alone": [0.020, 0.020],
    "32 px/loading": [0.020, 0.025],
    "32 px/loading, cached": [0.004, 0.004],
    **{f"32 px/{name}": [0.022, 0.021] for name in VARIANTS},
    "32 px/visual + consistency": [0.021, 0.022],
    "32 px/visual + consistency + decoder": [0.044, 0.048],
    "32 px/all terms": [0.050, 0.050],
    **{f"32 px/operators of {name}": [900.0] for name in ("plain classifier", "decoder alone", *VARIANTS)},
}


def test_grad_cam_of_both_rivals_is_the_closed_form_of_the_plain_map() -> None:
    """For a linear head on the mean of P cells, the summed gradient of a score is the head's weight."""
    torch.manual_seed(0)
    features = torch.randn(2, 5, 3, 3).requires_grad_()
    weight, target = torch.randn(4, 5).requires_grad_(), torch.tensor([3, 1])
    logits = features.mean(dim=(2, 3)) @ weight.T
    plain = class_map(features, weight[target])
    torch.testing.assert_close(by_autograd(features, logits, weight, target), plain)
    torch.testing.assert_close(by_channel(features, logits, weight, target), plain)
    assert not torch.allclose(closed_form(features, logits, weight, target), plain)


def test_the_bars_compare_medians_of_paired_ratios() -> None:
    """21/20 and 22/20: 1.075. 44/40 and 48/40: 1.15. 500/200 and 400/200: 2.25 times the need."""
    pace = {"step": [200.0, 200.0], "1": [300.0, 300.0], "2": [500.0, 400.0]}
    loader = {f"pace, 32 px/{who}": rates for who, rates in pace.items()}
    measured = {"steps": STEPS, "loader": loader, "pipeline": {"total": [60.0], "outside": [12.0]}}
    assert [(found, met) for _, found, met in bars(measured)] == [
        ("1.075 (1.062 to 1.087)", "yes"),
        ("1.150 (1.125 to 1.175)", "**no**"),
        ("2.250 (2.125 to 2.375)", "yes"),
        ("12.0 s of 60.0 s, 20.0%", "**no**"),
    ]


def test_a_bar_between_the_quartiles_is_neither_met_nor_missed() -> None:
    """21/20 and 24/20: 1.05 to 1.2, quartiles 1.0875 and 1.1625."""
    found = bars({"steps": {**STEPS, "32 px/visual + consistency": [0.021, 0.024]}})
    assert found[0][1:] == ["1.125 (1.088 to 1.162)", "within the spread"]


def test_an_overhead_below_ten_seconds_is_enough_in_a_short_run() -> None:
    (row,) = bars({"pipeline": {"total": [20.0], "outside": [9.0]}})
    assert row[1:] == ["9.0 s of 20.0 s, 45.0%", "yes"]


def test_what_passes_between_steps_is_told_in_their_order() -> None:
    pipeline = {
        "total": [60.0],
        "outside": [6.0],
        "step/train": [50.0],
        "step/ingest": [4.0],
        "before/train": [2.0],
    }
    text = page({"pipeline": section(pipeline)})
    assert text.index("| ingest | 4.0 | - |") < text.index("| train | 50.0 | 2.0 |")
    assert "6.0 s (10.0%) outside of the steps: 2.0 s between steps, 4.0 s before the first" in text


def test_the_loaders_memory_is_told_by_size_first_without_a_cache() -> None:
    sizes = {"1000, cached": 8e6, "1000": 1e6, "100": 1e6}
    measured = {
        f"{name}/{key}": [value]
        for name, grown in sizes.items()
        for key, value in {
            "start": 250e6,
            "before": 300e6,
            "anonymous": 300e6 + grown,
            "mapped": 9e7,
            "images/s": 50.0,
        }.items()
    }
    told = [line for line in page({"loader": section(measured)}).splitlines() if line.startswith("| 1")]
    assert told == [
        "| 100 | 250 | 300 | 301 | +1 | 90 | 50 |",
        "| 1000 | 250 | 300 | 301 | +1 | 90 | 50 |",
        "| 1000, cached | 250 | 300 | 308 | +8 | 90 | 50 |",
    ]


def test_the_page_says_that_the_machine_was_busy() -> None:
    pipeline = {"total": [60.0], "outside": [3.0], "step/train": [57.0]}
    assert "busy machine: 1.5 processes" in page({"pipeline": section(pipeline, load=1.5)})
    assert "idle machine" in page({"pipeline": section(pipeline)})


def test_the_page_holds_the_sections_that_were_measured() -> None:
    text = page({"steps": section(STEPS), "scaling": section({"32 px/1": [100.0], "32 px/2": [150.0]})})
    assert "| 32 px | 100 (100 to 100) | 150 (150 to 150) | 0.750 (0.750 to 0.750) |" in text
    assert "## A step" in text
    assert "## The map" not in text


def test_a_steps_own_work_lies_between_its_events() -> None:
    events = [
        {"step": "ingest", "kind": "start", "time": 10.0},
        {"step": "ingest", "kind": "progress", "time": 11.0},
        {"step": "ingest", "kind": "end", "time": 13.0},
        {"step": "train", "kind": "start", "time": 14.5},
        {"step": "train", "kind": "end", "time": 20.0},
    ]
    assert step_seconds(events) == ({"ingest": 3.0, "train": 5.5}, {"train": 1.5})


def test_the_rate_of_a_run_leaves_out_its_start() -> None:
    """From step 5 at 100.0 s to step 25 at 104.0 s: 5 a second, whatever else was told."""
    events = [
        {"kind": "message", "text": "resuming"},
        {"kind": "progress", "description": "training", "done": 5, "time": 100.0},
        {"kind": "progress", "description": "other", "done": 1, "time": 101.0},
        {"kind": "progress", "description": "training", "done": 25, "time": 104.0},
    ]
    assert steps_per_second(events) == 5.0


@pytest.mark.slow
def test_a_model_is_trained_evaluated_and_asked_for_words(tmp_path: Path) -> None:
    config = changed(configuration("32 px", "all terms", SMALL), ["evaluation.faithfulness_samples=0"])
    data = packed_scenes(config, tmp_path)
    train_alone(data, tmp_path / "model", config, 1)
    assert evaluate_alone(data, tmp_path / "model", config, tmp_path / "evaluation")["images/s"] > 0
    assert write_alone(data, tmp_path / "model")["tokens/s"] > 0


@pytest.mark.slow
def test_repeated_shards_are_read_as_a_larger_set(tmp_path: Path) -> None:
    config = configuration("32 px", "all terms", SMALL)
    data = packed_scenes(config, tmp_path)
    larger = repeat_shards(data, tmp_path / "larger", 3)
    once, thrice = PackedDataset(data, TRAIN), PackedDataset(larger, TRAIN)
    assert len(thrice) == 3 * len(once) == 192
    assert thrice[64 + 5] == once[5]
    assert set(thrice.shard_numbers.tolist()) == {0, 1, 2}
    numbers = alone(load_alone, larger, config, 0)
    assert numbers["images/s"] > 0
    assert 0 < numbers["start"] < numbers["before"] <= numbers["anonymous"] < numbers["memory"]


@pytest.mark.slow
def test_the_loaders_pace_stands_beside_its_memory(tmp_path: Path) -> None:
    measured = measure_loader(replace(SMALL, rows=(64,)), tmp_path)
    assert all(min(values) > 0 for values in measured.values())
    text = page({"loader": section(measured)})
    assert "| 32 px | " in text
    assert "| 64, cached | " in text


@pytest.mark.slow
def test_steps_and_maps_are_measured_and_written_section_by_section(
    tmp_path: Path,
) -> None:
    results = tmp_path / "results.json"
    measure(["maps"], SMALL, results)
    assert list(read_json(results)) == ["maps"]
    measure(["steps"], SMALL, results)
    found = read_json(results)
    assert set(found) == {"maps", "steps"}
    times = found["steps"]["measured"]
    assert set(times) == set(STEPS)
    assert all(len(values) == 2 and min(values) > 0 for name, values in times.items() if "of" not in name)
    counts = {name: times[f"32 px/operators of {name}"] for name in ("plain classifier", *VARIANTS)}
    assert counts["plain classifier"] < counts["classifier"] < counts["all terms"]
    text = page(found)
    assert "## The map" in text
    assert "### Model of 32 px" in text


def test_an_unknown_section_is_refused() -> None:
    assert chosen("maps,steps") == ["maps", "steps"]
    with pytest.raises(ConfigError, match="no section 'tpu'"):
        chosen("maps,tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_section_is_left_out_and_refused() -> None:
    assert "gpu" not in chosen(None)
    with pytest.raises(UnavailableError, match="no CUDA device"):
        measure(["gpu"], SMALL, Path("nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_the_steps_of_a_gpu_run_on_a_cpu_too(architecture: str, tmp_path: Path) -> None:
    """The encoder's work is counted: ours adds that of the decoder, forwards and backwards."""
    make = {"tiny/16": MAKERS[architecture]}
    cpu = torch.device("cpu")
    measured = measure_encoders(make, cpu, SMALL, tmp_path, side=16, batch=8, modes=("eager",))
    steps = ("plain classifier", "all terms")
    assert set(measured) == {f"tiny/16/{step}/{n}" for step in steps for n in ("FLOP", "eager/images/s")}
    assert all(min(values) > 0 for values in measured.values())
    assert measured["tiny/16/plain classifier/FLOP"] < measured["tiny/16/all terms/FLOP"]


def test_the_gpus_table_has_ratios_to_the_plain_step_of_the_same_mode_and_shares_of_the_peak() -> None:
    """100 images/s of 2e12 operations are 200e12 a second, a fifth of 1e15; 150 over 120 images/s is 1.25."""
    measured = {"peak FLOP/s": [1e15]}
    for step, operations, rates in (("plain classifier", 2e12, (100, 150)), ("all terms", 2.5e12, (80, 120))):
        measured[f"ViT-B/16/{step}/FLOP"] = [operations]
        for mode, rate in zip(("eager", "compiled"), rates, strict=True):
            measured |= {f"ViT-B/16/{step}/{mode}/images/s": [rate], f"ViT-B/16/{step}/{mode}/memory": [4e9]}
    text = page({"gpu": {**section(measured), "machine": {**MACHINE, "gpu": "NVIDIA H200"}}})
    assert "2 cores, NVIDIA H200, torch 2.9.0" in text
    assert "| ViT-B/16 | plain classifier | eager | 100 (100 to 100) | 1.000 | 200.0 | 20% | 4.0 |" in text
    assert "| ViT-B/16 | all terms | compiled | 120 (120 to 120) | 1.250 | 300.0 | 30% | 4.0 |" in text


def test_its_help() -> None:
    command = [sys.executable, "-m", "benchmarks.training", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for option in ("--quick", "--only", "--page"):
        assert option in shown


def test_the_committed_page_is_of_the_committed_results() -> None:
    results = json.loads(training.RESULTS.read_text(encoding="utf-8"))
    assert training.PAGE.read_text(encoding="utf-8") == page(results)
