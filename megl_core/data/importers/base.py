"""What importers yield, and the reading they share. An importer reads; `writer` writes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megl_core.config import DataConfig
from megl_core.data.contract import Sample
from megl_core.errors import DataError
from megl_core.files import resolve_inside, unique_keys


@dataclass(frozen=True, slots=True)
class Incoming:
    """A sample on its way in.

    Attributes:
        where: file and line or key in the source, for messages.
        sample: `image` names the source's file; the writer puts in the names of the copies.
        image, mask: a file to copy, or the bytes of an image file.
    """

    where: str
    sample: Sample
    image: Path | bytes
    mask: Path | bytes | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be imported, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that the form allows and that holds no sample, such as an image without any annotation."""

    where: str
    reason: str


Item = Incoming | Problem | Skipped


def _no_labels(source: Path, config: DataConfig) -> list[str] | None:  # noqa: ARG001 (the interface)
    return None


@dataclass(frozen=True, slots=True)
class Importer:
    """A form of data on disk.

    Attributes:
        summary: one line for the command line's help.
        rows: streams the source's samples.
        labels: the labels that the source declares, or None.
        needs_source: False where the samples come from the configuration alone.
    """

    summary: str
    rows: Callable[[Path, DataConfig], Iterator[Item]]
    labels: Callable[[Path, DataConfig], list[str] | None] = field(default=_no_labels)
    needs_source: bool = True


def attempt(where: str, build: Callable[[], Item]) -> Item:
    """The item that `build` returns; a `DataError` on the way becomes a `Problem`."""
    try:
        return build()
    except DataError as error:
        return Problem(where, error.what)


def locate(root: Path, *candidates: str) -> Path:
    """The first of `candidates` (paths that the data names, relative to `root`) that is a regular file.

    Raises:
        DataError: one of them is unsafe or cannot be read, or none is there.
    """
    for candidate in candidates:
        path = resolve_inside(root, candidate)
        try:
            if path.is_file():
                path.open("rb").close()
                return path
        except OSError as error:
            raise DataError(f"{candidate!r} cannot be read: {error.strerror}") from None
    raise DataError(f"no file {' or '.join(map(repr, candidates))} in {root}")


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DataError: the file is missing, is not JSON, is no object, or an object has a key twice; names line
            and column, or the key.
    """
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing", where=str(path)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not usable JSON: {error}", where=str(path)) from None
    if not isinstance(document, dict):
        raise DataError(f"{path.name} must hold a JSON object", where=str(path))
    return document


def text_of(row: Any, key: str) -> str:
    """A non-empty string, or a number as a string, from a JSON object.

    Raises:
        DataError: the key is absent or holds something else.
    """
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{key!r} must be a non-empty string (got {value!r})")
    return value.strip()


def texts_of(values: Any, key: str) -> tuple[str, ...]:
    """A JSON list of strings, without the blank ones; nothing for null.

    Raises:
        DataError: it is something else.
    """
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{key!r} must be a list of strings")
    return tuple(value.strip() for value in values if value.strip())


def objects_of(document: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """A list of JSON objects from a document that was read from `path`.

    Raises:
        DataError: the key is absent or holds something else.
    """
    values = document.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{key!r} must be a list of objects", where=str(path))
    return values


def split_files(folder: Path, pattern: str) -> list[Path]:
    """The files of `folder` that match, in the order of their names.

    Raises:
        DataError: there are none.
    """
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not files:
        raise DataError(
            f"no file {pattern!r}",
            where=str(folder),
            fix="docs/data.md says which files each importer expects",
        )
    return files
