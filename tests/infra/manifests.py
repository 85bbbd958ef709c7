"""What kustomize makes of infra/kubernetes, and ways to look at it."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

KUBERNETES = REPOSITORY / "infra" / "kubernetes"
OVERLAYS = ("overlays/dev", "overlays/prod")
JOBS = ("jobs/check", "jobs/schedule")
FOLDERS = OVERLAYS + JOBS

Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """The objects of a kustomization; skips the test where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which brings kustomize, is not installed")
    made = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert made.returncode == 0, made.stderr
    assert not made.stderr, made.stderr  # kustomize warns of fields that will go
    return [found for found in yaml.safe_load_all(made.stdout) if found]


@functools.cache
def objects(folder: str) -> tuple[Object, ...]:
    """The objects of one of `FOLDERS`."""
    return tuple(render(KUBERNETES / folder))


def find(folder: str, kind: str, name: str) -> Object:
    """The one object of that kind and name, a generated name's digest left out."""
    found = [one for one in objects(folder) if one["kind"] == kind and plain_name(one) == name]
    assert len(found) == 1, f"{kind} {name} of {folder}: {len(found)}"
    return found[0]


def plain_name(one: Object) -> str:
    """Its name without the digest that kustomize adds to a generated ConfigMap."""
    name: str = one["metadata"]["name"]
    return name.rpartition("-")[0] if one["kind"] == "ConfigMap" else name


def pod_templates(folder: str) -> Iterator[tuple[str, Object]]:
    """Every pod template with the name of what holds it."""
    for one in objects(folder):
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "ClusterTrainingRuntime":
            for job in one["spec"]["template"]["spec"]["replicatedJobs"]:
                yield f"{name}/{job['name']}", job["template"]["spec"]["template"]
        elif "template" in one.get("spec", {}):
            yield name, one["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    """Every container of a pod template's `spec`, those that run first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]
