import numpy as np
import torch
from PIL import Image

from megl_core.data.transforms import image_to_tensor, mask_to_tensor, shift


def test_images_of_any_mode_and_shape_become_square_rgb() -> None:
    for mode in ("L", "RGB", "RGBA", "P", "I;16"):
        assert image_to_tensor(Image.new(mode, (50, 20)), 16).shape == (3, 16, 16)


def test_a_mask_keeps_its_marked_share() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 0] = True
    tensor = mask_to_tensor(mask, 2)
    assert tensor.tolist() == [[64, 0], [0, 0]]


def test_image_and_mask_move_together() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).repeat(2, 3, 1, 1)
    mask = torch.zeros(2, 4, 4, dtype=torch.uint8)
    mask[:, 1, 1] = 255
    moved, moved_mask = shift(image, mask, torch.tensor([[1, 0], [0, -1]]))
    assert moved[0, 0, 2, 1] == image[0, 0, 1, 1]  # one down
    assert moved[0, 0, 0].tolist() == [0, 1, 2, 3]  # the border is repeated
    assert moved[1, 0, 1, 0] == image[1, 0, 1, 1]  # one to the left
    assert moved_mask[0].nonzero().tolist() == [[2, 1]]
    assert moved_mask[1].nonzero().tolist() == [[1, 0]]
