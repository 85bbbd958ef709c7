"""The tables that the expectations look at, derived from a manifest without touching a picture."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from megl_core.data.contract import TRAIN
from megl_core.data.manifest import read_manifest
from megl_core.validation.drift import drift_table
from megl_core.validation.duplicates import near_partner_lines, partner_lines

COLUMNS = [
    *(
        "id",
        "line",
        "label",
        "split",
        "image",
        "image_sha256",
        "width",
        "height",
        "image_hash",
        "image_error",
    ),
    *("mask", "mask_width", "mask_height", "mask_area", "mask_error", "explanations"),
]
"""The manifest's columns that validation reads, besides those of the digest."""

WHY_EMPTY = {
    "samples": "the dataset has no rows",
    "training": "there are no training rows",
    "sides": "no image decodes",
    "texts": "there are no rationales",
    "classes": "no labels are declared and there are no training rows",
    "drift": "no reference manifest was given",
}

_NULLABLE = {pa.uint64(): pd.UInt64Dtype(), pa.int32(): pd.Int32Dtype()}


def derive(
    manifest: pa.Table, labels: Sequence[str], near_duplicate_bits: int, reference: pa.Table | None
) -> dict[str, pd.DataFrame]:
    """Tables by name (the keys of `WHY_EMPTY`), each with a column `id`, those about rows also with `line`.

    - `samples`: a row for each sample. `words` is the mean over its rationales; `duplicate_line`,
      `near_duplicate_line` and `conflict_line` name the row that it collides with.
    - `training`: those of them in the split `train`.
    - `sides`: width and height of each image that decodes, in pixels.
    - `texts`: a row for each rationale.
    - `classes`: a row for each label, with its share of the training rows.
    - `drift`: a row for each distribution that can be compared with the reference; empty without one.
    """
    samples = _samples(manifest)
    samples["duplicate_line"] = partner_lines(samples, "image_sha256", differ="split")
    samples["conflict_line"] = partner_lines(samples, "image_sha256", differ="label")
    near = near_partner_lines(samples, near_duplicate_bits)
    samples["near_duplicate_line"] = near.mask(samples["duplicate_line"].notna())
    training = samples[samples["split"] == TRAIN]
    return {
        "samples": samples,
        "training": training,
        "sides": _sides(samples),
        "texts": _texts(manifest),
        "classes": _classes(training, labels),
        "drift": pd.DataFrame() if reference is None else drift_table(samples, _samples(reference)),
    }


def measure_drift(manifest: Path, reference: Path) -> dict[str, float]:
    """The population stability index by name of distribution, between the samples of two manifests.

    Raises:
        DataError: a file is no manifest.
    """
    current, earlier = (_samples(read_manifest(path, COLUMNS)) for path in (manifest, reference))
    return {str(row["id"]): float(row["psi"]) for row in drift_table(current, earlier).to_dict("records")}


def _samples(manifest: pa.Table) -> pd.DataFrame:
    columns = [name for name in COLUMNS if name != "explanations"]
    samples = manifest.select(columns).to_pandas(types_mapper=_NULLABLE.get)
    samples["missing_mask"] = samples["mask"].isna().astype(float)
    samples["missing_text"] = (_list_lengths(manifest) == 0).astype(float)
    samples["words"] = _texts(manifest).groupby("row")["words"].mean().reindex(samples.index)
    samples["image_size"] = _size(samples["width"], samples["height"])
    samples["mask_size"] = _size(samples["mask_width"], samples["mask_height"])
    return samples


def _texts(manifest: pa.Table) -> pd.DataFrame:
    """Rationales with the position of their row (`row`) and their number of words, split at white space."""
    lists = manifest["explanations"].combine_chunks()
    rows = pc.list_parent_indices(lists)
    texts = pc.list_flatten(lists)
    return pd.DataFrame(
        {
            "row": rows.to_numpy(),
            "id": pc.take(manifest["id"], rows).to_pandas(),
            "line": pc.take(manifest["line"], rows).to_pandas(),
            "text": texts.to_pandas(),
            "words": pc.count_substring_regex(texts, r"\S+").to_numpy(zero_copy_only=False),
        }
    )


def _list_lengths(manifest: pa.Table) -> "pd.Series[int]":
    return pc.list_value_length(manifest["explanations"]).to_pandas()


def _size(width: "pd.Series[int]", height: "pd.Series[int]") -> "pd.Series[str]":
    """`640x480`; null where a side is."""
    return width.astype("string") + "x" + height.astype("string")


def _sides(samples: pd.DataFrame) -> pd.DataFrame:
    sides = samples.melt(["id", "line"], ["width", "height"], var_name="side", value_name="pixels")
    return sides.dropna(subset="pixels").sort_values("line", kind="stable").reset_index(drop=True)


def _classes(training: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    counts = training["label"].value_counts().reindex(pd.Index(labels, dtype=object), fill_value=0)
    shares = counts / max(len(training), 1)
    return pd.DataFrame({"id": list(labels), "count": counts.to_numpy(), "share": shares.to_numpy()})
