"""Manifests for tests, written by hand: every row is sound until a test says otherwise."""

from typing import Any

import pyarrow as pa

from megl_core.config import ValidationConfig
from megl_core.data.manifest import SCHEMA, row_digest
from megl_core.validation.engine import run_checks
from megl_core.validation.results import Check
from megl_core.validation.tables import derive

SENTENCE = "it has a long curved handle"  # six words


def manifest(*changes: dict[str, Any]) -> pa.Table:
    """One row for each argument, in the order of the lines, with these columns changed."""
    return pa.Table.from_pylist([_row(line, change) for line, change in enumerate(changes, 1)], schema=SCHEMA)


def sound(count: int, **change: Any) -> list[dict[str, Any]]:
    """`count` times the same changes."""
    return [dict(change) for _ in range(count)]


def run(
    table: pa.Table,
    name: str,
    labels: tuple[str, ...] = ("cup", "dog"),
    reference: pa.Table | None = None,
    **settings: Any,
) -> Check:
    """The check called `name`, by the real engine, with these fields of `ValidationConfig` changed."""
    config = ValidationConfig(**settings)
    tables = derive(table, labels, config.near_duplicate_bits, reference)
    checks = {check.name: check for check in run_checks(tables, labels, config)}
    return checks[name]


def _row(line: int, change: dict[str, Any]) -> dict[str, Any]:
    # Hashes that are at least 16 bits apart for neighbouring lines: no near duplicates by accident.
    scattered = (line * 0x9E3779B97F4A7C15) % 2**64
    row = {
        "id": f"s{line}",
        "line": line,
        "label": "cup" if line % 2 else "dog",
        "split": "train",
        "group": None,
        "image": f"images/{line}.png",
        "image_sha256": f"{line:064x}",
        "image_bytes": 1000,
        "width": 32,
        "height": 32,
        "image_hash": scattered,
        "image_error": None,
        "mask": f"masks/{line}.png",
        "mask_sha256": f"{line + 10_000:064x}",
        "mask_width": 32,
        "mask_height": 32,
        "mask_area": 0.25,
        "mask_error": None,
        "explanations": [SENTENCE],
        "text_sha256": "0" * 64,
        "extra": "{}",
    } | change
    return row | {"row_sha256": row_digest(row)}
