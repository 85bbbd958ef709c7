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
from megl_core.provenance.statement import check_subjects

SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from megl_core.config import BackboneConfig, DecoderConfig, ModelConfig, ObjectiveConfig
from megl_core.data.tokenizer import IGNORE, WordTokenizer
from megl_core.models.megl import MEGL
from megl_core.objectives.alignment import ALIGNMENTS
from megl_core.objectives.consistency import CONSISTENCIES, reference_statistics
from megl_core.objectives.objective import Objective, Targets
from megl_core.objectives.reduce import reported_mean
from megl_core.config import TrainConfig
from megl_core.training.batch_norm import share_batch_norm
from megl_core.training.sharding import replicate
from megl_core.training.step import Gradients, TrainingStep

torch.set_default_dtype(torch.float64)  # what differs is then no rounding
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
# Batch norm sees a micro-batch at a time: only with its running statistics do micro-batches change nothing.
WAYS = {"at once": (1, True), "fixed norm": (1, False), "in parts": (2, False)}


def run(name, case, config, parts, training):
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
    step.train(training)
    if world > 1:
        share_batch_norm(step)
    module = replicate(step) if world > 1 else step
    gradients = Gradients(module, step, TrainConfig(accumulate=parts))
    terms = gradients.compute(images[mine], targets, 0.6, lambda part: None)
    found = {f"{name}/term.{key}": reported_mean(term).reshape(1) for key, term in terms.items()}
    found |= {f"{name}/buffer.{key}": b.double() for key, b in step.named_buffers() if "running" in key}
    return found | {f"{name}/grad.{key}": p.grad.contiguous() for key, p in step.named_parameters()}


found = {}
for config in OBJECTIVES:
    for name, case in CASES.items():
        for way, (parts, training) in WAYS.items():
            key = f"{way}/{config.alignment}/{config.consistency_kind}/{config.text:g}/{name}"
            found |= run(key, case, config, parts, training)
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
@pytest.mark.parametrize("way", ["at once", "fixed norm", "in parts"])
@pytest.mark.parametrize("objective", ALIGNED + CONSISTENT)
def test_losses_and_gradients_are_those_of_one_process(
    found: tuple[dict[str, Tensor], dict[str, Tensor]], objective: str, way: str
) -> None:
    one, two = found
    assert one.keys() == two.keys()
    objective = f"{way}/{objective}"
    names = [name for name in one if name.startswith(f"{objective}/")]
    for name in names:
        assert torch.allclose(one[name], two[name], rtol=1e-6, atol=1e-9), name
    if way == "in parts":
        for name in names:
            at_once = name.replace("in parts", "fixed norm")
            assert torch.allclose(one[name], one[at_once], rtol=1e-6, atol=1e-9), name
    assert one[f"{objective}/mixed/term.visual"].item() > 0
    assert one[f"{objective}/mixed/grad.model.head.weight"].abs().max() > 0
    assert one[f"{objective}/neither anywhere/term.visual"].item() == 0
    if objective.partition("/")[2] in CONSISTENT:
        assert one[f"{objective}/mixed/term.consistency"].item() > 0
        assert one[f"{objective}/mixed/term.text"].item() > 0
        assert one[f"{objective}/masks everywhere/term.consistency"].item() == 0
        assert one[f"{objective}/neither anywhere/term.text"].item() == 0
    if "/res_l/" in objective:
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
    statement = read_json(tmp_path / "model.provenance.json")  # the main process wrote it
    assert statement["predicate"]["buildDefinition"]["internalParameters"] == {"processes": 2}
    check_subjects(statement, model, "the trained model")
