"""The manifest: one row for every sample, with digests and measurements of its bytes.

Whatever looks at a dataset as a whole (splitting, validation, lineage) looks at this table and
never at pixels. `scan` makes it in one streaming pass over the folder.
"""

import pyarrow as pa

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
