"""Two real processes against one: the same losses and gradients for the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from megl_core.files import read_json
from megl_core.models.megl import MEGL
from megl_core.objectives.alignment import ALIGNMENTS
from megl_core.objectives.consistency import CONSISTENCIES

SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from safetensors.torch import save_file

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig
from megl_core.data.tokenizer import IGNORE, WordTokenizer
from megl_core.models.megl import MEGL
from megl_core.objectives.alignment import ALIGNMENTS
from megl_core.objectives.consistency import CONSISTENCIES, reference_statistics
from megl_core.objectives.objective import Objective, Targets
from megl_core.objectives.reduce import reported_mean
from megl_core.training.step import TrainingStep

target = sys.argv[1]
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if world > 1:
    dist.init_process_group("gloo")
tokenizer = WordTokenizer.learn(["a red disc", "the blue ring is small"])
generator = torch.Generator().manual_seed(1)
images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8, generator=generator)
masks = torch.zeros(7, 16, 16, dtype=torch.uint8)
for index in range(7):
    masks[index, index : index + 7, index:9] = 255
labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
training_cells = torch.rand(5, 4, 4, generator=generator)
regions = torch.rand(7, 4, 4, generator=generator) < 0.4
regions[2] = True  # a rationale that says nothing
mine = slice(rank, None, world)  # 4 rows and 3 rows
CASES = {
    "mixed": ([1, 0, 1, 0, 0, 0, 1], ["a red disc", "the blue ring is small", "", "a ring", "", "disc", ""]),
    "no mask on rank 1": ([1, 0, 1, 0, 1, 0, 1], ["a red disc", "a ring", "", "a ring", "", "the disc", ""]),
    "no text on rank 1": ([1, 0, 1, 1, 0, 0, 1], ["a red disc", "", "a ring", "", "the disc", "", "a ring"]),
    "neither anywhere": ([0] * 7, [""] * 7),
    "masks everywhere": ([1] * 7, ["a red disc"] * 7),
}
OBJECTIVES = [ObjectiveConfig(alignment=name, consistency=0, text=0) for name in ALIGNMENTS]
OBJECTIVES += [ObjectiveConfig(consistency_kind=kind) for kind in CONSISTENCIES]


def run(name, case, config):
    torch.manual_seed(0)
    model = ModelConfig(
        image_size=16,
        backbone=BackboneConfig(widths=[8], depths=[1], stem_stride=4),
        decoder=DecoderConfig(name="small" if config.text else "none", width=8, dropout=0.0),
    )
    has_mask, texts = case
    tokens = torch.full((7, 8), IGNORE)
    for line, text in enumerate(texts):
        if text:
            ids = tokenizer.encode(text, 6)
            tokens[line, : len(ids)] = torch.tensor(ids)
    targets = Targets(
        labels[mine], masks[mine], torch.tensor(has_mask).bool()[mine], tokens[mine], regions[mine]
    )
    reference = reference_statistics(config.consistency_kind, training_cells, labels[:5], 3)
    step = TrainingStep(MEGL(model, ["x", "y", "z"], tokenizer), Objective(config, reference, 4))
    step.eval()  # batch norm by its running statistics
    module = DistributedDataParallel(step) if world > 1 else step
    terms = module(images[mine], targets, 0.6)
    terms["loss"].backward()
    found = {f"{name}/term.{key}": reported_mean(term).reshape(1) for key, term in terms.items()}
    return found | {f"{name}/grad.{key}": p.grad.contiguous() for key, p in step.named_parameters()}


found = {}
for config in OBJECTIVES:
    for name, case in CASES.items():
        found |= run(f"{config.alignment}/{config.consistency_kind}/{config.text:g}/{name}", case, config)
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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of every objective and case, with one process and with two."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    launch(1, str(folder / "script.py"), str(folder / "one"))
    launch(2, str(folder / "script.py"), str(folder / "two"))
    return load_file(folder / "one"), load_file(folder / "two")


ALIGNED = [f"{name}/marginal/0" for name in ALIGNMENTS]
CONSISTENT = [f"energy/{kind}/3" for kind in CONSISTENCIES]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ALIGNED + CONSISTENT)
def test_losses_and_gradients_are_those_of_one_process(
    found: tuple[dict[str, Tensor], dict[str, Tensor]], objective: str
) -> None:
    one, two = found
    assert one.keys() == two.keys()
    names = [name for name in one if name.startswith(f"{objective}/")]
    for name in names:
        assert torch.allclose(one[name], two[name], atol=1e-5), name
    assert one[f"{objective}/mixed/term.visual"].item() > 0
    assert one[f"{objective}/mixed/grad.model.head.weight"].abs().max() > 0
    assert one[f"{objective}/neither anywhere/term.visual"].item() == 0
    if objective in CONSISTENT:
        assert one[f"{objective}/mixed/term.consistency"].item() > 0
        assert one[f"{objective}/mixed/term.text"].item() > 0
        assert one[f"{objective}/masks everywhere/term.consistency"].item() == 0
        assert one[f"{objective}/neither anywhere/term.text"].item() == 0
    if objective.startswith("res_l"):
        assert one[f"{objective}/mixed/grad.objective.alignment.impute.weight"].abs().max() > 0


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
