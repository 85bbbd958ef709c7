"""Small real datasets, written file by file, for the tests of the data layer."""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from megl_core.progress import Bar


class Silent:
    """A reporter that shows nothing."""

    def message(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Bar]:
        class Count:
            def advance(self, amount: int = 1, **fields: Any) -> None:
                pass

        yield Count()


def noise(seed: int, width: int = 12, height: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def box_mask(width: int = 12, height: int = 10) -> np.ndarray:
    """A mask whose left upper 3x4 pixels are marked: 12 of 120."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:3, :4] = 255
    return mask


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of a few bytes whose header claims very many pixels."""
    return png(width, height, 8, 2, bytes(1000))


def png(width: int, height: int, bits: int, colour_type: int, scanlines: bytes) -> bytes:
    """A PNG made by hand: of what Pillow does not write, too."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(scanlines)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "image": f"images/s{number}.png",
        "label": "cat" if number % 2 == 0 else "dog",
        "mask": f"masks/s{number}.png" if number < 2 else None,
        "explanations": [f"Sample {number} has ears."] if number != 3 else [],
        **changes,
    }


def write_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(value, ensure_ascii=False) for value in rows]
    (root / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_dataset(root: Path, count: int = 6) -> list[dict[str, Any]]:
    """12x10 PNGs s0, s1...: even ones cats, odd ones dogs; masks for s0 and s1, no text for s3."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = [row(number) for number in range(count)]
    for number, sample in enumerate(rows):
        (root / sample["image"]).write_bytes(encode(noise(number)))
        if sample["mask"]:
            (root / sample["mask"]).write_bytes(encode(box_mask()))
    write_rows(root, rows)
    return rows


def tree(root: Path) -> set[str]:
    """Everything below `root`, hidden and temporary files too."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}
