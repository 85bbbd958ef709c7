"""Two real processes against one: the same losses and gradients for the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megl_core.files import read_json
from megl_core.models.megl import MEGL

SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from safetensors.torch import save_file

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig
from megl_core.data.tokenizer import WordTokenizer
from megl_core.models.megl import MEGL
from megl_core.objectives.objective import Objective, Targets
from megl_core.objectives.reduce import reported_mean

target = sys.argv[1]
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if world > 1:
    dist.init_process_group("gloo")
tokenizer = WordTokenizer.learn(["a red disc", "the blue ring is small"])
generator = torch.Generator().manual_seed(1)
images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8, generator=generator)
masks = torch.randint(0, 2, (7, 16, 16), dtype=torch.uint8, generator=generator) * 255
labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
mine = slice(rank, None, world)  # 4 rows and 3 rows
CASES = {
    "mixed": ([1, 0, 1, 0, 0, 0, 1], ["a red disc", "the blue ring is small", "", "a ring", "", "disc", ""]),
    "no mask on rank 1": ([1, 0, 1, 0, 1, 0, 1], ["a red disc", "a ring", "", "a ring", "", "the disc", ""]),
    "no text on rank 1": ([1, 0, 1, 1, 0, 0, 1], ["a red disc", "", "a ring", "", "the disc", "", "a ring"]),
    "neither anywhere": ([0] * 7, [""] * 7),
}


def run(case):
    torch.manual_seed(0)
    backbone = BackboneConfig(widths=[8], depths=[1])
    config = ModelConfig(image_size=16, backbone=backbone, decoder=DecoderConfig(width=8, dropout=0.0))
    model = MEGL(config, ["x", "y", "z"], tokenizer).eval()  # batch norm by its running statistics
    has_mask, texts = CASES[case]
    tokens = torch.zeros(7, 8, dtype=torch.long)
    for line, text in enumerate(texts):
        if text:
            ids = tokenizer.encode(text, 6)
            tokens[line, : len(ids)] = torch.tensor(ids)
    targets = Targets(labels[mine], masks[mine], torch.tensor(has_mask).bool()[mine], tokens[mine])
    objective = Objective(ObjectiveConfig(), torch.linspace(1, 0, model.map_size ** 2))
    module = DistributedDataParallel(model) if world > 1 else model
    terms = objective(module(images[mine], targets.labels, targets.tokens[:, :-1], 0.2), targets)
    terms["loss"].backward()
    found = {f"{case}/term.{name}": reported_mean(term).reshape(1) for name, term in terms.items()}
    return found | {f"{case}/grad.{name}": p.grad for name, p in model.named_parameters()}


found = {}
for case in CASES:
    found |= run(case)
if rank == 0:
    save_file(found, target)
if world > 1:
    dist.destroy_process_group()
"""


def launch(processes: int, *arguments: str) -> None:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    result = subprocess.run(
        [*command, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch(1, str(script), str(tmp_path / "one"))
    launch(2, str(script), str(tmp_path / "two"))
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    assert one["mixed/term.visual"].item() > 0
    assert one["mixed/grad.head.weight"].abs().max() > 0
    assert one["neither anywhere/term.visual"].item() == 0


@pytest.mark.slow
def test_megl_train_runs_in_two_processes(packed: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    settings = [
        "train.epochs=2", "train.batch_size=16", "model.image_size=24", "model.backbone.widths=[8,16]",
        "model.backbone.depths=[1,1]", "model.decoder.width=16",
    ]  # fmt: skip
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "megl_core.cli", "train", str(packed), "-o", str(model), "-n", "2"]
    subprocess.run([*command, "--no-track", *overrides], check=True, timeout=180)
    assert read_json(model / "training.json")["processes"] == 2
    assert MEGL.load(model).can_write
