import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megl_core.data.images import decode_image, decode_mask, difference_hash, encode_png, read_file
from megl_core.errors import DataError
from tests.unit.data.build import bomb, encode, noise, png

MARKED = np.array([[True, False, True], [False, False, True]])


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_decode_to_the_same_pixels(form: str) -> None:
    image = decode_image(encode(noise(1), form))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), noise(1))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_decode(form: str) -> None:
    assert decode_image(encode(noise(1), form)).size == (12, 10)


def test_16_bit_grey_keeps_its_upper_bits() -> None:
    pixels = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert np.asarray(decode_image(encode(pixels)))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_exif_orientation_is_left_as_it_is() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.fromarray(noise(1)).save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue()).size == (12, 10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not an image", "not an image of a known format"),
        (encode(noise(1, 64, 64), "JPEG")[:800], "truncated"),
        (encode(noise(1, 64, 64), "PNG")[:800], "truncated"),
        (bomb(), "too many pixels"),
        (encode(noise(1), "PPM"), "not an image of a known format"),
        (encode(np.ones((2, 2), np.float32), "TIFF"), "no defined range"),
    ],
)
def test_what_cannot_be_decoded_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(content)


@pytest.mark.parametrize("pillows_warning", ["error", "ignore"])
def test_the_pixel_limit_is_ours_whatever_pillow_does(pillows_warning: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(pillows_warning)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="too many pixels"):
            decode_mask(bomb(10_001, 10_000))  # over our limit, below the size that Pillow refuses


def _palette_mask() -> bytes:
    """Index 0 is white: marked by its colour, whatever its number."""
    image = Image.fromarray(np.where(MARKED, 0, 1).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _transparent_mask() -> bytes:
    """Everything is white; what is not marked is transparent."""
    pixels = np.full((2, 3, 4), 255, dtype=np.uint8)
    pixels[..., 3] = MARKED * 255
    return encode(pixels)


@pytest.mark.parametrize(
    "content",
    [
        encode(MARKED),
        encode((MARKED * 7).astype(np.uint8)),
        encode((MARKED * 1).astype(np.uint16)),
        encode((MARKED * 1).astype(np.int32), "TIFF"),
        encode((MARKED * 0.01).astype(np.float32), "TIFF"),
        encode(np.stack([MARKED * 0, MARKED * 0, MARKED * 9], axis=-1).astype(np.uint8)),
        _palette_mask(),
        _transparent_mask(),
    ],
    ids=["1-bit", "8-bit", "16-bit", "32-bit", "float", "rgb", "palette", "alpha"],
)
def test_masks_of_every_depth(content: bytes) -> None:
    mask = decode_mask(content)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, MARKED)


@pytest.mark.parametrize(("channels", "colour_type"), [(2, 4), (3, 2), (4, 6)], ids=["LA", "RGB", "RGBA"])
def test_masks_of_16_bit_colour_are_refused(channels: int, colour_type: int) -> None:
    """Of the value 200 the upper 8 bits are 0: such a mask would mark nothing."""
    content = png(1, 1, 16, colour_type, struct.pack(f">x{channels}H", *[200] * channels))
    assert decode_image(content).size == (1, 1)
    with pytest.raises(DataError, match="a mask of 16-bit colour"):
        decode_mask(content)


def test_encoded_masks_come_back() -> None:
    assert np.array_equal(decode_mask(encode_png(MARKED)), MARKED)


def test_difference_hash_of_known_pictures() -> None:
    rising = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    assert difference_hash(Image.fromarray(rising)) == 2**64 - 1
    assert difference_hash(Image.fromarray(rising[:, ::-1].copy())) == 0
    one_step = np.zeros((8, 9), dtype=np.uint8)
    one_step[0, 8] = 255  # only the last pair of the first row rises: bit 56 from the right
    assert difference_hash(Image.fromarray(one_step)) == 1 << 56


def test_difference_hash_survives_compression_and_scaling() -> None:
    smooth = Image.fromarray(noise(3, 4, 4)).resize((64, 64), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    smooth.resize((48, 48)).save(buffer, "JPEG", quality=70)
    changed = difference_hash(decode_image(buffer.getvalue())) ^ difference_hash(smooth)
    assert changed.bit_count() <= 2


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        read_file(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="no such file"):
        read_file(tmp_path / "absent.png")
