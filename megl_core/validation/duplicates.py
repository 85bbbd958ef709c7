"""Rows that hold the same picture, or nearly the same, where they should not."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

_HASH_BITS = 64


def partner_lines(rows: pd.DataFrame, key: str, differ: str) -> "pd.Series[int]":
    """For each row the line of the first row with the same `key` and another `differ`; <NA>: there is none.

    Args:
        rows: has the columns `line`, `key` and `differ`, in file order. A null key equals no other.
    """
    known = rows[rows[key].notna()]
    first = known.groupby(key, sort=False)[["line", differ]].first()
    first_value = known[key].map(first[differ])
    elsewhere = known[known[differ] != first_value]
    second = elsewhere.groupby(key, sort=False)["line"].first()
    is_elsewhere = known[differ] != first_value
    partner = known[key].map(second).where(~is_elsewhere, known[key].map(first["line"]))
    return partner.reindex(rows.index).astype("Int64")


def near_partner_lines(rows: pd.DataFrame, bits: int) -> "pd.Series[int]":
    """For each row the line of the row in another split whose picture looks most alike; <NA>: there is none.

    Alike means that the perceptual hashes differ in at most `bits` of 64 bits. Among equally near rows the
    first in the file wins. The answer is exact: see `_candidate_pairs`.

    Args:
        rows: has the columns `line`, `split` and `image_hash` (uint64 or null), in file order.
    """
    known = rows[rows["image_hash"].notna()]
    # Rows of one split with one hash have the same partner, so each such group is a single node.
    nodes = known.groupby(["image_hash", "split"], sort=False)["line"].first().sort_values().reset_index()
    hashes = nodes["image_hash"].to_numpy(dtype=np.uint64)
    splits = pd.factorize(nodes["split"])[0]
    best = _nearest(hashes, splits, bits)
    nodes["partner"] = pd.Series(nodes["line"].to_numpy()[best], dtype="Int64").where(best >= 0)
    partner = known[["image_hash", "split"]].merge(nodes, how="left", on=["image_hash", "split"])["partner"]
    return pd.Series(partner.to_numpy(), index=known.index, dtype="Int64").reindex(rows.index)


def _nearest(hashes: "np.ndarray", splits: "np.ndarray", bits: int) -> "np.ndarray":
    """For each node the index of the nearest one of another split within `bits`, -1 where there is none."""
    count = len(hashes)
    none = (bits + 1) * count
    score = np.full(count, none, dtype=np.int64)  # distance * count + index: the nearest, then the first
    for left, right in _candidate_pairs(hashes, bits):
        distance = np.bitwise_count(hashes[left] ^ hashes[right]).astype(np.int64)
        wanted = (distance <= bits) & (splits[left] != splits[right])
        left, right, distance = left[wanted], right[wanted], distance[wanted]  # noqa: PLW2901
        np.minimum.at(score, left, distance * count + right)
        np.minimum.at(score, right, distance * count + left)
    return np.where(score < none, score % max(count, 1), -1)


def _candidate_pairs(hashes: "np.ndarray", bits: int) -> Iterator[tuple["np.ndarray", "np.ndarray"]]:
    """Index pairs among which are all that differ in at most `bits` bits; each may come more than once.

    Cut the 64 bits into `bits + 2` bands: a pair that differs in at most `bits` places agrees in at least two
    whole bands, so it meets in the bucket of some pair of bands. The buckets are runs of a sorted array;
    comparing each element with the one `offset` places further on, for growing offsets, keeps the memory at
    a few arrays of the input's length.
    """
    edges = np.linspace(0, _HASH_BITS, bits + 3).astype(int)
    masks = [(1 << int(high)) - (1 << int(low)) for low, high in itertools.pairwise(edges)]
    for one, other in itertools.combinations(masks, 2):
        keys = hashes & np.uint64(one | other)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        left = np.arange(len(keys))
        for offset in itertools.count(1):
            left = left[left + offset < len(keys)]
            left = left[keys[left] == keys[left + offset]]
            if not len(left):
                break
            yield order[left], order[left + offset]
