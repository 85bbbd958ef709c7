"""Which code this is: what a cached result or a checkpoint has to agree with."""

import functools
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from megl_core.files import sha256_file, sha256_json

# Libraries that decide about results; the rest only carries them.
_LIBRARIES = (
    "great-expectations",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "tokenizers",
    "torch",
    "transformers",
)
_CARRIERS = ("cli/", "cluster/", "lineage/", "operations/", "provenance/", "registry/", "remote/", "storage/")


@functools.cache
def code_digest() -> str:
    """SHA-256 over the source of megl_core and the versions of its main libraries.

    Left out is what only carries results and cannot change them: command line, registry, provenance,
    lineage, storage, cluster, remote, operations. Builds of one version (`2.13.0+cpu`) count as the same: a
    step without a GPU and the nodes that train for it have the same code.
    """
    root = Path(__file__).parent
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    sources = {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(files)}
    counted = {name: digest for name, digest in sources.items() if not name.startswith(_CARRIERS)}
    return sha256_json({"sources": counted, "libraries": {name: _version(name) for name in _LIBRARIES}})


def _version(package: str) -> str | None:
    """The public version, without the local part that names a build."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
