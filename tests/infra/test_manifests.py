"""Each kustomization builds, and what it builds is what current servers take."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from infra.images.build import NAMES
from megl_core.config import ClusterConfig
from tests.infra.manifests import FOLDERS, OVERLAYS, containers, find, objects, plain_name, pod_templates

SCHEMAS = Path(__file__).parent / "schemas"
_MAJOR, _MINOR = (int(part) for part in kubernetes_validate.latest_version().split(".")[:2])
VERSIONS = [f"{_MAJOR}.{_MINOR - older}" for older in range(3)]


def validate(found: dict[str, Any], version: str) -> None:
    """Fail at a field that Kubernetes of that version or the custom resource's definition does not know."""
    if found["kind"] != "ClusterTrainingRuntime":
        kubernetes_validate.validate(found, version, strict=True)
        return
    schema = json.loads((SCHEMAS / "clustertrainingruntime.json").read_text())
    jsonschema.validate(found, schema, jsonschema.Draft202012Validator)
    for job in found["spec"]["template"]["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", **job["template"]}
        whole["metadata"] = {"name": job["name"], **job["template"].get("metadata", {})}
        kubernetes_validate.validate(whole, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_valid_for_the_newest_servers(folder: str, version: str) -> None:
    for one in objects(folder):
        validate(one, version)


def test_a_field_that_nobody_knows_is_found_everywhere() -> None:
    runtime = json.loads(json.dumps(find("overlays/dev", "ClusterTrainingRuntime", "megl")))
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(runtime, VERSIONS[0])
    del pod["containers"][0]["imagePullPolice"]
    validate(runtime, VERSIONS[0])
    runtime["spec"]["template"]["spec"]["ttlSecondAfterFinished"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate(runtime, VERSIONS[0])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_image_is_one_that_we_build_or_pinned_by_digest(folder: str) -> None:
    images = {one["image"] for _, template in pod_templates(folder) for one in containers(template["spec"])}
    assert images
    for image in images:
        ours = image.removeprefix("registry.example.com/") in NAMES.values()
        assert ours or re.fullmatch(r".+:[0-9.]+@sha256:[0-9a-f]{64}", image), image


def test_production_trains_in_the_image_for_gpus_and_serves_from_the_small_one() -> None:
    used = {
        name: {one["image"] for one in containers(template["spec"])}
        for name, template in pod_templates("overlays/prod")
    }
    assert used == {
        "Deployment/mlflow": {f"registry.example.com/{NAMES['cpu']}"},
        "ClusterTrainingRuntime/megl/node": {f"registry.example.com/{NAMES['cuda']}"},
    }


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_launcher_finds_namespace_and_runtime_under_its_own_defaults(folder: str) -> None:
    defaults = ClusterConfig()
    find(folder, "ClusterTrainingRuntime", defaults.runtime)
    namespaces = {one["metadata"].get("namespace", defaults.namespace) for one in objects(folder)}
    assert namespaces == {defaults.namespace}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_asks_for_processor_and_memory_and_bounds_its_memory(folder: str) -> None:
    for name, template in pod_templates(folder):
        for one in containers(template["spec"]):
            assert {"cpu", "memory"} <= one["resources"]["requests"].keys(), name
            assert "memory" in one["resources"]["limits"], name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_server_has_the_three_probes_and_every_deployment_survives_a_drained_node(folder: str) -> None:
    budgets = [one["spec"] for one in objects(folder) if one["kind"] == "PodDisruptionBudget"]
    for one in objects(folder):
        if one["kind"] not in ("Deployment", "StatefulSet"):
            continue
        template = one["spec"]["template"]
        for container in template["spec"]["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        if one["kind"] == "Deployment":
            covering = [
                budget
                for budget in budgets
                if budget["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
            ]
            # `minAvailable: 1` of one replica would never let its node go
            assert [budget["maxUnavailable"] for budget in covering] == [1]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_whatever_a_pod_mounts_or_runs_as_is_there_or_is_a_secret_that_the_page_tells_to_make(
    folder: str,
) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in objects(folder)}
    page = (SCHEMAS.parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    for name, template in pod_templates(folder):
        pod = template["spec"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in made, name
        for kind, wanted in references(pod):
            assert (kind, wanted) in made or re.search(rf"create {kind.lower()} [a-z ]*{wanted}\b", page), (
                f"{name} wants {kind} {wanted}"
            )


def references(pod: dict[str, Any]) -> set[tuple[str, str]]:
    """Kind and name of what a pod cannot start without."""
    found = set()
    for volume in pod.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            found.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        if "configMap" in volume:
            found.add(("ConfigMap", volume["configMap"]["name"]))
        if "secret" in volume:
            found.add(("Secret", volume["secret"]["secretName"]))
    for container in containers(pod):
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source and not source[key].get("optional"):
                    found.add((kind, source[key]["name"]))
        for variable in container.get("env", []):
            if chosen := variable.get("valueFrom", {}).get("secretKeyRef"):
                found.add(("Secret", chosen["name"]))
    return found


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_changed_setting_restarts_the_server_because_its_name_changes(folder: str) -> None:
    generated = [one["metadata"]["name"] for one in objects(folder) if one["kind"] == "ConfigMap"]
    assert sorted(plain_name(one) for one in objects(folder) if one["kind"] == "ConfigMap") == [
        "mlflow",
        "mlflow-migrate",
    ]
    assert all(re.fullmatch(r".+-[a-z0-9]{10}", name) for name in generated)
