"""Safe decoding of image files that strangers made: checked from the header before a pixel is read."""

import contextlib
import io
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from megl_core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30

# Pillow's own guard: from our limit on it warns, and its warning is an error.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)

_COLOUR_OF_16_BITS = re.compile(r"(RGB|LA|CMYK)\w*;16[BLN]")  # in the names of Pillow's decoders

_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most `MAX_BYTES`.

    Raises:
        DataError: there is no such file, it is no regular file (a pipe would block), or it is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file", where=str(path))
        if status.st_size > MAX_BYTES:
            raise DataError(f"{status.st_size} bytes, more than the limit of {MAX_BYTES}", where=str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None


def decode_image(content: bytes) -> Image.Image:
    """The first frame as RGB, (height, width) as stored: EXIF orientation is left as it is.

    16-bit grey is reduced to its upper 8 bits; transparency is dropped.

    Raises:
        DataError: not one of `FORMATS`, broken or truncated, over `MAX_PIXELS`, or 32-bit grey.
    """
    with _decoder_errors():
        return as_rgb(_open(content))


def as_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as RGB, under the rules and with the errors of `decode_image`."""
    with _decoder_errors():
        if image.mode in ("I", "F"):
            raise DataError(f"a 32-bit grey image (mode {image.mode}) has no defined range: use 8 or 16 bits")
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def decode_mask(content: bytes) -> NDArray[np.bool_]:
    """The marked pixels, bool (H, W): those that are not black and not fully transparent.

    A palette image is judged by its colours, not by its indices.

    Raises:
        DataError: as for `decode_image`, except that 32-bit grey is welcome and 16-bit colour is not.
    """
    with _decoder_errors():
        image = _open(content)
        if _COLOUR_OF_16_BITS.search(str(image.tile[:1])):  # Pillow drops their lower 8, and with them marks
            raise DataError("a mask of 16-bit colour: save it with 8 bits a channel, or as 16-bit grey")
        if "A" in image.getbands() or "transparency" in image.info:
            pixels = np.asarray(image.convert("RGBA"))
            return np.asarray(pixels[..., :3].any(axis=2) & (pixels[..., 3] > 0))
        if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
            return np.asarray(image) != 0
        return np.asarray(np.asarray(image.convert("RGB")).any(axis=2))


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """A PNG of (H, W, 3) uint8, (H, W) uint8 or (H, W) bool (one bit a pixel)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def difference_hash(image: Image.Image) -> int:
    """A 64-bit perceptual hash: whether each of 8x8 grey cells is darker than its right neighbour.

    Pictures that look alike differ in few bits, whatever their size and compression.
    """
    small = image.convert("L").resize((9, 8), Image.Resampling.BILINEAR)
    cells = np.asarray(small)
    bits = cells[:, :-1] < cells[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _open(content: bytes) -> ImageFile.ImageFile:
    """The image with its header read and checked, and nothing decoded yet."""
    if not content:
        raise DataError("the file is empty")
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"too many pixels: {image.width} x {image.height}, the limit is {MAX_PIXELS}")
    return image


@contextlib.contextmanager
def _decoder_errors() -> Iterator[None]:
    """What Pillow raises on hostile bytes, as a `DataError`."""
    try:
        yield
    except UnidentifiedImageError:
        raise DataError(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"too many pixels: {error}") from None
    except _DECODER_ERRORS as error:
        raise DataError(f"broken or truncated image: {error}") from None
