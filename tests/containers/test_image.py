"""What the image is, holds and leaves out."""

import json
import re
import subprocess
import time
from typing import Any

import pytest

from infra.images.build import BOM, layer_sizes
from megl_core import __version__
from tests.containers.conftest import Run, docker

pytestmark = [pytest.mark.service, pytest.mark.slow]

TOOLS = "pip pip3 uv gcc cc g++ c++ ld make cmake apt apt-get git curl wget"
CACHES = "/root/.cache /var/cache/apt /var/lib/apt/lists /tmp /build /root/.local"
INSTALLED = """
import importlib.metadata, json

print(json.dumps({d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}))
"""
SECRET = re.compile(
    r"(?i)(password|passwd|token|secret|access_key|api_key)[\w.-]*\s*[=:]\s*\S+|://[^/\s]+:[^/\s]+@"
)


@pytest.fixture
def inspected(image: str) -> Any:
    return json.loads(docker("image", "inspect", image))[0]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_runs_as_a_user_without_rights(inspected: Any, run: Run) -> None:
    assert inspected["Config"]["User"] == "10001:10001"
    assert run("id", "-u").stdout.strip() != "0"


def test_its_labels_say_which_version_and_commit_it_is(inspected: Any) -> None:
    labels = inspected["Config"]["Labels"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == __version__
    assert labels[f"{prefix}.licenses"] == "Apache-2.0"
    assert labels[f"{prefix}.base.name"]
    commit = labels[f"{prefix}.revision"]  # empty where it was built from changed files
    assert re.fullmatch(r"[0-9a-f]{40}|", commit)
    assert f"MEGL_CODE_COMMIT={commit}" in inspected["Config"]["Env"]


def test_it_is_three_layers(image: str) -> None:
    assert list(layer_sizes(image)) == ["system", "packages", "code"]


def test_no_tool_that_builds_or_installs_is_left(run: Run) -> None:
    done = run("sh", "-c", f"for tool in {TOOLS}; do command -v $tool; done; echo looked")
    assert done.stdout.split() == ["looked"]
    assert run("python", "-m", "pip").returncode == 1


def test_no_cache_is_left(run: Run) -> None:
    done = run("sh", "-c", f"find {CACHES} -type f 2>/dev/null; echo looked")
    assert done.stdout.split() == ["looked"]


def test_its_history_and_environment_hold_no_secret(image: str, inspected: Any) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    for text in (history, *inspected["Config"]["Env"]):
        assert not SECRET.search(text), SECRET.search(text)


def test_nothing_of_it_can_be_changed_even_where_the_root_is_writable(image: str) -> None:
    command = [
        "docker",
        "run",
        "--rm",
        "--network=none",
        image,
        "sh",
        "-c",
        "touch /opt/megl/x /etc/x /usr/x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("Permission denied") == 3


def test_the_bill_of_materials_lists_each_package_as_it_is_installed(run: Run) -> None:
    bom = json.loads(run("cat", BOM).stdout)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    references = [component["bom-ref"] for component in bom["components"]]
    assert len(references) == len(set(references)) > 100
    assert bom["metadata"]["component"]["version"] == __version__

    listed = {normal(one["name"]): one["version"] for one in bom["components"]}
    installed = {
        normal(name): version for name, version in json.loads(run("python", "-c", INSTALLED).stdout).items()
    }
    assert installed.pop("megl") == __version__
    assert "torch" in installed
    assert installed.items() <= listed.items()


def test_its_first_useful_line_comes_in_seconds(run: Run) -> None:
    begun = time.monotonic()
    assert "Usage" in run("megl", "--help").stdout
    assert time.monotonic() - begun < 20
