"""Our image in a Docker engine, run as a hardened cluster runs it.

DOCKER_HOST names the engine, or it listens where Docker listens by default. The image is the one that
`make images` builds.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from components import IMAGE

HARDENED = (
    "--rm",
    "--read-only",
    "--tmpfs=/tmp:mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def user() -> str:
    """The image's user; where the tests run as somebody else, that one, who may then delete the files."""
    return f"{os.getuid() or 10001}:10001"


def docker(*arguments: str, timeout: float = 120) -> str:
    """Docker's standard output; fails with its standard error."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stderr}{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def image() -> str:
    """The image's name; skips where no engine answers, or where it has no such image."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if _fails("docker", "version"):
        pytest.skip("no Docker engine answers: start one, or name it in DOCKER_HOST")
    if _fails("docker", "image", "inspect", IMAGE):
        pytest.skip(f"the Docker engine has no image {IMAGE}: make images")
    return IMAGE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace that the image's user may write."""
    made = tmp_path / "workspace"
    made.mkdir()
    made.chmod(0o777)
    return made


@pytest.fixture
def run(image: str, folder: Path) -> Run:
    """Run a command in the image: `run("megl", "--help")`."""

    def start(*command: str) -> "subprocess.CompletedProcess[str]":
        options = [*HARDENED, f"--user={user()}", f"--volume={folder}:/workspace"]
        return subprocess.run(
            ["docker", "run", *options, image, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return start


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0
