"""Packing: a dataset folder and its manifest become memory-mapped Arrow shards.

Arrow, because a quota of annotated samples in every batch needs random access, which tar shards
(WebDataset) lack and column-compressed Parquet makes dear; because a memory-mapped shard costs no
start-up time and no memory of our own; and because it is what `datasets` writes: `Dataset.from_file` opens
a shard with decoded images and class names. Rows are ordered by id, so that one digest means one order.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from megl_core.config import PackConfig
from megl_core.data.contract import ANNOTATIONS, DATASET_JSON, TRAIN
from megl_core.data.images import read_file
from megl_core.data.index import write_index
from megl_core.data.manifest import known_labels, read_manifest, require_digest, root_digest, row_digest
from megl_core.data.packed import FORMAT_VERSION, PackInfo, is_packed
from megl_core.errors import DataError, IntegrityError, MeglError
from megl_core.files import atomic_directory, resolve_inside, write_json
from megl_core.progress import Bar, Reporter, get_reporter

MANIFEST = "manifest.parquet"

_BATCH_BYTES = 4 << 20
_CHECKED = [
    "id",
    "line",
    "label",
    "width",
    "height",
    "image_error",
    "mask_width",
    "mask_height",
    "mask_error",
]
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FIELDS = [
    pa.field("id", pa.string()),
    pa.field("label", pa.int64()),
    pa.field("group", pa.string()),
    pa.field("image", _IMAGE),
    pa.field("mask", _IMAGE),
    pa.field("explanations", pa.list_(pa.string())),
    pa.field("extra", pa.string()),
]


def pack(
    dataset: Path,
    manifest: Path,
    output: Path,
    config: PackConfig,
    labels: list[str] | None = None,
    reporter: Reporter | None = None,
    digest: str | None = None,
) -> PackInfo:
    """Write shards `<split>-<number>.arrow`, their index, the manifest and `dataset.json`, all or nothing.

    Args:
        dataset: the folder that the manifest describes.
        labels: the labels in index order; None: those that dataset.json declares, else those of the
            training rows, sorted.
        digest: what the manifest's root digest must be; None: anything.

    Raises:
        DataError: rows that break the contract: a file that did not decode, a mask of another size than its
            image, an id that was there before, a label that is not among `labels`.
            Or there are no labels, since no row is of the split `train`.
        IntegrityError: a file, or a row of the manifest, is not what the manifest recorded.
        MeglError: something else than packed data is in the way, or the disk fails.
    """
    _refuse_to_replace_reports(output)
    table = read_manifest(manifest)
    require_digest(table, digest, manifest)
    labels = labels or _labels_of(dataset, table)
    _check_rows(table, labels, dataset / ANNOTATIONS)
    table = table.sort_by([("id", "ascending"), ("row_sha256", "ascending")])
    splits: dict[str, dict[str, Any]] = {}
    shard_bytes = config.shard_mb << 20
    with atomic_directory(output, marker=MANIFEST) as folder:
        with (reporter or get_reporter()).bar("pack", total=table.num_rows) as bar:
            for split in sorted(set(table["split"].to_pylist())):
                part = table.filter(pc.equal(table["split"], split))
                packed = _packed_rows(part, dataset, labels, bar)
                batches = _batches(packed, _schema(labels), min(_BATCH_BYTES, shard_bytes))
                shards = _write_shards(folder, split, batches, shard_bytes)
                write_index(folder, split, shards, part["image_sha256"].combine_chunks())
                splits[split] = {
                    "rows": part.num_rows,
                    "annotated": part.num_rows - part["mask"].null_count,
                    "with_text": part.num_rows - part["text_sha256"].null_count,
                    "shards": shards,
                }
        shutil.copyfile(manifest, folder / MANIFEST)
        info = PackInfo(root_digest(table), labels, {name: split["rows"] for name, split in splits.items()})
        description = {"format_version": FORMAT_VERSION, "digest": info.digest, "labels": labels}
        write_json(folder / DATASET_JSON, description | {"splits": splits})
    return info


def _refuse_to_replace_reports(output: Path) -> None:
    """A folder of `megl data validate` holds the marker too."""
    if (output / MANIFEST).is_file() and not is_packed(output):
        raise MeglError(
            f"{output.name} is there already and holds a manifest, but no packed data",
            where=str(output),
            fix="choose another folder, or move this one away",
        )


def _labels_of(dataset: Path, table: pa.Table) -> list[str]:
    labels = known_labels(dataset, table)
    if not labels:
        splits = sorted(set(table["split"].to_pylist()))
        raise DataError(
            f"no row is of the split {TRAIN!r}, which names the labels; the splits are {', '.join(splits)}",
            where=str(dataset / ANNOTATIONS),
            fix=f"call it {TRAIN!r} there, leave `split` out, or set data.labels",
        )
    return labels


def _check_rows(table: pa.Table, labels: list[str], annotations: Path) -> None:
    known = dict.fromkeys(labels)  # in their order
    first_lines: dict[str, int] = {}
    problems = []
    for row in _rows(table.select(_CHECKED)):
        reasons = list(_broken_rules(row, known))
        first = first_lines.setdefault(row["id"], row["line"])
        if first != row["line"]:
            reasons.append(f"the id stands in line {first} already")
        problems += [f"row {row['id']!r} (line {row['line']}): {reason}" for reason in reasons]
    if problems:
        raise DataError(
            f"{len(problems)} problems keep this dataset from being packed",
            where=str(annotations),
            fix="correct the rows and scan again, or declare their labels",
            problems=problems,
        )


def _broken_rules(row: dict[str, Any], labels: Collection[str]) -> Iterator[str]:
    """What a row of the manifest has against the contract, as far as the row alone tells."""
    for kind in ("image", "mask"):
        if row[f"{kind}_error"]:
            yield f"{kind}: {row[f'{kind}_error']}"
    image, mask = (row["width"], row["height"]), (row["mask_width"], row["mask_height"])
    if None not in image + mask and image != mask:
        yield f"mask: {mask[0]} x {mask[1]} pixels, the image has {image[0]} x {image[1]}"
    if row["label"] not in labels:
        yield f"label {row['label']!r} is not one of {', '.join(labels)}"


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _packed_rows(table: pa.Table, dataset: Path, labels: list[str], bar: Bar) -> Iterator[dict[str, Any]]:
    """The shards' rows for rows of the manifest, their files read and checked."""
    index = {label: position for position, label in enumerate(labels)}
    for row in _rows(table):
        if row_digest(row) != row["row_sha256"]:
            raise IntegrityError(f"the manifest's row {row['id']!r} does not have its recorded digest")
        mask = None if row["mask"] is None else _read(dataset, row, "mask")
        yield {
            "id": row["id"],
            "label": index[row["label"]],
            "group": row["group"],
            "image": {"bytes": _read(dataset, row, "image")},
            "mask": None if mask is None else {"bytes": mask},
            "explanations": row["explanations"],
            "extra": row["extra"],
        }
        bar.advance()


def _read(dataset: Path, row: dict[str, Any], kind: str) -> bytes:
    try:
        content = read_file(resolve_inside(dataset, row[kind]))
    except DataError as error:
        raise IntegrityError(
            f"the {kind} of row {row['id']!r} was measured and now fails: {error.what}",
            where=str(dataset / row[kind]),
        ) from None
    if hashlib.sha256(content).hexdigest() != row[f"{kind}_sha256"]:
        raise IntegrityError(
            f"the {kind} of row {row['id']!r} changed since the manifest was made",
            where=str(dataset / row[kind]),
            fix="scan and validate the dataset again",
        )
    return content


def _schema(labels: list[str]) -> pa.Schema:
    """The columns, and what they mean to the `datasets` library."""
    string = {"dtype": "string", "_type": "Value"}
    features = {
        "id": string,
        "label": {"names": labels, "_type": "ClassLabel"},
        "group": string,
        "image": {"_type": "Image"},
        "mask": {"_type": "Image"},
        "explanations": {"feature": string, "_type": "List"},
        "extra": string,
    }
    return pa.schema(_FIELDS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _write_shards(folder: Path, split: str, batches: Iterator[pa.RecordBatch], shard_bytes: int) -> list[str]:
    """Write batches to as many shards as it takes; return their names."""
    names: list[str] = []
    while (batch := next(batches, None)) is not None:
        name = f"{split}-{len(names):05d}.arrow"
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
            while sink.tell() < shard_bytes and (batch := next(batches, None)) is not None:
                stream.write_batch(batch)
        names.append(name)
    return names


def _batches(rows: Iterable[dict[str, Any]], schema: pa.Schema, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """Rows in record batches of about `batch_bytes`: what is in memory at one time."""
    waiting: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += len(row["image"]["bytes"]) + len(row["mask"]["bytes"] if row["mask"] else b"")
        if size >= batch_bytes:
            yield pa.RecordBatch.from_pylist(waiting, schema=schema)
            waiting, size = [], 0
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=schema)
