"""A compiled pipeline that names an image which nobody builds fails on the cluster, not here."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

COMPILED = sorted((REPOSITORY / "pipelines" / "compiled").glob("*.yaml"))


@pytest.fixture(scope="module")
def built() -> set[str]:
    """The names that the image build of this version prints."""
    command = [sys.executable, "-m", "infra.images.build", "--names"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.name)
def test_every_image_in_a_compiled_pipeline_is_one_that_this_version_builds(
    path: Path, built: set[str]
) -> None:
    spec = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    containers = [e["container"] for e in spec["deploymentSpec"]["executors"].values()]
    named = {item["value"] for c in containers for item in c.get("env", ()) if item["name"] == "MEGL_IMAGE"}
    images = {container["image"] for container in containers}
    assert images
    assert images | named <= built
