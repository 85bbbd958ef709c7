"""A compiled pipeline that names an image which nobody builds fails on the cluster, not here."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.images.build import LAYERS, NAMES, with_sizes
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


def test_the_page_keeps_the_sizes_of_what_was_built_and_of_what_was_built_before() -> None:
    page = "before\n<!-- sizes -->\n<!-- /sizes -->\nafter\n"
    cpu, cuda = NAMES["cpu"], NAMES["cuda"]
    sizes = dict(zip(LAYERS, (1_000_000, 2_000_000, 3_400_000), strict=True))
    first = with_sizes(page, {cuda: sizes})
    both = with_sizes(first, {cpu: sizes})
    again = with_sizes(both, {cpu: sizes | {LAYERS[0]: 5_000_000}})
    assert f"| `{cuda}` | 1 MB | 2 MB | 3 MB | 6 MB |" in first
    assert [line.split("`")[1] for line in both.splitlines() if line.startswith("| `")] == [cpu, cuda]
    assert f"| `{cpu}` | 5 MB |" in again
    assert f"| `{cpu}` | 1 MB |" not in again
    assert again.startswith("before\n<!-- sizes -->\n| image |")
    assert again.endswith("|\n<!-- /sizes -->\nafter\n")
