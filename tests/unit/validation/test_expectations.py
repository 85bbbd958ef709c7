"""Each expectation, met and broken, with offenders counted by hand."""

import pytest

from megl_core.config import Bound, ValidationConfig
from megl_core.validation.expectations import EXPECTATIONS
from megl_core.validation.results import Check
from tests.unit.validation.manifests import SENTENCE, manifest, run, sound

NO_MASK = {"mask": None, "mask_sha256": None, "mask_width": None, "mask_height": None, "mask_area": None}
BROKEN = {"width": None, "height": None, "image_hash": None}


def lines(check: Check) -> list[int | None]:
    return [offender.line for offender in check.offenders]


@pytest.mark.parametrize("name", sorted(set(EXPECTATIONS) - {"drift"}))
def test_a_sound_manifest_meets_every_expectation(name: str) -> None:
    check = run(manifest(*sound(10), *sound(4, split="test")), name)

    assert (check.status, check.num_offenders, check.offenders) == ("pass", 0, ())
    assert check.skipped is None


def test_every_expectation_has_a_setting() -> None:
    not_expectations = {"near_duplicate_bits", "max_offenders"}
    assert set(EXPECTATIONS) == set(ValidationConfig.model_fields) - not_expectations


def test_min_rows() -> None:
    seven = run(manifest(*sound(7)), "min_rows", min_rows=8)
    eight = run(manifest(*sound(8)), "min_rows", min_rows=8)

    assert (seven.status, seven.observed, seven.bound) == ("fail", 7, {"min": 8.0, "max": None})
    assert (eight.status, eight.observed) == ("pass", 8)


def test_ids_unique() -> None:
    check = run(manifest({"id": "a"}, {"id": "b"}, {"id": "a"}, *sound(5)), "ids_unique")

    assert (check.status, check.num_offenders, check.observed) == ("fail", 2, 2)
    assert [(offender.id, offender.line) for offender in check.offenders] == [("a", 1), ("a", 3)]


def test_labels_declared() -> None:
    check = run(manifest(*sound(8), {"label": "Cup"}, {"label": "cat"}), "labels_declared")

    assert (check.status, lines(check)) == ("fail", [9, 10])
    assert check.offenders[0].detail == "label 'Cup' is not declared"


def test_images_decode() -> None:
    check = run(manifest({}, BROKEN | {"image_error": "truncated"}, *sound(6)), "images_decode")

    assert (check.status, lines(check)) == ("fail", [2])
    assert check.offenders[0].detail == "images/2.png: truncated"


def test_image_side_looks_at_both_sides_and_counts_a_row_once() -> None:
    table = manifest(
        {"width": 15}, {"height": 65}, {"width": 8, "height": 9}, {"width": 16, "height": 64}, BROKEN
    )
    check = run(table, "image_side", image_side=Bound(min=16, max=64))

    assert (check.status, check.num_offenders, lines(check)) == ("fail", 3, [1, 2, 3])
    assert [offender.detail for offender in check.offenders] == [
        "width 15 px",
        "height 65 px",
        "width 8 px; height 9 px",
    ]
    assert check.observed == {"min": 8, "max": 65}


def test_masks_decode() -> None:
    broken = NO_MASK | {"mask": "masks/x.png", "mask_error": "no such file"}
    check = run(manifest(*sound(3), broken, NO_MASK), "masks_decode")

    assert (check.status, lines(check)) == ("fail", [4])
    assert check.offenders[0].detail == "masks/x.png: no such file"


def test_mask_matches_image() -> None:
    table = manifest({}, {"mask_width": 31}, {"mask_width": 16, "mask_height": 16}, NO_MASK, BROKEN)
    check = run(table, "mask_matches_image")

    assert (check.status, lines(check)) == ("fail", [2, 3])
    assert check.offenders[1].detail == "mask 16x16, image 32x32 (width x height)"


def test_turned_masks_do_not_match() -> None:
    table = manifest({"width": 40, "height": 30, "mask_width": 30, "mask_height": 40}, *sound(7))
    assert lines(run(table, "mask_matches_image")) == [1]


def test_mask_area_bounds_are_inclusive() -> None:
    areas = [0.0, 0.1, 0.9, 1.0]
    table = manifest(*({"mask_area": area} for area in areas), NO_MASK)
    check = run(table, "mask_area", mask_area=Bound(severity="warn", min=0.1, max=0.9))

    assert (check.status, lines(check)) == ("warn", [1, 4])
    assert check.offenders[0].detail == "0.000% of the image is marked"
    assert check.observed == {"min": 0.0, "max": 1.0}


@pytest.mark.parametrize(("limit", "status"), [(0.75, "pass"), (0.74, "fail")])
def test_missing_masks_are_counted_among_training_rows(limit: float, status: str) -> None:
    table = manifest({}, NO_MASK, NO_MASK, NO_MASK, {"split": "test"}, NO_MASK | {"split": "test"})
    check = run(table, "missing_masks", missing_masks=Bound(max=limit))

    assert (check.status, check.observed) == (status, 0.75)
    assert lines(check) == ([] if status == "pass" else [2, 3, 4])


def test_missing_texts() -> None:
    table = manifest({"explanations": []}, {}, {}, {}, {"explanations": [], "split": "val"})
    check = run(table, "missing_texts", missing_texts=Bound(max=0.2))

    assert (check.status, check.observed, lines(check)) == ("fail", 0.25, [1])


def test_words_per_text_looks_at_each_rationale() -> None:
    table = manifest(
        {"explanations": [SENTENCE, "  round\tcup "]},
        {"explanations": []},
        {"explanations": ["", "one"]},
        {"explanations": ["a b c"]},
    )
    check = run(table, "words_per_text", words_per_text=Bound(min=3, max=6))

    assert (check.status, check.num_offenders, lines(check)) == ("fail", 2, [1, 3])
    assert check.offenders[0].detail == "word count 2: '  round\\tcup '"
    assert check.offenders[1].detail == "word count 0: ''; word count 1: 'one'"
    assert check.observed == {"min": 0, "max": 6}


def test_class_share_counts_declared_labels_that_never_occur() -> None:
    table = manifest(*sound(9, label="cup"), {"label": "dog"}, *sound(5, label="cat", split="test"))
    bound = Bound(severity="warn", min=0.1, max=0.8)
    check = run(table, "class_share", labels=("cat", "cup", "dog"), class_share=bound)

    assert check.status == "warn"
    assert check.observed == {"cat": 0.0, "cup": 0.9, "dog": 0.1}
    assert [(offender.id, offender.line, offender.detail) for offender in check.offenders] == [
        ("cat", None, "0.00% of the training rows (0 rows)"),
        ("cup", None, "90.00% of the training rows (9 rows)"),
    ]


def test_exact_duplicates_are_those_across_splits() -> None:
    same, other = {"image_sha256": "a" * 64}, {"image_sha256": "b" * 64}
    table = manifest(same, same, same | {"split": "test"}, other, other, {"split": "val"})
    check = run(table, "exact_duplicates")

    assert (check.status, lines(check)) == ("fail", [1, 2, 3])
    assert [offender.related_line for offender in check.offenders] == [3, 3, 1]
    assert check.offenders[2].detail == "in test; the same bytes are in train: s1 (line 1)"


def test_unreadable_images_are_no_duplicates_of_one_another() -> None:
    unreadable = BROKEN | {"image_sha256": None}
    table = manifest(unreadable, unreadable | {"split": "test"}, *sound(6))
    for name in ("exact_duplicates", "near_duplicates", "label_conflicts"):
        assert run(table, name).num_offenders == 0


def test_near_duplicates_leave_out_what_exact_duplicates_reports() -> None:
    table = manifest(
        {"image_hash": 0b0000, "image_sha256": "a" * 64},
        {"image_hash": 0b0000, "image_sha256": "a" * 64, "split": "test"},
        {"image_hash": 0b0011, "split": "test"},
        {"image_hash": 0b0111, "split": "val"},
        {"image_hash": 0b0001},
    )
    check = run(table, "near_duplicates", near_duplicate_bits=2)

    # One bit lies between 3 and 4, 3 and 5, 5 and 2; among equally near rows the first is named.
    assert [(offender.line, offender.related_line) for offender in check.offenders] == [
        (3, 4),
        (4, 3),
        (5, 2),
    ]
    assert check.offenders[0].detail == "in test; looks like s4 (line 4) in val"
    assert run(table, "near_duplicates", near_duplicate_bits=0).num_offenders == 0


def test_label_conflicts() -> None:
    same = {"image_sha256": "a" * 64}
    table = manifest(same | {"label": "cup"}, same | {"label": "dog"}, same | {"label": "cup"}, *sound(5))
    check = run(table, "label_conflicts")

    assert (check.status, lines(check)) == ("warn", [1, 2, 3])
    assert [offender.related_line for offender in check.offenders] == [2, 1, 2]
    assert check.offenders[0].detail == "'cup' here, 'dog' at s2 (line 2), and the same bytes"


def test_drift_against_itself_is_none() -> None:
    table = manifest(*sound(10))
    check = run(table, "drift", reference=table)

    assert check.status == "pass"
    assert check.observed == {"labels": 0.0, "mask area": 0.0, "text length": 0.0}


def test_drift_names_what_moved() -> None:
    check = run(manifest(*sound(10, mask_area=0.5)), "drift", reference=manifest(*sound(10)))

    # Bins at and above 0.25; shares (0.5, 10.5) / 11 against (10.5, 0.5) / 11: PSI = 2 * 10 / 11 * ln 21.
    assert check.status == "warn"
    assert [offender.id for offender in check.offenders] == ["mask area"]
    assert check.observed["mask area"] == pytest.approx(5.5355, abs=1e-4)


def test_drift_is_skipped_without_a_reference() -> None:
    check = run(manifest(*sound(8)), "drift")
    assert (check.status, check.passed, check.skipped) == ("skip", True, "no reference manifest was given")


def test_what_cannot_be_measured_is_skipped_with_the_reason() -> None:
    table = manifest(*sound(8, split="test", explanations=[]))

    assert run(table, "missing_masks").skipped == "there are no training rows"
    assert run(table, "words_per_text").skipped == "there are no rationales"
    assert run(table, "labels_declared", labels=()).skipped == (
        "no labels are declared and there are no training rows"
    )


def test_severity_off_skips_the_check() -> None:
    check = run(manifest(*sound(8, label="cat")), "labels_declared", labels_declared="off")
    assert (check.status, check.skipped) == ("skip", "turned off in the configuration")


def test_only_the_first_offenders_are_kept_and_all_are_counted() -> None:
    check = run(manifest(*sound(9, mask_area=0.0)), "mask_area", max_offenders=4)
    assert (check.num_offenders, lines(check)) == (9, [1, 2, 3, 4])
