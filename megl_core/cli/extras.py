"""Which packages each extra of MEGL needs, read from the installed metadata, and which are there."""

import importlib.metadata
import re

from megl_core.errors import MeglError, UnavailableError

CORE = "core"
DISTRIBUTION = "megl"


def requirements() -> dict[str, list[str]]:
    """`{extra: [package, ...]}` with the extras that an extra includes laid flat; `core` for no extra."""
    direct: dict[str, list[str]] = {CORE: []}
    for extra in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        direct[extra] = []
    for requirement in importlib.metadata.requires(DISTRIBUTION) or ():
        specifier, _, marker = requirement.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        direct[extra[1] if extra else CORE].append(specifier)
    return {extra: _flat(extra, direct) for extra in direct}


def _flat(extra: str, direct: dict[str, list[str]]) -> list[str]:
    packages = []
    for specifier in direct[extra]:
        name, included = re.match(r"([\w.-]+)(?:\[([^\]]*)\])?", specifier.strip()).groups()  # type: ignore[union-attr]
        if name == DISTRIBUTION:
            packages += [package for other in included.split(",") for package in _flat(other.strip(), direct)]
        else:
            packages.append(name)
    return sorted(set(packages))


def version(package: str) -> str | None:
    """The installed version of a package, or None; nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def how_to_complete(extra: str) -> str:
    """The command that installs what an extra lacks, run in a clone of the repository."""
    if extra in (CORE, "dev", "model"):
        return "make setup"
    return f"uv pip install --requirements requirements-{extra}.lock"


def missing_package(module: str) -> MeglError | None:
    """The error for a module that cannot be imported, if one of the extras would bring it."""
    wanted = _normal(module.partition(".")[0])
    for extra, packages in requirements().items():
        if extra not in (CORE, "dev") and wanted in map(_normal, packages):
            return UnavailableError(
                f"this needs the package {wanted}, which is not installed here", fix=how_to_complete(extra)
            )
    return None


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")
