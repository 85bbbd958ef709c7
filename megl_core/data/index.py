"""The index of a packed split: every row without its image, and where the image's bytes lie.

What a sampler, an objective or a tokenizer wants of all rows is small, masks included, and is read without
touching a shard; of the shards only images are read, one by one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("mask", pa.binary()),
        pa.field("explanations", pa.list_(pa.string())),
        pa.field("extra", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("shard", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
    ]
)
_COPIED = ("id", "label", "group", "explanations", "extra")


def index_name(split: str) -> str:
    """The file of a split's index."""
    return f"{split}.index.arrow"


def write_index(folder: Path, split: str, shards: Sequence[str], image_sha256: pa.Array) -> None:
    """Write the index of shards that lie in `folder`; `image_sha256` tells of their rows in order."""
    first = 0
    with (
        pa.OSFile(str(folder / index_name(split)), "wb") as sink,
        pa.ipc.new_stream(sink, SCHEMA) as stream,
    ):
        for number, name in enumerate(shards):
            for batch, offsets, sizes in images_in(folder / name):
                columns = {name: batch[name] for name in _COPIED} | {
                    "mask": pc.struct_field(batch["mask"], "bytes"),
                    "image_sha256": image_sha256.slice(first, len(batch)),
                    "shard": np.full(len(batch), number, np.int32),
                    "offset": offsets,
                    "size": sizes,
                }
                stream.write_batch(pa.record_batch([columns[field.name] for field in SCHEMA], SCHEMA))
                first += len(batch)


def images_in(shard: Path) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64], NDArray[np.int64]]]:
    """The record batches of a shard, each with offset and size of its images' bytes in the file."""
    with pa.memory_map(str(shard)) as file:
        content = file.read_buffer()
        for batch in pa.ipc.open_stream(content):
            _, bounds, values = batch["image"].field("bytes").buffers()
            ends = np.frombuffer(bounds, np.int32)[: len(batch) + 1].astype(np.int64)
            start = values.address - content.address
            yield batch, start + ends[:-1], np.diff(ends)
