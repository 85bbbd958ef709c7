"""A quick look at the validation split after each epoch; the evaluation step is the thorough one."""

from collections.abc import Callable

import torch

from megl_core.data.pixels import PixelStore
from megl_core.models.megl import MEGL
from megl_core.objectives.reduce import global_sum

_BATCH = 256


def check_progress(
    model: MEGL, pixels: PixelStore, rank: int = 0, world: int = 1, tick: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """`val_accuracy`, and where rows have masks `val_energy_in_mask` of the predicted class, in [0, 1].

    Args:
        model: leaves in the mode it came in.
        pixels: of the validation split.
        rank, world: this process looks at rows rank, rank + world, ...; all get the result.
        tick: called after each batch.
    """
    data = pixels.data
    mine = range(rank, len(data), world)
    sums = torch.zeros(3, dtype=torch.float64)  # right, energy, marked
    for first in range(0, len(mine), _BATCH):
        indices = mine[first : first + _BATCH]
        rows = [data.annotation(index) for index in indices]
        images, marks = zip(*map(pixels.get, indices), strict=True)
        labels = torch.tensor([row.label for row in rows], device=model.device)
        has_mask = torch.tensor([row.mask is not None for row in rows], device=model.device)
        masks = torch.stack(marks).to(model.device) / 255
        seen = model.explain(torch.stack(images), write=False)
        heat = seen.heat_map[:, 0]
        inside = (heat * masks).sum(dim=(1, 2)) / (heat.sum(dim=(1, 2)) + 1e-6)
        right = (seen.predicted_index == labels).sum()
        sums += torch.stack([right, inside[has_mask].sum(), has_mask.sum()]).cpu()
        tick()
    right, energy, marked = global_sum(sums.to(model.device)).tolist()
    row = {"val_accuracy": right / len(data)}
    return row | ({"val_energy_in_mask": energy / marked} if marked else {})
