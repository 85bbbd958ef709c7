"""The manifest: one row for every sample, with digests and measurements of its bytes.

Whatever looks at a dataset as a whole (splitting, validation, lineage) looks at this table and
never at pixels. `scan` makes it in one streaming pass over the folder.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from megl_core.config import SplitConfig
from megl_core.data import images
from megl_core.data.contract import (
    ANNOTATIONS,
    TRAIN,
    BadRow,
    Sample,
    declared_labels,
    read_annotations,
    stated,
)
from megl_core.data.images import decode_image, decode_mask, difference_hash, read_file
from megl_core.data.split import assign_splits
from megl_core.errors import DataError, IntegrityError
from megl_core.files import atomic_file, resolve_inside, sha256_file, sha256_json
from megl_core.progress import Reporter, get_reporter

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),  # in annotations.jsonl, from 1
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("image", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string()),  # null: the file cannot be read
        pa.field("image_bytes", pa.int64()),
        pa.field("width", pa.int32()),  # null: the image does not decode
        pa.field("height", pa.int32()),
        pa.field("image_hash", pa.uint64()),  # perceptual (difference) hash of 64 bits
        pa.field("image_error", pa.string()),  # null: the image decodes
        pa.field("mask", pa.string()),  # null: no mask
        pa.field("mask_sha256", pa.string()),
        pa.field("mask_width", pa.int32()),
        pa.field("mask_height", pa.int32()),
        pa.field("mask_area", pa.float64()),  # marked share of the mask's pixels
        pa.field("mask_error", pa.string()),
        pa.field("explanations", pa.list_(pa.string()), nullable=False),
        pa.field("text_sha256", pa.string()),  # null: no explanation
        pa.field("extra", pa.string(), nullable=False),  # free columns, canonical JSON
        pa.field("row_sha256", pa.string(), nullable=False),
    ]
)

_DIGEST_DOMAIN = b"megl-manifest-v1\n"
_DIGESTED = ("id", "label", "split", "group", "image_sha256", "mask_sha256", "explanations", "extra")
_IMAGE_MEASURES = ("width", "height", "image_hash", "image_error")
_MASK_MEASURES = ("mask_width", "mask_height", "mask_area", "mask_error")
_MEASURED_BY = b"measured_by"  # in the file's metadata
_MAX_PROBLEMS = 1000
_BATCH_ROWS = 4096

T = TypeVar("T")
R = TypeVar("R")
Row = dict[str, Any]
"""A row of `SCHEMA` by column name."""


def scan(
    dataset: Path,
    split: SplitConfig,
    reporter: Reporter | None = None,
    known: Path | None = None,
) -> pa.Table:
    """Read every annotation, image and mask of a dataset folder and measure it.

    What does not decode is recorded in the `*_error` columns for validation to judge; so are
    duplicate ids and masks of the wrong size.

    Args:
        dataset: a folder of the data contract.
        split: how rows without a declared split are divided.
        known: an earlier manifest; bytes measured there are hashed, but not decoded again. One that cannot
            be read, or was measured by other code, counts as none.

    Returns:
        A table of `SCHEMA` in file order.

    Raises:
        DataError: lines that are no sample and paths that leave the folder, all of them in one error.
    """
    splits = _check_and_split(dataset, split)
    probe = _Probe(dataset, known)
    batches, rows = [], []
    with (reporter or get_reporter()).bar("scan", total=len(splits)) as bar:
        for row, name in zip(_in_threads(probe.measure, _samples(dataset)), splits, strict=True):
            row["split"] = name
            rows.append(row | {"row_sha256": row_digest(row)})
            bar.advance()
            if len(rows) == _BATCH_ROWS:
                batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                rows.clear()
    batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    table = pa.Table.from_batches(batches, schema=SCHEMA)
    return table.replace_schema_metadata({_MEASURED_BY: measuring_code().encode()})


def row_digest(row: Mapping[str, Any]) -> str:
    """SHA-256 of what a sample is: id, label, split, group, texts, free columns and the digests of its bytes.

    File names and line numbers do not count. `extra` is the canonical JSON string of the manifest.
    """
    return sha256_json({name: row[name] for name in _DIGESTED})


def root_digest(table: pa.Table) -> str:
    """The one SHA-256 of a dataset, whatever the order of its rows and the names of its files."""
    return digest_rows(zip(table["id"].to_pylist(), table["row_sha256"].to_pylist(), strict=True))


def require_rows(table: pa.Table, where: str) -> None:
    """Make sure that every row of a manifest is what its digest says.

    Raises:
        IntegrityError: naming the first sample that is not.
    """
    for batch in table.select([*_DIGESTED, "row_sha256"]).to_batches(_BATCH_ROWS):
        for row in batch.to_pylist():
            if row_digest(row) != row["row_sha256"]:
                raise IntegrityError(f"the sample {row['id']!r} is not what its digest says", where=where)


def require_current(table: pa.Table, dataset: Path) -> None:
    """Make sure that annotations.jsonl says what it said when a manifest was made; no image is opened.

    Raises:
        IntegrityError: naming the first line that says something else, or is new, or is gone.
        DataError: there are no annotations.
    """
    recorded = (row for batch in table.to_batches(_BATCH_ROWS) for row in batch.to_pylist())
    for numbered, row in zip_longest(read_annotations(dataset), recorded):
        if numbered is None or row is None or not _says_the_same(numbered[1], row):
            raise IntegrityError(
                f"line {numbered[0] if numbered else row['line']} changed since the manifest was made",
                where=str(dataset / ANNOTATIONS),
                fix="validate the dataset again: megl data validate",
            )


def require_digest(table: pa.Table, expected: str | None, path: Path) -> None:
    """Make sure that a manifest is the one that was meant.

    Raises:
        IntegrityError: its root digest is not `expected` (None: anything will do).
    """
    if expected is not None and root_digest(table) != expected:
        raise IntegrityError(
            f"the manifest does not have the digest {expected[:12]}",
            where=str(path),
            fix="ingest the data again",
        )


def known_labels(dataset: Path, table: pa.Table) -> list[str]:
    """The labels in index order: those that dataset.json declares, else the training rows', sorted."""
    if declared := declared_labels(dataset):
        return declared
    rows = zip(table["label"].to_pylist(), table["split"].to_pylist(), strict=True)
    return sorted({label for label, split in rows if split == TRAIN})


def digest_rows(rows: Iterable[tuple[str, str]]) -> str:
    """`root_digest` from pairs of id and row digest."""
    digest = hashlib.sha256(_DIGEST_DOMAIN)
    for _, row_sha256 in sorted(rows):
        digest.update(f"{row_sha256}\n".encode())
    return digest.hexdigest()


def write_manifest(table: pa.Table, path: Path) -> None:
    """Write a manifest as Parquet, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_manifest(path: Path | BinaryIO, columns: list[str] | None = None, rows: Any = None) -> pa.Table:
    """Read a manifest, or only some of its columns and rows; `rows` is an expression of pyarrow.

    Raises:
        DataError: the file is missing, is no Parquet file, or is no manifest of this version.
    """
    try:
        schema = pq.read_schema(path)
        if not schema.equals(SCHEMA):
            raise DataError("not a manifest of this version", where=str(path), fix="scan the dataset again")
        return pq.read_table(path, columns=columns, filters=rows)
    except FileNotFoundError:
        raise DataError("no such manifest", where=str(path), fix="make it: megl data validate") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"not a readable manifest: {error}", where=str(path)) from None


def _check_and_split(dataset: Path, config: SplitConfig) -> list[str]:
    """The split of every row, once all rows are known to be representable."""
    ids: list[str] = []
    labels: list[str] = []
    groups: list[str | None] = []
    declared: list[str | None] = []
    problems = []
    num_problems = 0
    for line, row in read_annotations(dataset):
        problem = str(row) if isinstance(row, BadRow) else _unsafe_path(dataset, line, row)
        if problem:
            num_problems += 1
            problems += [problem] if num_problems <= _MAX_PROBLEMS else []
        elif isinstance(row, Sample):
            ids.append(row.id)
            labels.append(row.label)
            groups.append(row.group)
            declared.append(row.split)
    if problems:
        raise DataError(
            f"{num_problems} bad rows in {ANNOTATIONS}",
            where=str(dataset / ANNOTATIONS),
            fix="correct or remove these lines",
            problems=problems,
        )
    return assign_splits(ids, labels, groups, declared, config)


def _unsafe_path(dataset: Path, line: int, sample: Sample) -> str | None:
    for path in (sample.image, sample.mask):
        try:
            if path is not None:
                resolve_inside(dataset, path)
        except DataError as error:
            return f"{ANNOTATIONS} line {line}: {error.what}"
    return None


def _samples(dataset: Path) -> Iterator[tuple[int, Sample]]:
    for line, row in read_annotations(dataset):
        if isinstance(row, Sample):
            yield line, row


class _Probe:
    """Measures samples; bytes that an earlier manifest measured are only hashed."""

    def __init__(self, dataset: Path, known: Path | None) -> None:
        self.dataset = dataset
        self.images: dict[str, Row] = {}
        self.masks: dict[str, Row] = {}
        if known is not None:
            self.images = _known(known, "image_sha256", _IMAGE_MEASURES)
            self.masks = _known(known, "mask_sha256", _MASK_MEASURES)

    def measure(self, numbered: tuple[int, Sample]) -> Row:
        """The manifest's row of a sample, without `split` and `row_sha256`."""
        line, sample = numbered
        said = stated(sample)
        texts = said["explanations"]
        return {
            "line": line,
            **said,
            **self._image(sample.image),
            **self._mask(sample.mask),
            "text_sha256": sha256_json(texts) if texts else None,
        }

    def _image(self, path: str) -> Row:
        try:
            content = read_file(resolve_inside(self.dataset, path))
        except DataError as error:
            return {"image_sha256": None, "image_error": error.what}
        sha256 = hashlib.sha256(content).hexdigest()
        measures = self.images.get(sha256) or _measure_image(content)
        return {"image_sha256": sha256, "image_bytes": len(content), **measures}

    def _mask(self, path: str | None) -> Row:
        if path is None:
            return {"mask_sha256": None}
        try:
            content = read_file(resolve_inside(self.dataset, path))
        except DataError as error:
            return {"mask_sha256": None, "mask_error": error.what}
        sha256 = hashlib.sha256(content).hexdigest()
        return {"mask_sha256": sha256, **(self.masks.get(sha256) or _measure_mask(content))}


def _says_the_same(sample: Sample | BadRow, row: Row) -> bool:
    if isinstance(sample, BadRow) or sample.split not in (None, row["split"]):
        return False
    return all(row[name] == value for name, value in stated(sample).items())


def _measure_image(content: bytes) -> Row:
    try:
        image = decode_image(content)
    except DataError as error:
        return {"image_error": error.what}
    return {"width": image.width, "height": image.height, "image_hash": difference_hash(image)}


def _measure_mask(content: bytes) -> Row:
    try:
        marked = decode_mask(content)
    except DataError as error:
        return {"mask_error": error.what}
    height, width = marked.shape
    return {"mask_width": width, "mask_height": height, "mask_area": float(marked.mean())}


def _known(manifest: Path, key: str, measures: tuple[str, ...]) -> dict[str, Row]:
    """What an earlier manifest says of each digest, where the code of today would say the same."""
    try:
        table = read_manifest(manifest, [key, *measures])
    except DataError:
        return {}
    if (table.schema.metadata or {}).get(_MEASURED_BY) != measuring_code().encode():
        return {}
    return {row.pop(key): row for row in table.to_pylist() if row[key] is not None}


def measuring_code() -> str:
    """Digest of the code that measures images and masks."""
    return sha256_json([sha256_file(Path(source)) for source in (images.__file__, __file__)])


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map with one thread for each core (decoding releases the interpreter), in order, a few items ahead."""
    workers = os.cpu_count() or 1
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
