"""Background mixing: what is marked stays, what is not comes from elsewhere, and no object is doubled."""

import torch

from megl_core.data.mixing import mix_background, remove_object


def test_mixing_keeps_the_marked_pixels_and_takes_the_others() -> None:
    image = torch.full((3, 4, 4), 200, dtype=torch.uint8)
    background = torch.full((3, 4, 4), 50, dtype=torch.uint8)
    mask = torch.zeros(4, 4, dtype=torch.uint8)
    mask[1:3, 1:3] = 255
    mask[0, 0] = 1  # a pixel that the object covers in part belongs to it

    mixed = mix_background(image, mask, background)

    assert mixed.dtype == torch.uint8
    assert (mixed[:, mask > 0] == 200).all()
    assert (mixed[:, mask == 0] == 50).all()


def test_a_removed_object_leaves_the_colour_of_its_surroundings() -> None:
    image = torch.full((3, 16, 16), 90, dtype=torch.uint8)
    mask = torch.zeros(16, 16, dtype=torch.uint8)
    mask[4:9, 5:11] = 255
    image[:, mask > 0] = 255

    assert (remove_object(image, mask) == 90).all()


def test_a_removed_object_takes_its_rim_along() -> None:
    image = torch.full((3, 16, 16), 90, dtype=torch.uint8)
    image[:, 5:10, 5:10] = 255  # one pixel more than the mask on each side
    mask = torch.zeros(16, 16, dtype=torch.uint8)
    mask[6:9, 6:9] = 255

    assert (remove_object(image, mask) == 90).all()


def test_the_filling_lies_between_its_surroundings() -> None:
    ramp = torch.arange(16, dtype=torch.uint8) * 10
    image = ramp.expand(3, 16, 16).clone()
    mask = torch.zeros(16, 16, dtype=torch.uint8)
    mask[:, 6:11] = 255

    filled = remove_object(image, mask)

    known = [*range(5), *range(12, 16)]
    assert torch.equal(filled[:, :, known], image[:, :, known])
    inside = filled[:, :, 6:11]
    assert inside.min() >= ramp[2]  # the coarser grids mix in what lies a little further away
    assert inside.max() <= ramp[14]
    assert (inside.diff(dim=2).int() >= 0).all()


def test_an_image_that_is_all_object_leaves_its_mean_colour() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8).clone()
    image[:, :4] += 100

    filled = remove_object(image, torch.full((8, 8), 255, dtype=torch.uint8))

    assert torch.equal(filled[:, 0, 0], torch.tensor([60, 70, 80], dtype=torch.uint8))
    assert (filled == filled[:, :1, :1]).all()
