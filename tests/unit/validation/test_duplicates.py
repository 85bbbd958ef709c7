"""The search for near duplicates: exact, and fast enough for large sets."""

import time

import numpy as np
import pandas as pd
import pytest

from megl_core.validation.duplicates import near_partner_lines, partner_lines


def rows(hashes: "np.ndarray", splits: "np.ndarray") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "line": np.arange(1, len(hashes) + 1),
            "split": splits,
            "image_hash": pd.array(hashes, dtype="UInt64"),
        }
    )


def brute_force(frame: pd.DataFrame, bits: int) -> list[int | None]:
    """The definition: among the rows of other splits the nearest, and of those the first."""
    hashes = [int(value) for value in frame["image_hash"]]
    partners: list[int | None] = []
    for one, split in zip(hashes, frame["split"], strict=True):
        distances = [
            ((one ^ other).bit_count(), line)
            for other, other_split, line in zip(hashes, frame["split"], frame["line"], strict=True)
            if other_split != split and (one ^ other).bit_count() <= bits
        ]
        partners.append(min(distances)[1] if distances else None)
    return partners


@pytest.mark.parametrize("bits", [0, 1, 2, 5, 8])
def test_same_as_brute_force(bits: int) -> None:
    generator = np.random.default_rng(bits)
    # A few centres with up to nine bits flipped, so that every distance around the limit occurs.
    centres = generator.integers(0, 2**64, 12, dtype=np.uint64)
    hashes = []
    for _ in range(300):
        flips = generator.choice(64, generator.integers(0, 10), replace=False)
        noise = sum(1 << int(bit) for bit in flips)
        hashes.append(int(generator.choice(centres)) ^ noise)
    frame = rows(np.array(hashes, dtype=np.uint64), generator.choice(["train", "val", "test"], 300))

    expected = brute_force(frame, bits)
    found = [None if pd.isna(line) else int(line) for line in near_partner_lines(frame, bits)]

    assert found == expected
    assert any(expected)
    assert None in expected


def test_a_pair_in_one_split_is_no_leak() -> None:
    frame = rows(np.array([0, 1, 2**63], dtype=np.uint64), np.array(["train", "train", "test"]))
    assert near_partner_lines(frame, 0).isna().all()
    assert near_partner_lines(frame, 1).tolist() == [3, pd.NA, 1]


def test_null_hashes_match_nothing() -> None:
    frame = pd.DataFrame(
        {
            "line": [1, 2, 3],
            "split": ["train", "test", "test"],
            "image_hash": pd.array([pd.NA, pd.NA, 7], dtype="UInt64"),
        }
    )
    assert near_partner_lines(frame, 8).isna().all()


def test_high_bits_survive_null_hashes() -> None:
    # As floats these two would be equal.
    hashes = pd.array([2**63, 2**63 + 7, pd.NA], dtype="UInt64")
    frame = pd.DataFrame({"line": [1, 2, 3], "split": ["train", "test", "val"], "image_hash": hashes})
    assert near_partner_lines(frame, 2).isna().all()
    assert near_partner_lines(frame, 3).tolist() == [2, 1, pd.NA]


def test_a_hundred_thousand_rows_take_seconds_even_if_all_look_alike() -> None:
    generator = np.random.default_rng(0)
    splits = generator.choice(["train", "test"], 100_000)
    scattered = generator.integers(0, 2**64, 100_000, dtype=np.uint64)
    alike = np.zeros(100_000, dtype=np.uint64)

    begin = time.perf_counter()
    near_partner_lines(rows(scattered, splits), 2)
    assert near_partner_lines(rows(alike, splits), 2).notna().all()
    assert time.perf_counter() - begin < 20  # 0.2 s on a quiet machine


def test_partner_lines_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "line": [1, 2, 3, 4, 5, 6],
            "key": ["a", "a", "a", "b", None, None],
            "split": ["train", "test", "val", "train", "train", "test"],
        }
    )
    assert partner_lines(frame, "key", differ="split").tolist() == [2, 1, 1, pd.NA, pd.NA, pd.NA]
