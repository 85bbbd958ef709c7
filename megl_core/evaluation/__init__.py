"""How good a model is, in numbers and in pictures: the evaluate step.

`evaluation.json` holds the numbers, `predictions.parquet` a row for every sample, `gallery/` pictures of
the best, the worst and random cases. `report.py` makes a page of them.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core import files
from megl_core.code import code_digest
from megl_core.config import EvaluationConfig, StorageConfig
from megl_core.data.contract import TRAIN
from megl_core.data.packed import PackedDataset, PackedFiles, PackInfo, read_info
from megl_core.data.streaming import open_packed
from megl_core.errors import ConfigError, DataError
from megl_core.memory import keep_freed_memory
from megl_core.progress import Reporter, get_reporter

if TYPE_CHECKING:
    from megl_core.evaluation.predict import Prediction
    from megl_core.evaluation.scores import SplitScores
    from megl_core.models.megl import MEGL

EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.parquet"
FORMAT_VERSION = 1
_DEFAULTS = EvaluationConfig()


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        folder: where evaluation.json, predictions.parquet and gallery/ lie.
        model_digest: SHA-256 over the model folder.
        data_digest: root digest of the packed data.
        labels: the model's labels, in index order.
        metrics: `{split: {metric: value}}`; metrics that the data cannot give are absent.
    """

    folder: Path
    model_digest: str
    data_digest: str
    labels: list[str]
    metrics: dict[str, dict[str, float]]


def evaluate(
    model: Path,
    data: Path | str,
    config: EvaluationConfig,
    output: Path,
    reporter: Reporter | None = None,
    device: str = "cpu",
    storage: StorageConfig | None = None,
) -> Evaluation:
    """Measure the model in a folder on the splits of a packed dataset; write `output`, all or nothing.

    Args:
        data: a folder, or the s3:// address that it was uploaded to.
        storage: how S3 is reached.

    Raises:
        ConfigError: a split or a free column that `config` names does not exist, or a model that should
            judge the rationales.
        DataError: no model, no packed data, nothing to evaluate, or data labels unknown to the model.
        MeglError: something else than an evaluation is at `output`.
        UnavailableError: there is no such device.
    """
    files.refuse_to_replace_others(output, EVALUATION_FILE)
    import torch

    torch.set_num_threads(config.num_threads)
    with keep_freed_memory(), open_packed(data, storage or StorageConfig()) as source:
        return _evaluate(model, source, config, output, reporter or get_reporter(), device)


def _evaluate(
    model: Path, data: PackedFiles, config: EvaluationConfig, output: Path, reporter: Reporter, device: str
) -> Evaluation:
    from megl_core.evaluation.cues import find_cue
    from megl_core.evaluation.judges import TextJudge, left_out
    from megl_core.evaluation.predict import predict
    from megl_core.evaluation.scores import score_split
    from megl_core.metrics.meteor import Meteor
    from megl_core.models.megl import MEGL

    info = read_info(data)
    splits = _splits(info, config, data.where)
    main_splits = _main_splits(config, splits, data.where, reporter)
    network = MEGL.from_pretrained(model, device)
    label_map = _label_map(info.labels, network.labels, model)
    cue = find_cue(data, config.group_columns, network.labels)
    if cue is None:
        _require_default_columns(config, data.where)
    judge = TextJudge.load(config, network.device)
    reasons = left_out(config)
    predictions = {}
    total = sum(info.splits[name] for name in splits)
    with nullcontext() if "meteor" in reasons else Meteor() as meteor:
        with reporter.bar("evaluate", total=total) as bar:
            for split in splits:
                rows = PackedDataset(data, split)
                predictions[split] = predict(network, rows, label_map, config, judge, bar.advance)
        by_id = {prediction.id: prediction for part in predictions.values() for prediction in part}
        scores = {
            split: score_split(part, network.labels, config, by_id, cue, meteor)
            for split, part in predictions.items()
        }
    model_digest = files.sha256_tree(model)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model_digest": model_digest,
        "data_digest": info.digest,
        "method_digest": _method_digest(config),
        "labels": network.labels,
        "explained_class": "predicted",
        **main_splits,
        "cue": None if cue is None else asdict(cue),
        "left_out": reasons,
        **_sections(scores),
    }
    _write(output, description, predictions, network, data, config)
    return Evaluation(output, model_digest, info.digest, network.labels, description["metrics"])


def _method_digest(config: EvaluationConfig) -> str:
    """What two evaluations must share to be compared: settings, code, and the models that judge texts."""
    judges = [Path(path) for path in (config.bertscore_model, config.clipscore_model) if path is not None]
    return files.sha256_json(
        {
            "config": config.model_dump(mode="json"),
            "code": code_digest(),
            "judges": [files.sha256_tree(path) for path in judges],
        }
    )


def read_evaluation(folder: Path) -> dict[str, Any]:
    """evaluation.json of an evaluation's folder.

    Raises:
        DataError: there is none, or it is of another version.
    """
    description = files.read_json(folder / EVALUATION_FILE)
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"not an evaluation of version {FORMAT_VERSION}",
            where=str(folder / EVALUATION_FILE),
            fix="make one: megl evaluate MODEL DATA",
        )
    return dict(description)


def _splits(info: PackInfo, config: EvaluationConfig, where: str) -> list[str]:
    """The splits to evaluate: those asked for, else all but train; empty ones are left out."""
    unknown = sorted(set(config.splits or ()) - info.splits.keys())
    if unknown:
        raise ConfigError(
            f"evaluation.splits names {', '.join(unknown)}, which the data lacks",
            where=where,
            fix=f"choose from: {', '.join(sorted(info.splits))}",
        )
    asked = config.splits if config.splits is not None else [name for name in info.splits if name != TRAIN]
    splits = [name for name in asked if info.splits[name]]
    if not splits:
        raise DataError(
            "nothing to evaluate: no split but train holds a sample",
            where=where,
            fix="give some rows a split, or set data.split.test above 0 and pack again",
        )
    return splits


def _label_map(data_labels: Sequence[str], model_labels: Sequence[str], model: Path) -> list[int]:
    """The model's index of each label of the data."""
    unknown = [label for label in data_labels if label not in model_labels]
    if unknown:
        raise DataError(
            f"the model does not know the labels {', '.join(unknown)}",
            where=str(model),
            fix=f"it was trained on: {', '.join(model_labels)}; train on this data, or evaluate on that",
        )
    return [model_labels.index(label) for label in data_labels]


def _main_splits(
    config: EvaluationConfig, splits: list[str], where: str, reporter: Reporter
) -> dict[str, str | None]:
    """The splits that stand for the data the model knows and for shifted data.

    Not all data have the splits that the defaults name; who names others means them.
    """
    found: dict[str, str | None] = {}
    for name in ("primary_split", "shifted_split"):
        split = getattr(config, name)
        found[name] = split if split in splits else None
        if split is not None and found[name] is None and split != getattr(_DEFAULTS, name):
            raise ConfigError(
                f"evaluation.{name} names {split}, which is not evaluated",
                where=where,
                fix=f"choose from: {', '.join(splits)}",
            )
    if found["primary_split"] is None:
        found["primary_split"] = splits[0]
        reporter.message(
            f"there is no split {config.primary_split!r} to evaluate: primary is {splits[0]!r}; "
            "evaluation.primary_split chooses another"
        )
    return found


def _require_default_columns(config: EvaluationConfig, where: str) -> None:
    """Not all data have the column that the default names; who names others means one of them."""
    if config.group_columns and config.group_columns != _DEFAULTS.group_columns:
        raise ConfigError(
            f"evaluation.group_columns names {', '.join(config.group_columns)}, which no row has",
            where=where,
            fix="name a free column of annotations.jsonl, or [] for none",
        )


def _sections(scores: dict[str, "SplitScores"]) -> dict[str, dict[str, Any]]:
    """`{section: {split: content}}`, as evaluation.json holds the scores."""
    parts = {split: asdict(part) for split, part in scores.items()}
    names = [field.name for field in fields(next(iter(scores.values())))]
    return {name: {split: part[name] for split, part in parts.items()} for name in names}


def _write(
    output: Path,
    description: dict[str, Any],
    predictions: dict[str, list["Prediction"]],
    model: "MEGL",
    data: PackedFiles,
    config: EvaluationConfig,
) -> None:
    import pyarrow.parquet as pq

    from megl_core.evaluation.gallery import write_gallery
    from megl_core.evaluation.predict import to_table

    with files.atomic_directory(output, marker=EVALUATION_FILE) as folder:
        pq.write_table(to_table(predictions, model.labels), folder / PREDICTIONS_FILE)
        digest = files.sha256_file(folder / PREDICTIONS_FILE)
        files.write_json(folder / EVALUATION_FILE, description | {"predictions_digest": digest})
        for split in (description["primary_split"], description["shifted_split"]):
            if split is not None:
                rows = PackedDataset(data, split)
                write_gallery(folder, split, predictions[split], model, rows, config.gallery)
