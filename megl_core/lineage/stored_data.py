"""Are the data at the DVC remote still those of a manifest? Images, masks, and every annotation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from megl_core.data.contract import ANNOTATIONS, BadRow, read_annotations, stated
from megl_core.errors import IntegrityError
from megl_core.storage.objects import StoredFolder, stored_folder

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 5
_ANNOTATED = ("id", "line", "label", "group", "image", "mask", "explanations", "extra")


def check_stored_data(dataset: Mapping[str, Any], manifest: "pa.Table", *, read: bool) -> str:
    """Compare what DVC keeps of a dataset with its manifest; what was seen, in words.

    Args:
        dataset: the resolved dependency of a statement.
        read: hash every image and mask and compare every annotation; else only look whether all are there.

    Raises:
        IntegrityError: naming the first files or samples that differ.
        DataError: no such repository or revision.
        UnavailableError: the repository or its remote cannot be read.
    """
    notes, md5 = dataset["annotations"], str(dataset["digest"]["dvcMd5"])
    with stored_folder(str(notes["repository"]), notes.get("revision"), md5) as folder:
        wanted = _files(manifest)
        problems = [*_missing(folder, wanted, read=read), *(_changed(folder, wanted) if read else ())]
        if not problems and read:
            problems = list(_other_annotations(folder, manifest))
        if problems:
            more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise IntegrityError(f"{', '.join(problems[:_SHOWN])}{more}", where=folder.place)
        done = f"annotations and {len(wanted)} images and masks {'hashed' if read else 'listed'}"
        return f"{done} at {folder.place}"


def _files(manifest: "pa.Table") -> dict[str, str]:
    """`{path in the dataset: SHA-256}` of images and masks."""
    pairs: dict[str, str] = {}
    for kind in ("image", "mask"):
        paths, digests = (manifest[column].to_pylist() for column in (kind, f"{kind}_sha256"))
        pairs |= {path: digest for path, digest in zip(paths, digests, strict=True) if path and digest}
    return pairs


def _missing(folder: StoredFolder, wanted: Mapping[str, str], *, read: bool) -> Iterator[str]:
    for path in sorted({*wanted, ANNOTATIONS}):
        if path not in folder.files:
            yield f"{path} (not in the DVC version)"
        elif not read and not folder.is_there(path):
            yield f"{path} (the object is gone)"


def _changed(folder: StoredFolder, wanted: Mapping[str, str]) -> Iterator[str]:
    for path, digest in sorted(wanted.items()):
        if path not in folder.files:
            continue
        try:
            if folder.sha256(path) != digest:
                yield f"{path} (other bytes than in the manifest)"
        except IntegrityError as error:
            yield f"{path} ({error.what})"


def _other_annotations(folder: StoredFolder, manifest: "pa.Table") -> Iterator[str]:
    """Samples whose label, texts or other columns are not those of the manifest."""
    rows = manifest.select(list(_ANNOTATED)).to_pylist()
    wanted = {row["line"]: row for row in rows}
    with TemporaryDirectory() as scratch:
        try:
            with (Path(scratch) / ANNOTATIONS).open("wb") as file:
                file.writelines(folder.chunks(ANNOTATIONS))
        except IntegrityError as error:
            yield f"{ANNOTATIONS} ({error.what})"
            return
        for line, sample in read_annotations(Path(scratch)):
            row = wanted.pop(line, None)
            if isinstance(sample, BadRow) or row != {"line": line, **stated(sample)}:
                yield f"{ANNOTATIONS} line {line} (not as in the manifest)"
    yield from (f"{row['id']} (not in {ANNOTATIONS})" for row in wanted.values())
