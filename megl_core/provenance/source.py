"""What runs here: the code's commit, the image or the installed packages, the pipeline's run."""

import functools
import importlib.metadata
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import megl_core
from megl_core.files import sha256_file, sha256_json
from megl_core.redaction import location_uri

COMMIT_VARIABLE = "MEGL_CODE_COMMIT"
IMAGE_VARIABLE = "MEGL_IMAGE"
IMAGE_DIGEST_VARIABLE = "MEGL_IMAGE_DIGEST"
PIPELINE_RUN_VARIABLE = "MEGL_PIPELINE_RUN"

_LOCK = "requirements.lock"
_GIT_SECONDS = 10


@dataclass(frozen=True)
class Code:
    """Where the code of MEGL comes from.

    Attributes:
        commit: of its checkout, or what `MEGL_CODE_COMMIT` says; "" where neither is known.
        dirty: the checkout differs from the commit, or `megl_core` holds new files; None: unknown.
        uri: the checkout's remote as a URI, without credentials; "" where it has none.
        lock_digest: SHA-256 of the checkout's lock file; "" without one.
    """

    commit: str
    dirty: bool | None
    uri: str = ""
    lock_digest: str = ""


@functools.cache
def find_code() -> Code:
    """The code that this process runs."""
    root = Path(megl_core.__file__).resolve().parent.parent
    lock = root / _LOCK
    lock_digest = sha256_file(lock) if lock.is_file() else ""
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit is None:
        return Code(os.environ.get(COMMIT_VARIABLE, ""), None, lock_digest=lock_digest)
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    added = _git(root, "ls-files", "--others", "--exclude-standard", "megl_core")
    dirty = None if changed is None or added is None else bool(changed or added)
    remote = _git(root, "remote", "get-url", "origin")
    return Code(commit, dirty, location_uri("git", remote or ""), lock_digest)


def find_image() -> tuple[str, str]:
    """Name and digest (`sha256:...`) of the container image, as its pod says; empty outside of one."""
    return os.environ.get(IMAGE_VARIABLE, ""), os.environ.get(IMAGE_DIGEST_VARIABLE, "")


@functools.cache
def environment_digest() -> str:
    """SHA-256 over the names and versions of all installed packages."""
    installed = {
        str(package.metadata["Name"]).lower(): package.version
        for package in importlib.metadata.distributions()
    }
    return sha256_json(installed)


def pipeline_run() -> str:
    """The pipeline run that this process belongs to; "" outside of one."""
    return os.environ.get(PIPELINE_RUN_VARIABLE, "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None where there is no git or it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
