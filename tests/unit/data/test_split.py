from collections import Counter

import numpy as np
import pytest

from megl_core.config import SplitConfig
from megl_core.data.split import assign_splits

Rows = list[tuple[str, str, str | None, str | None]]


def split_of(rows: Rows, config: SplitConfig) -> dict[str, str]:
    """`{id: split}` for rows of (id, label, group, declared split)."""
    ids, labels, groups, declared = zip(*rows, strict=True)
    return dict(zip(ids, assign_splits(ids, labels, groups, declared, config), strict=True))


def singles(counts: dict[str, int]) -> Rows:
    return [
        (f"{label}{number}", label, None, None) for label, count in counts.items() for number in range(count)
    ]


def grouped(num_groups: int, size: int) -> Rows:
    rows: Rows = []
    for number in range(num_groups):
        label = "ab"[number % 2]
        rows += [(f"{number}-{member}", label, f"g{number}", None) for member in range(size)]
    return rows


def test_every_label_keeps_its_shares() -> None:
    config = SplitConfig(val=0.1, test=0.2)
    splits = split_of(singles({"cat": 100, "dog": 40, "eel": 10}), config)
    counts = Counter((row_id[:3], split) for row_id, split in splits.items())
    assert counts == {
        ("cat", "train"): 70, ("cat", "val"): 10, ("cat", "test"): 20,
        ("dog", "train"): 28, ("dog", "val"): 4, ("dog", "test"): 8,
        ("eel", "train"): 7, ("eel", "val"): 1, ("eel", "test"): 2,
    }  # fmt: skip


def test_rare_labels_train_and_still_add_up() -> None:
    """100 labels of 3 rows: no label can have a tenth of itself in val, all of them together can."""
    rows = singles({f"label{number:03d}-": 3 for number in range(100)})
    splits = split_of(rows, SplitConfig(val=0.1, test=0.2))
    counts = Counter(splits.values())
    assert abs(counts["val"] - 30) <= 1
    assert abs(counts["test"] - 60) <= 1
    trained = {row_id.split("-")[0] for row_id, split in splits.items() if split == "train"}
    assert len(trained) == 100


def test_a_label_with_one_row_trains() -> None:
    assert split_of(singles({"only": 1}), SplitConfig(val=0.4, test=0.5)) == {"only0": "train"}


def test_groups_never_cross_splits() -> None:
    rows = grouped(num_groups=60, size=5)
    splits = split_of(rows, SplitConfig(val=0.2, test=0.2, seed=3))
    of_group: dict[str | None, set[str]] = {}
    for row_id, _, group, _ in rows:
        of_group.setdefault(group, set()).add(splits[row_id])
    assert all(len(found) == 1 for found in of_group.values())
    assert Counter(splits.values()) == {"train": 180, "val": 60, "test": 60}


def test_a_group_and_an_id_of_the_same_name_are_two_things() -> None:
    rows: Rows = [("x", "a", None, "test"), ("y", "a", "x", None)]
    assert split_of(rows, SplitConfig(val=0.0, test=0.0)) == {"x": "test", "y": "train"}


@pytest.mark.parametrize("seed", [0, 1])
def test_row_order_does_not_matter(seed: int) -> None:
    rows = grouped(30, 3) + singles({"a": 20, "b": 7})
    config = SplitConfig(seed=seed)
    expected = split_of(rows, config)
    shuffled = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]
    assert split_of(shuffled, config) == expected


def test_the_seed_decides() -> None:
    rows = singles({"a": 50})
    assert split_of(rows, SplitConfig(seed=1)) != split_of(rows, SplitConfig(seed=2))


def test_declared_splits_are_kept_and_their_groups_follow() -> None:
    rows: Rows = [
        ("1", "a", "g", "ood"),
        ("2", "a", "g", None),
        ("3", "b", "h", "val"),
        ("4", "b", "h", "val"),
        ("5", "b", "h", "test"),
        ("6", "b", "h", None),
    ]
    splits = split_of(rows, SplitConfig())
    assert splits == {"1": "ood", "2": "ood", "3": "val", "4": "val", "5": "test", "6": "val"}


def test_a_split_without_share_stays_empty() -> None:
    splits = split_of(grouped(7, 4), SplitConfig(val=0.0, test=0.3))
    assert set(splits.values()) == {"train", "test"}
