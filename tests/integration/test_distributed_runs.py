"""Whole runs in two processes against the same runs in one: the same curves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megl_core.config import (
    BackboneConfig,
    DataConfig,
    DecoderConfig,
    ModelConfig,
    ObjectiveConfig,
    PackConfig,
    ScenesConfig,
    TrainConfig,
)
from megl_core.data.importers import import_dataset
from megl_core.data.manifest import scan, write_manifest
from megl_core.data.pack import pack
from megl_core.files import read_json
from megl_core.models.megl import MEGL
from megl_core.training import train
from tests.unit.models.language_models import save_gpt2

pytestmark = pytest.mark.slow

SMALL = ModelConfig(
    image_size=24,
    backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]),
    decoder=DecoderConfig(width=16, dropout=0.0),
)
CONFIG = TrainConfig(epochs=12, batch_size=16, stall_seconds=300)  # a loaded machine starves a process
LORA = {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0, "lora_targets": ["c_attn", "c_proj"]}
# Runs every case of a file one after another; `stop` sends SIGTERM to the main process at an epoch's end.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from megl_core.config import ModelConfig, ObjectiveConfig, TrainConfig
from megl_core.errors import MeglError
from megl_core.progress import SilentReporter
from megl_core.training import train

class Stopper:
    def __init__(self, epoch):
        self.epoch = epoch
    def log_params(self, params):
        pass
    def log_metrics(self, metrics, step=None):
        if metrics["epoch"] == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)

for case in json.loads(Path(sys.argv[1]).read_text()):
    try:
        train(
            Path(case["data"]), Path(case["output"]), ModelConfig.model_validate(case["model"]),
            ObjectiveConfig(), TrainConfig.model_validate(case["config"]), reporter=SilentReporter(),
            tracker=Stopper(case["stop"]),
        )
    except SystemExit as stopped:
        assert stopped.code == 128 + signal.SIGTERM
        assert case["stop"]
    except MeglError as error:
        Path(case["output"] + ".error-" + os.environ["RANK"]).write_text(str(error))
"""


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `packed`, with two masks and three texts: most shares of a step have none of either."""
    folder = tmp_path_factory.mktemp("sparse")
    scenes = ScenesConfig(num_train=48, num_val=8, num_test=8, size=24, mask_share=0.05, text_share=0.07)
    config = DataConfig(scenes=scenes)
    import_dataset(config.importer, None, folder / "dataset", config)
    write_manifest(scan(folder / "dataset", config.split), folder / "manifest.parquet")
    pack(folder / "dataset", folder / "manifest.parquet", folder / "packed", PackConfig())
    return folder / "packed"


def language_model(folder: Path, **settings: Any) -> ModelConfig:
    config = {"name": "hf", "path": str(folder), "width": 8, "max_tokens": 24, "dropout": 0.0, **settings}
    return SMALL.model_copy(update={"decoder": DecoderConfig.model_validate(config)})


Case = tuple[Path, ModelConfig, TrainConfig]


@pytest.fixture(scope="module")
def cases(packed: Path, sparse: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    gpt2 = save_gpt2(tmp_path_factory.mktemp("gpt2"))
    config = json.loads((gpt2 / "config.json").read_text())
    config |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    (gpt2 / "config.json").write_text(json.dumps(config))
    # A low rate: with a high one rounding grows tenfold in every epoch, and that is all there is to see.
    uneven = CONFIG.model_copy(
        update={"batch_size": 15, "annotated_quota": 0.0, "learning_rate": 5e-4, "epochs": 8}
    )
    sharded = CONFIG.model_copy(update={"shard": "decoder", "epochs": 4, "learning_rate": 1e-3})
    return {
        "plain": (packed, SMALL, CONFIG),
        "uneven": (sparse, SMALL, uneven),
        "sharded": (packed, language_model(gpt2), sharded),
        "sharded adapters": (packed, language_model(gpt2, **LORA), sharded),
        # A rate of nearly nothing: gradients in bfloat16 are rounded before they are summed over processes.
        "bfloat16": (
            packed,
            SMALL,
            CONFIG.model_copy(update={"precision": "bfloat16", "learning_rate": 1e-6, "epochs": 2}),
        ),
        "exploding": (packed, SMALL, CONFIG.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})),
        "sharded and stopped": (packed, language_model(gpt2), sharded.model_copy(update={"seed": 1})),
    }


@pytest.fixture(scope="module")
def in_two(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The models of all cases, trained in two processes."""
    folder = tmp_path_factory.mktemp("two")
    described = [
        {
            "data": str(data),
            "output": str(folder / name),
            "model": model.model_dump(mode="json"),
            "config": config.model_dump(mode="json"),
            "stop": 2 if "stopped" in name else None,
        }
        for name, (data, model, config) in cases.items()
    ]
    (folder / "cases.json").write_text(json.dumps(described))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, str(folder / "script.py"), str(folder / "cases.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "FutureWarning" not in result.stderr
    return lambda name: folder / name


def assert_same_curves(one: Path, two: Path) -> None:
    rows, others = (read_json(folder / "training.json")["history"] for folder in (one, two))
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"val_accuracy", "val_energy_in_mask"}:  # eight images, all or nothing
            assert row[name] == pytest.approx(other[name], abs=1e-4, rel=1e-4), (row["epoch"], name)


@pytest.mark.parametrize("name", ["plain", "uneven", "bfloat16", "sharded", "sharded adapters"])
def test_the_curves_are_those_of_one_process(
    cases: dict[str, Case], in_two: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    data, model, config = cases[name]
    train(data, tmp_path / "one", model, ObjectiveConfig(), config)
    assert_same_curves(tmp_path / "one", in_two(name))
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path / "one", in_two(name)))
    assert one.keys() == two.keys()
    assert all(one[key].shape == two[key].shape for key in one)
    assert all(torch.allclose(one[key].double(), two[key].double(), atol=0.02) for key in one)
    assert MEGL.load(in_two(name)).can_write


def test_a_sharded_run_goes_on_in_one_process(
    cases: dict[str, Case],
    in_two: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, model, config = cases["sharded and stopped"]
    train(data, tmp_path / "one", model, ObjectiveConfig(), config)
    stopped = in_two("sharded and stopped")
    assert not stopped.exists()
    capsys.readouterr()
    unsharded = config.model_copy(update={"shard": "none"})
    train(data, stopped, model, ObjectiveConfig(), unsharded)
    assert "resuming at step 7 of 12" in capsys.readouterr().err
    assert_same_curves(tmp_path / "one", stopped)


def test_a_loss_that_explodes_names_the_images_of_all_processes(in_two: Callable[[str], Path]) -> None:
    """And every process ends with that error instead of waiting for the others."""
    told = [in_two(f"exploding.error-{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1]
    named = re.search("batch (.*)", told[0])
    assert named is not None
    assert "is not finite at step" in told[0]
    assert len(named[1].split(", ")) == CONFIG.batch_size
    assert not in_two("exploding").exists()


LEAVING = """
import torch
from torch.nn.parallel import DistributedDataParallel

from megl_core.training.distributed import process_group

def leave():
    with process_group("cpu", 30.0) as process:
        model = DistributedDataParallel(torch.nn.Linear(4, 4))
        model(torch.rand(2, 4)).sum().backward()
        raise ValueError(process.gather(["an id"] * 20))

for _ in range(40):
    try:
        leave()
    except ValueError:
        pass
"""


def test_a_failed_training_does_not_hang_where_its_memory_is_freed(tmp_path: Path) -> None:
    """Freed at once, the group of processes met its own threads at the interpreter's lock now and then."""
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(script)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=True,
    )
