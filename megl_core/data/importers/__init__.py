"""Importers by name: each reads one form of data and streams samples into the data contract."""

from dataclasses import dataclass
from pathlib import Path

from megl_core.config import DataConfig
from megl_core.data.contract import ANNOTATIONS, DATASET_JSON, refuse_to_replace
from megl_core.data.importers.act_x import ACT_X
from megl_core.data.importers.base import Importer
from megl_core.data.importers.coco import COCO
from megl_core.data.importers.folder import FOLDER
from megl_core.data.importers.megl_release import MEGL_RELEASE
from megl_core.data.importers.procedural import PROCEDURAL
from megl_core.data.importers.vqa_x import VQA_X
from megl_core.data.importers.writer import write_samples
from megl_core.errors import ConfigError, DataError
from megl_core.files import atomic_directory, sha256_json, write_json
from megl_core.progress import Reporter, get_reporter

IMPORTERS: dict[str, Importer] = {
    "folder": FOLDER,
    "megl-release": MEGL_RELEASE,
    "coco": COCO,
    "act-x": ACT_X,
    "vqa-x": VQA_X,
    "procedural": PROCEDURAL,
}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import wrote.

    Attributes:
        num_texts: samples with at least one rationale.
        num_skipped: rows of the source that hold no sample, such as images without annotation.
        labels: the number of samples of each label.
    """

    num_images: int
    num_masks: int
    num_texts: int
    num_skipped: int
    labels: dict[str, int]


def find_importer(name: str) -> Importer:
    """An importer by name.

    Raises:
        ConfigError: there is none.
    """
    if name not in IMPORTERS:
        raise ConfigError(f"no importer named {name!r}", fix=f"choose one of: {', '.join(IMPORTERS)}")
    return IMPORTERS[name]


def import_dataset(
    importer: str,
    source: Path | None,
    target: Path,
    config: DataConfig,
    reporter: Reporter | None = None,
) -> ImportReport:
    """Write the source as a folder of the data contract at `target`; an import that lies there is replaced.

    Image files are copied byte for byte under names made from their ids; they are not decoded
    (validation's business), but masks that need conversion are.

    Args:
        importer: a key of `IMPORTERS`.
        source: the folder that the importer reads; None for one that needs none. Where it is a copy, the
            dataset says `config.source` instead.

    Raises:
        ConfigError: no such importer, or it needs a source.
        DataError: listing every bad row; nothing is written then.
        MeglError: something else than an import is at `target`.
    """
    refuse_to_replace(target)
    chosen = find_importer(importer)
    folder = _source_folder(importer, chosen, source)
    labels = config.labels or chosen.labels(folder, config)
    with atomic_directory(target, marker=ANNOTATIONS) as temporary:
        with (reporter or get_reporter()).bar(f"import {importer}", total=None) as bar:
            tally = write_samples(chosen.rows(folder, config), temporary, bar)
        description = {
            "name": config.name,
            "labels": labels,
            "importer": importer,
            "source": None if source is None else config.source or str(source),
        }
        if not chosen.needs_source:
            description["parameters_sha256"] = sha256_json(config.scenes.model_dump(mode="json"))
        write_json(temporary / DATASET_JSON, description)
    return ImportReport(
        num_images=tally.num_images,
        num_masks=tally.num_masks,
        num_texts=tally.num_texts,
        num_skipped=tally.num_skipped,
        labels=dict(sorted(tally.labels.items())),
    )


def _source_folder(name: str, importer: Importer, source: Path | None) -> Path:
    if not importer.needs_source:
        return source or Path()
    if source is None:
        raise ConfigError(f"importer {name!r} needs a source folder", fix="set data.source")
    if not source.is_dir():
        raise DataError("no such source folder", where=str(source))
    return source
