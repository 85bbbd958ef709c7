"""Writing what an importer reads as a folder of the data contract: all of it, or nothing."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from megl_core.data.contract import ANNOTATIONS, IMAGES, MASKS, BadRow, Sample, parse_line
from megl_core.data.importers.base import Incoming, Item, Problem, Skipped
from megl_core.errors import DataError
from megl_core.progress import Bar

MAX_PROBLEMS = 1000

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


@dataclass(slots=True)
class Tally:
    """What was written, and what was wrong."""

    num_images: int = 0
    num_masks: int = 0
    num_texts: int = 0
    num_skipped: int = 0
    num_problems: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add_problem(self, problem: Problem) -> None:
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(str(problem))


def write_samples(items: Iterable[Item], folder: Path, bar: Bar) -> Tally:
    """Copy samples into `folder`, one at a time, and write their annotations.

    From the first bad row on nothing more is copied, but all rows are still checked.

    Raises:
        DataError: rows that cannot be imported, ids that occur twice, or no row at all.
    """
    tally = Tally()
    first_seen: dict[str, str] = {}
    (folder / IMAGES).mkdir()
    (folder / MASKS).mkdir()
    with (folder / ANNOTATIONS).open("wb") as annotations:
        for item in items:
            bar.advance()
            if isinstance(item, Skipped):
                tally.num_skipped += 1
                continue
            problem = item if isinstance(item, Problem) else _check(item, first_seen)
            if problem:
                tally.add_problem(problem)
            elif not tally.num_problems and isinstance(item, Incoming):
                annotations.write(_line(_copy(item, folder)))
                _count(item, tally)
    if tally.num_problems:
        raise DataError(
            f"{tally.num_problems} {'row' if tally.num_problems == 1 else 'rows'} cannot be imported; "
            "nothing was written",
            fix="correct these rows in the source",
            problems=tally.problems,
        )
    if not tally.num_images:
        raise DataError("the source holds no sample")
    return tally


def _check(item: Incoming, first_seen: dict[str, str]) -> Problem | None:
    """Whether the row fits the contract, whatever its importer let through, and its id is new."""
    try:
        row = parse_line(_line(item.sample), 0)
    except ValueError as error:
        return Problem(item.where, f"not representable as JSON: {error}")
    if isinstance(row, BadRow):
        return Problem(item.where, row.reason)
    earlier = first_seen.setdefault(item.sample.id, item.where)
    if earlier is not item.where:
        return Problem(item.where, f"id {item.sample.id!r} occurs twice, first in {earlier}")
    return None


def _line(sample: Sample) -> bytes:
    return json.dumps(sample.to_json(), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _copy(item: Incoming, folder: Path) -> Sample:
    """Store the image and the mask; return the sample with the names of the copies."""
    image = _store(item.image, folder / IMAGES, item.sample.id, item.sample.image)
    mask = None
    if item.mask is not None:
        mask = _store(item.mask, folder / MASKS, item.sample.id, item.sample.mask or ".png")
    return replace(item.sample, image=f"{IMAGES}/{image}", mask=mask and f"{MASKS}/{mask}")


def _store(content: Path | bytes, folder: Path, identifier: str, source_name: str) -> str:
    suffix = ".png"
    if isinstance(content, Path):
        suffix = PurePosixPath(source_name).suffix.lower()
    target = _free_name(folder, identifier, suffix if suffix in _SUFFIXES else ".bin")
    if isinstance(content, Path):
        shutil.copyfile(content, target)
    else:
        target.write_bytes(content)
    return target.name


def _free_name(folder: Path, identifier: str, suffix: str) -> Path:
    """A file for this id alone: its name is the id, or where that is no plain name or is taken (a file
    system that ignores case), what remains of it and a digest behind `~`, which no plain name contains.
    """
    plain = folder / f"{identifier}{suffix}"
    if _PLAIN_NAME.fullmatch(identifier) and not plain.exists():
        return plain
    digest = hashlib.sha256(identifier.encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", identifier)[:80]
    return folder / f"{readable}~{digest}{suffix}"


def _count(item: Incoming, tally: Tally) -> None:
    tally.num_images += 1
    tally.num_masks += item.mask is not None
    tally.num_texts += bool(item.sample.explanations)
    tally.labels[item.sample.label] += 1
