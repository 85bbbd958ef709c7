"""A model's card: what it is, how good it is and where it is not, all of it read from its evaluation.

README.md in the manner of the model hub: YAML in front, Markdown below.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from megl_core.errors import DataError
from megl_core.files import read_json
from megl_core.metrics.names import COUNTS, METRICS, figure

CARD_FILE = "README.md"
UNKNOWN_LICENCE = "unknown"

_EVALUATION_FILE = "evaluation.json"
_CONFIG_FILE = "config.json"
_TRAINING_FILE = "training.json"
_NORMAL_95 = 1.959964
_FEW = 100

Metrics = Mapping[str, float]


def model_card(model: Path, evaluation: Path, licence: str = UNKNOWN_LICENCE) -> str:
    """The card of the model in a folder.

    Args:
        model: the folder; its training.json may be absent.
        evaluation: evaluation.json, or the folder that holds it.
        licence: as the hub names it, such as apache-2.0.

    Raises:
        DataError: no evaluation, or one of a model with other classes.
    """
    if evaluation.is_dir():
        evaluation = evaluation / _EVALUATION_FILE
    measured, described = read_json(evaluation), read_json(model / _CONFIG_FILE)
    if not measured.get("metrics"):
        raise DataError("not an evaluation: it holds no metrics", where=str(evaluation))
    if measured.get("labels", described["labels"]) != described["labels"]:
        raise DataError(
            "the evaluation is of a model with other classes",
            where=str(evaluation),
            fix="evaluate this model: megl evaluate MODEL DATA",
        )
    record = model / _TRAINING_FILE
    trained = read_json(record) if record.is_file() else {}
    sections = [
        _front_matter(measured, described, licence),
        _what_it_is(described, trained),
        "## What the numbers say\n\n" + "\n".join(f"- {line}" for line in findings(measured)),
        *_tables(measured),
        _limits(described, licence),
        _origin(measured, trained),
    ]
    return "\n\n".join(sections) + "\n"


def findings(measured: Mapping[str, Any]) -> list[str]:
    """What an evaluation says in plain sentences, the unwelcome among them, and what it leaves open."""
    metrics = _by_split(measured)
    primary, shifted = _main_splits(measured)
    known = metrics[primary]
    lines = [_accuracy_line(split, metrics[split]) for split in (primary, shifted) if split]
    if shifted:
        drop = known["accuracy"] - metrics[shifted]["accuracy"]
        lines.append(_drop_line(primary, shifted, drop))
    else:
        lines.append("No shifted data were evaluated: how it does on pictures of another kind is not known.")
    for split in metrics:
        lines += _worst_group_lines(split, metrics[split], measured.get("groups", {}).get(split, []))
    lines += [
        f"On `{split}`, {_percent(values['cue_flip_rate'])} of the predictions change when only the spurious "
        f"cue is exchanged ({values['cue_flip_n']:.0f} pairs)."
        for split, values in metrics.items()
        if "cue_flip_rate" in values
    ]
    if "ece" in known:
        lines.append(
            f"Its probabilities differ from how often it is right by {_percent(known['ece'])} on average."
        )
    return [*lines, _heat_map_line(primary, known), _rationale_line(primary, known)]


def interval(share: float, count: float) -> tuple[float, float]:
    """The 95 % confidence interval of a share of `count` samples.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    square = _NORMAL_95**2 / count
    middle = (share + square / 2) / (1 + square)
    half = _NORMAL_95 / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _accuracy_line(split: str, values: Metrics) -> str:
    if "n" not in values:
        return f"On `{split}`, {_percent(values['accuracy'])} of the images are classified right."
    low, high = interval(values["accuracy"], values["n"])
    few = " So few images say little." if values["n"] < _FEW else ""
    return (
        f"On `{split}`, {_percent(values['accuracy'])} of {values['n']:.0f} images are classified right "
        f"(95 % interval {_percent(low)} to {_percent(high)}).{few}"
    )


def _drop_line(primary: str, shifted: str, drop: float) -> str:
    way = "fewer" if drop >= 0 else "more"
    return (
        f"On shifted data (`{shifted}`) it gets {abs(100 * drop):.1f} points {way} right than on `{primary}`."
    )


def _worst_group_lines(split: str, values: Metrics, groups: list[dict[str, Any]]) -> list[str]:
    if "worst_group_accuracy" not in values or not groups:
        return []
    worst = groups[0]  # the evaluation sorts them
    name = ", ".join(f"{key} {value}" for key, value in worst.items() if key not in ("accuracy", "n"))
    return [
        f"The worst group of `{split}` ({name}) has an accuracy of {_percent(worst['accuracy'])} "
        f"({worst['n']} images)."
    ]


def _heat_map_line(split: str, values: Metrics) -> str:
    if "energy_in_mask" not in values:
        return "Nothing is known about its heat maps: no annotated regions to compare them with."
    inside = values["energy_in_mask"]
    verdict = "" if inside >= 0.5 else " Most of the evidence lies elsewhere: do not trust these maps."
    return (
        f"Of the evidence in its heat maps, {_percent(inside)} lies in the regions that people marked "
        f"(`{split}`, {values['masks_n']:.0f} images).{verdict}"
    )


def _rationale_line(split: str, values: Metrics) -> str:
    if "slot_accuracy" in values:
        return (
            f"Of the facts that its rationales should name, {_percent(values['slot_accuracy'])} are named "
            f"rightly (`{split}`, {values['slot_n']:.0f} images). The rest is missing or wrong, in sentences "
            "that read as well."
        )
    if "bleu4" in values:
        return (
            f"Its rationales resemble those of people (BLEU-4 {_percent(values['bleu4'])}, `{split}`); "
            "whether what they say is true was not measured."
        )
    return "No rationales were measured."


def _front_matter(measured: Mapping[str, Any], described: Mapping[str, Any], licence: str) -> str:
    names = {"accuracy": "accuracy", "macro_f1": "f1"}
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": str(measured.get("data_digest", ""))[:12], "type": "megl", "split": split},
            "metrics": [
                {"type": hub, "name": name, "value": round(values[name], 4)}
                for name, hub in names.items()
                if name in values
            ],
        }
        for split, values in _by_split(measured).items()
    ]
    parts = (described["model"]["backbone"], described["model"]["decoder"])
    bases = [part["path"] for part in parts if part.get("path") and _is_hub_name(part["path"])]
    front = {
        "license": licence,
        "library_name": "megl",
        "pipeline_tag": "image-classification",
        "tags": ["megl", "explainability", "saliency", "rationales"],
        **({"base_model": bases} if bases else {}),
        "metrics": list(names.values()),
        "model-index": [{"name": "MEGL", "results": results}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _is_hub_name(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith(("/", ".", "~"))


def _what_it_is(described: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    model, labels = described["model"], described["labels"]
    writes = described["decoder"] is not None or model["decoder"]["name"] != "none"
    answer = "its class, a heat map of the evidence for it" + (", and a sentence why" if writes else "")
    lines = [
        "# MEGL image classifier",
        "",
        f"For a picture it gives {answer}. It knows {len(labels)} classes: {', '.join(labels)}.",
        "",
        f"- Encoder: {_name_of(model['backbone'])}; heat maps: {model['saliency']}",
        f"- Decoder: {_name_of(model['decoder'])}",
    ]
    if "config" in trained:
        run, weights = trained["config"]["train"], trained["config"]["objective"]
        names = ("visual", "text", "consistency", "region")
        terms = ", ".join(f"{name} {weights[name]:g}" for name in names if weights[name])
        lines.append(
            f"- Training: {trained['steps']} steps in batches of {run['batch_size']}; "
            f"weights beside the classes: {terms or 'none, labels only'}"
        )
    return "\n".join(lines)


def _name_of(part: Mapping[str, Any]) -> str:
    path = part.get("path")
    return f"{part['name']}, from {path if _is_hub_name(path) else Path(path).name}" if path else part["name"]


def _tables(measured: Mapping[str, Any]) -> list[str]:
    """A table for each family of metrics that was measured: metrics in rows, splits in columns."""
    splits = _by_split(measured)
    families = {title: {name: shown for name, (shown, _) in part.items()} for title, part in METRICS.items()}
    tables = []
    for title, names in (families | {"Samples": COUNTS}).items():
        rows = [
            "| " + " | ".join([shown, *(_cell(name, values) for values in splits.values())]) + " |"
            for name, shown in names.items()
            if any(name in values for values in splits.values())
        ]
        if rows:
            head = ["| | " + " | ".join(splits) + " |", "|---" + "|---:" * len(splits) + "|"]
            tables.append("\n".join([f"## {title}", "", *head, *rows]))
    return tables


def _cell(name: str, values: Metrics) -> str:
    return figure(name, values[name]) if name in values else ""


def _limits(described: Mapping[str, Any], licence: str) -> str:
    lines = [
        "## Limits",
        "",
        f"- Every picture gets one of its {len(described['labels'])} classes, whatever it shows.",
        "- A heat map is relative to its own maximum: it says where the evidence lies, not how much there "
        "is. A clean map does not prove that nothing else counts.",
        "- A rationale comes from a decoder that was trained to sound like the annotators. It is no proof.",
    ]
    if licence == UNKNOWN_LICENCE:
        lines.append(
            "- Nobody has said under which licence the weights may be used: look at those of the training "
            "data and of the checkpoints."
        )
    return "\n".join(lines)


def _origin(measured: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    facts = {
        "model": measured.get("model_digest"),
        "data of the evaluation": measured.get("data_digest"),
        "data of the training": trained.get("data_digest"),
        "way of the evaluation": measured.get("method_digest"),
    }
    rows = [f"| {name} | `{digest}` |" for name, digest in facts.items() if digest]
    left_out = measured.get("left_out") or {}
    notes = [f"- Not measured: {name} ({reason})." for name, reason in left_out.items()]
    digests = ["## Digests", "", "| SHA-256 of the | |", "|---|---|", *rows]
    return "\n".join(digests + (["", *notes] if notes else []))


def _main_splits(measured: Mapping[str, Any]) -> tuple[str, str | None]:
    primary = measured.get("primary_split") or next(iter(measured["metrics"]))
    return primary, measured.get("shifted_split")


def _by_split(measured: Mapping[str, Any]) -> dict[str, Metrics]:
    """The metrics, the main splits first, then the others by name."""
    metrics: Mapping[str, Metrics] = measured["metrics"]
    names = dict.fromkeys([*filter(None, _main_splits(measured)), *sorted(metrics)])
    return {name: metrics[name] for name in names}


def _percent(share: float) -> str:
    return f"{share:.1%}"
