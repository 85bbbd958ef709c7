"""The report of a run: one self-contained HTML page of what the other steps wrote."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megl_core.errors import DataError
from megl_core.evaluation import read_evaluation
from megl_core.evaluation.charts import learning_curves
from megl_core.files import read_json, resolve_inside
from megl_core.html import data_uri, render, write_html
from megl_core.metrics.names import COUNTS, METRICS, figure

GALLERY = "gallery"
TRAINING_FILE = "training.json"


def write_report(
    output: Path,
    *,
    evaluation: Path,
    training: Path,
    validation: Path | None = None,
    gate: Path | None = None,
    version: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write the page to `output` and return its path.

    Args:
        evaluation: the folder that `evaluate` wrote.
        training: the model's folder; its training.json may be absent.
        validation: validation.json.
        gate: gate.json.
        version: the registered version: name, version, stage.
        provenance: further facts on where the model comes from, shown as they are.

    Raises:
        DataError: a file that was named is missing or is not what it should be.
    """
    measured = read_evaluation(evaluation)
    splits = sorted(measured["metrics"], key=_rank(measured))
    metrics = {split: measured["metrics"][split] for split in splits}
    record = training / TRAINING_FILE
    trained = read_json(record) if record.is_file() else {}
    page = render(
        "report.html",
        title=_title(version),
        version_info=version,
        facts=_facts(measured, trained),
        gate=read_json(gate) if gate else None,
        splits=splits,
        tables=_metric_tables(metrics, {split: measured["slots"][split] for split in splits}),
        left_out=measured.get("left_out", {}),
        galleries=_galleries(evaluation, splits),
        curves=learning_curves(trained.get("history", [])),
        confusions=_confusions(measured, splits),
        per_class=measured["per_class"],
        groups=measured["groups"],
        validation=_validation(read_json(validation)) if validation else None,
        origin=_origin(measured, trained, provenance or {}),
        settings=json.dumps(trained["config"], indent=2, sort_keys=True) if trained.get("config") else None,
    )
    write_html(output, page)
    return output


def _title(version: dict[str, Any] | None) -> str:
    if not version:
        return "Report of a training run"
    return f"{version.get('name', 'model')} version {version.get('version', '?')}"


def _rank(measured: dict[str, Any]) -> Callable[[str], tuple[int, str]]:
    """Sorts splits: the primary, the shifted, then the others by name."""
    first = {measured["primary_split"]: 0, measured["shifted_split"]: 1}
    return lambda split: (first.get(split, 2), split)


def _facts(measured: dict[str, Any], trained: dict[str, Any]) -> list[tuple[str, str]]:
    """The headline figures, (name, value)."""
    metrics, primary = measured["metrics"], measured["primary_split"]
    wanted = [
        (primary, "accuracy", "accuracy"),
        (measured["shifted_split"], "accuracy", "accuracy"),
        (primary, "energy_in_mask", "energy in mask"),
        (primary, "slot_accuracy", "slot accuracy"),
        (primary, "bleu4", "BLEU-4"),
    ]
    facts = [
        (f"{shown}, {split}", figure(name, metrics[split][name]))
        for split, name, shown in wanted
        if name in metrics.get(split, {})
    ]
    return facts + ([("training", f"{trained['seconds']:.0f} s")] if "seconds" in trained else [])


def _metric_tables(
    metrics: dict[str, dict[str, float]], slots: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """A table for each section that has a value: rows of metrics, columns of splits."""
    sections = {
        title: [
            row
            for name, (shown, explanation) in names.items()
            for row in (
                _metric_row(metrics, name, shown, explanation),
                _metric_row(metrics, f"{name}_filtered", f"{shown}, class right", ""),
            )
        ]
        for title, names in METRICS.items()
    }
    slot_names = dict.fromkeys(name for split in slots.values() for name in split)
    sections["Rationales"] += [_metric_row(slots, name, f"says the {name}", "") for name in slot_names]
    sections["Counts"] = [
        row
        for name, shown in COUNTS.items()
        for row in (
            _metric_row(metrics, name, shown, ""),
            _metric_row(metrics, f"{name.removesuffix('_n')}_filtered_n", f"{shown}, class right", ""),
        )
    ]
    filled = {title: [row for row in rows if any(row["values"])] for title, rows in sections.items()}
    return [{"title": title, "rows": rows} for title, rows in filled.items() if rows]


def _metric_row(
    metrics: dict[str, dict[str, float]], name: str, shown: str, explanation: str
) -> dict[str, Any]:
    values = [figure(name, split[name]) if name in split else "" for split in metrics.values()]
    return {"name": shown, "explanation": explanation, "values": values}


def _galleries(evaluation: Path, splits: list[str]) -> list[dict[str, Any]]:
    """For each split the cases of each kind, with their pictures."""
    galleries = []
    folder = evaluation / GALLERY
    for split in splits:
        listing = folder / f"{split}.json"
        kinds: dict[str, list[dict[str, Any]]] = {}
        for case in read_json(listing) if listing.is_file() else []:
            picture = _web_picture(resolve_inside(folder, case["file"]))
            kinds.setdefault(case["kind"], []).append(case | {"picture": picture})
        galleries.append({"split": split, "kinds": kinds})
    return galleries


def _web_picture(path: Path) -> str:
    """The picture as a data URI in a form that takes little room."""
    from PIL import Image

    buffer = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.save(buffer, "WEBP", quality=88)
    except OSError as error:
        raise DataError(f"a picture of the gallery cannot be read: {error}", where=str(path)) from None
    return data_uri(buffer.getvalue(), "image/webp")


def _confusions(measured: dict[str, Any], splits: list[str]) -> list[dict[str, Any]]:
    """For each split the rows of its confusion matrix: label, cells (count, share of the row), total."""
    confusions = []
    for split in splits:
        rows = []
        for label, row in zip(measured["labels"], measured["confusion"][split], strict=True):
            total = sum(row)
            cells = [(count, count / total if total else 0.0) for count in row]
            rows.append({"label": label, "cells": cells, "total": total})
        confusions.append({"split": split, "labels": measured["labels"], "rows": rows})
    return confusions


def _validation(found: dict[str, Any]) -> dict[str, Any]:
    """The checks of validation.json, counted by status, and those that did not pass."""
    checks = found.get("checks", [])
    counts: dict[str, int] = {}
    for check in checks:
        counts[check["status"]] = counts.get(check["status"], 0) + 1
    remarkable = [check for check in checks if check["status"] in ("fail", "warn")]
    return {"passed": found["passed"], "num_rows": found["num_rows"], "counts": counts, "checks": remarkable}


def _origin(
    measured: dict[str, Any], trained: dict[str, Any], provenance: dict[str, Any]
) -> list[tuple[str, str]]:
    """What the numbers belong to, (name, value)."""
    origin = {"model digest": measured["model_digest"], "data digest": measured["data_digest"]}
    origin |= {name: trained[name] for name in ("processes", "steps", "torch") if name in trained}
    origin |= {name.replace("_", " "): value for name, value in provenance.items() if value is not None}
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in origin.items()]
