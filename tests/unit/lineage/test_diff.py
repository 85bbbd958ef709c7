"""What changed between two datasets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from megl_core.lineage.diff import Pair, compare_manifests
from tests.unit.lineage.conftest import sample


def test_samples_that_were_added_removed_or_changed(manifest: Callable[..., Path]) -> None:
    before = manifest(
        "before",
        sample("s1"),
        sample("s2"),
        sample("s3", explanations=["a"], text_sha256="0" * 64),
        sample("s4", image="images/old.png"),
    )
    after = manifest(
        "after",
        sample("s2", label="boxy", mask="masks/s2.png", mask_sha256="1" * 64),
        sample("s3", explanations=["b"], text_sha256="2" * 64, split="val"),
        sample("s4", image="images/new.png"),  # the name of a file does not count
        sample("s5"),
    )
    found = compare_manifests(before, after)
    assert (found.added, found.removed) == (("s5",), ("s1",))
    assert found.changed == {"s2": ("label", "mask"), "s3": ("split", "text")}


def test_a_dataset_does_not_differ_from_itself(manifest: Callable[..., Path]) -> None:
    one, same = manifest("one", sample("s1"), sample("s2")), manifest("same", sample("s2"), sample("s1"))
    found = compare_manifests(one, same)
    assert (found.added, found.removed, found.changed) == ((), (), {})


def test_only_numbers_have_a_difference() -> None:
    assert Pair(0.5, 0.75).difference == pytest.approx(0.25)
    assert Pair("a", "b").difference is None
    assert Pair(None, 1.0).difference is None
