"""What a run is made of."""

from pathlib import Path

import numpy as np
import pytest
import torch

from megl_core.config import (
    BackboneConfig,
    ConsistencyKind,
    DecoderConfig,
    ModelConfig,
    ObjectiveConfig,
    RegionSource,
    TrainConfig,
)
from megl_core.data.images import decode_mask
from megl_core.data.mixing import remove_object
from megl_core.data.packed import PackedDataset
from megl_core.models.megl import MEGL
from megl_core.objectives.consistency import sorted_curve
from megl_core.training import train
from megl_core.training.distributed import Process
from megl_core.training.setup import Parts, Settings, build

SMALL_MODEL = ModelConfig(
    image_size=24, backbone=BackboneConfig(widths=[8, 16], depths=[1, 1]), decoder=DecoderConfig(width=16)
)


def parts_of(packed: Path, objective: ObjectiveConfig, config: TrainConfig) -> Parts:
    return build(packed, Settings(SMALL_MODEL, objective, config), Process(0, 1, torch.device("cpu")), "")


@pytest.mark.parametrize(("kind", "shape"), [("marginal", (36,)), ("class", (4, 36)), ("spatial", (36,))])
def test_reference_statistics_are_those_of_the_training_masks(
    packed: Path, kind: ConsistencyKind, shape: tuple[int, ...]
) -> None:
    parts = parts_of(packed, ObjectiveConfig(consistency_kind=kind), TrainConfig(batch_size=16))
    reference = parts.step.objective.reference
    assert reference is not None
    assert reference.shape == shape
    rows = PackedDataset(packed, "train")
    masks = [decode_mask(row.mask) for row in (rows[index] for index in range(len(rows))) if row.mask]
    assert len(masks) == 12
    if kind == "marginal":  # 24 pixels to 6 cells: means over 4x4 pixels
        cells = [torch.from_numpy(mask.copy()).reshape(6, 4, 6, 4).float().mean(dim=(1, 3)) for mask in masks]
        assert torch.allclose(reference, sorted_curve(torch.stack(cells)).mean(dim=0), atol=1e-5)


def test_the_optimizer_covers_model_and_objective(packed: Path) -> None:
    parts = parts_of(packed, ObjectiveConfig(alignment="res_l"), TrainConfig(batch_size=16))
    (group,) = parts.optimizer.param_groups
    wanted = [*parts.step.model.parameters(), *parts.step.objective.parameters()]
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in wanted]
    assert len(list(parts.step.objective.parameters())) == 2


def test_the_decoder_may_learn_at_a_rate_of_its_own(packed: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-2, decoder_learning_rate=1e-9)
    before = parts_of(packed, ObjectiveConfig(), config)
    assert [group["initial_lr"] for group in before.optimizer.param_groups] == [1e-2, 1e-9]
    assert {id(parameter) for parameter in before.optimizer.param_groups[1]["params"]} == {
        id(parameter) for parameter in before.step.model.decoder.parameters()
    }
    train(packed, tmp_path / "model", SMALL_MODEL, ObjectiveConfig(), config)
    after = MEGL.load(tmp_path / "model")
    model = before.step.model
    assert torch.allclose(after.decoder.output.weight, model.decoder.output.weight, atol=1e-6)
    assert not torch.allclose(after.head.weight, model.head.weight, atol=1e-3)


def test_masked_images_stand_before_the_background_of_others(packed: Path) -> None:
    objective = ObjectiveConfig()
    own = parts_of(packed, objective, TrainConfig(batch_size=16, mix_backgrounds=0.0)).batches
    mixed = parts_of(packed, objective, TrainConfig(batch_size=16, mix_backgrounds=1.0)).batches
    pixels = mixed.pixels
    backgrounds = [remove_object(*pixels.get(int(index))) for index in np.flatnonzero(mixed.data.annotated)]

    before, after = own.batch(0), mixed.batch(0)

    assert before.ids == after.ids
    assert torch.equal(before.masks, after.masks)
    for index, has_mask in enumerate(after.has_mask.tolist()):
        inside = after.masks[index] > 0
        assert torch.equal(before.images[index][:, inside], after.images[index][:, inside])
        outside = after.images[index][:, ~inside]
        if has_mask:
            assert any(torch.equal(outside, background[:, ~inside]) for background in backgrounds)
        else:
            assert torch.equal(before.images[index], after.images[index])
    assert not torch.equal(before.images, after.images)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_mixed_images_is_the_configured_one(packed: Path, share: float) -> None:
    objective = ObjectiveConfig()
    own = parts_of(packed, objective, TrainConfig(batch_size=16, mix_backgrounds=0.0)).batches
    batches = parts_of(packed, objective, TrainConfig(batch_size=16, mix_backgrounds=share)).batches
    changed, masked = 0, 0
    for step in range(20):
        before, after = own.batch(step), batches.batch(step)
        differs = (before.images != after.images).flatten(1).any(dim=1)
        changed += int(differs[after.has_mask].sum())
        masked += int(after.has_mask.sum())
    assert changed / masked == pytest.approx(share, abs=0.2)


def test_every_image_has_the_region_of_its_rationale(packed: Path) -> None:
    parts = parts_of(packed, ObjectiveConfig(region=0.5), TrainConfig(batch_size=16))
    batch = parts.batches.batch(0)
    assert batch.regions is not None
    assert batch.regions.shape == (16, 6, 6)
    rows = {parts.batches.data[index].id: index for index in range(len(parts.batches.data))}
    assert parts.batches.regions is not None
    for position, name in enumerate(batch.ids):
        assert torch.equal(batch.regions[position], parts.batches.regions[rows[name]])


@pytest.mark.parametrize("source", ["learned", "lexicon"])
def test_no_regions_without_weight_or_text(packed: Path, source: RegionSource) -> None:
    without = ObjectiveConfig(region=0, region_source=source)
    assert parts_of(packed, without, TrainConfig(batch_size=16)).batches.batch(0).regions is None
