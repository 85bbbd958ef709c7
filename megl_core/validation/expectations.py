"""The expectations by name: what each looks at, and the Great Expectations class that judges it.

The severity and the limits come from the field of the same name in `ValidationConfig`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation over one of the tables of `tables.derive`."""

    table: str
    expectation: str
    """A class of `great_expectations.expectations`."""
    explanation: str
    """What a failure means, in a sentence."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The expectation's arguments that name columns."""
    detail: str = ""
    """What is wrong with an offending row: a format string over its columns and its `related` row."""
    related: str | None = None
    """The column that holds the line of the row it collides with."""
    unit: str = "{:g}"
    """How a measured value or a limit is written."""
    about_mask: bool = False
    """The mask is to be shown on the offender's picture."""

    @property
    def column(self) -> str:
        """The column whose values are judged."""
        return self.columns["column"]


EXPECTATIONS: dict[str, Rule] = {
    "min_rows": Rule(
        table="samples",
        expectation="ExpectTableRowCountToBeBetween",
        explanation="A set this small is most likely the wrong folder or a broken export.",
        unit="{:g} rows",
    ),
    "ids_unique": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeUnique",
        columns={"column": "id"},
        detail="another row has the id {id!r} too",
        explanation="Predictions, masks and lineage are joined by id, so two rows must not share one.",
    ),
    "labels_declared": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeInSet",
        columns={"column": "label"},
        detail="label {label!r} is not declared",
        explanation="A label outside the declared ones is a spelling error or a class that was forgotten.",
    ),
    "images_decode": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeNull",
        columns={"column": "image_error"},
        detail="{image}: {image_error}",
        explanation="Images that are missing, truncated or not images stop the training later on.",
    ),
    "image_side": Rule(
        table="sides",
        expectation="ExpectColumnValuesToBeBetween",
        columns={"column": "pixels"},
        detail="{side} {pixels} px",
        explanation="Thumbnails hold too little to learn from; huge images exhaust the memory.",
        unit="{:g} px",
    ),
    "masks_decode": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeNull",
        columns={"column": "mask_error"},
        detail="{mask}: {mask_error}",
        explanation="A mask that cannot be read would silently count as no annotation.",
        about_mask=True,
    ),
    "mask_matches_image": Rule(
        table="samples",
        expectation="ExpectColumnPairValuesToBeEqual",
        columns={"column_A": "image_size", "column_B": "mask_size"},
        detail="mask {mask_size}, image {image_size} (width x height)",
        explanation="A mask of another size marks other places than the annotator meant.",
        about_mask=True,
    ),
    "mask_area": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeBetween",
        columns={"column": "mask_area"},
        detail="{mask_area:.3%} of the image is marked",
        explanation="An empty or a full mask says nothing about where to look.",
        unit="{:.3%}",
        about_mask=True,
    ),
    "missing_masks": Rule(
        table="training",
        expectation="ExpectColumnMeanToBeBetween",
        columns={"column": "missing_mask"},
        detail="no mask",
        explanation="Without masks among the training rows, the saliency loss has nothing to guide it.",
        unit="{:.2%}",
    ),
    "missing_texts": Rule(
        table="training",
        expectation="ExpectColumnMeanToBeBetween",
        columns={"column": "missing_text"},
        detail="no rationale",
        explanation="Without rationales among the training rows, the decoder has nothing to learn from.",
        unit="{:.2%}",
    ),
    "words_per_text": Rule(
        table="texts",
        expectation="ExpectColumnValuesToBeBetween",
        columns={"column": "words"},
        detail="word count {words}: {text!r:.120}",
        explanation="A rationale of a word or two explains nothing; a very long one will be cut off.",
        unit="{:g} words",
    ),
    "class_share": Rule(
        table="classes",
        expectation="ExpectColumnValuesToBeBetween",
        columns={"column": "share"},
        detail="{share:.2%} of the training rows ({count} rows)",
        explanation="A class that hardly occurs is not learned; one that dominates hides bad results.",
        unit="{:.2%}",
    ),
    "exact_duplicates": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeNull",
        columns={"column": "duplicate_line"},
        detail="in {split}; the same bytes are in {related.split}: {related.id} (line {related.line})",
        explanation="The same image in two splits makes the test result look better than it is.",
        related="duplicate_line",
    ),
    "near_duplicates": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeNull",
        columns={"column": "near_duplicate_line"},
        detail="in {split}; looks like {related.id} (line {related.line}) in {related.split}",
        explanation="The same scene in two splits (resized, recompressed, the next frame) leaks as well.",
        related="near_duplicate_line",
    ),
    "label_conflicts": Rule(
        table="samples",
        expectation="ExpectColumnValuesToBeNull",
        columns={"column": "conflict_line"},
        detail="{label!r} here, {related.label!r} at {related.id} (line {related.line}), and the same bytes",
        explanation="The same image under two labels: at least one of them is wrong, or both apply.",
        related="conflict_line",
    ),
    "drift": Rule(
        table="drift",
        expectation="ExpectColumnValuesToBeBetween",
        columns={"column": "psi"},
        detail="population stability index {psi:.3f}",
        explanation="The data has moved away from the reference set; results may not carry over.",
        unit="{:.3f}",
    ),
}
