"""A quick look at the validation split after each epoch; the evaluation step is the thorough one."""

import torch

from megl_core.data.loading import PixelStore
from megl_core.models.megl import MEGL

_BATCH = 256


def check_progress(model: MEGL, pixels: PixelStore) -> dict[str, float]:
    """`val_accuracy`, and where rows have masks `val_energy_in_mask` of the predicted class, in [0, 1]."""
    data = pixels.data
    right = marked = 0
    energy = 0.0
    for first in range(0, len(data), _BATCH):
        indices = range(first, min(first + _BATCH, len(data)))
        rows = [data[index] for index in indices]
        images, marks = zip(*map(pixels.get, indices), strict=True)
        labels = torch.tensor([row.label for row in rows], device=model.device)
        has_mask = torch.tensor([row.mask is not None for row in rows], device=model.device)
        masks = torch.stack(marks).to(model.device) / 255
        seen = model.explain(torch.stack(images), write=False)
        heat = seen.heat_map[:, 0]
        inside = (heat * masks).sum(dim=(1, 2)) / (heat.sum(dim=(1, 2)) + 1e-6)
        right += int((seen.predicted_index == labels).sum())
        energy += float(inside[has_mask].sum())
        marked += int(has_mask.sum())
    row = {"val_accuracy": right / len(data)}
    return row | ({"val_energy_in_mask": energy / marked} if marked else {})
