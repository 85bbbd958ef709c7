"""Pods, secrets, verbs and ways through the network: no more than is needed."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from megl_core.cluster.access import QUEUE_RIGHTS, RIGHTS
from tests.infra.manifests import FOLDERS, OVERLAYS, containers, find, objects, pod_templates

VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"),
    "secret",
}


def violations(pod: Mapping[str, Any]) -> list[str]:
    """What Pod Security's level `restricted` finds in a pod's `spec`, and a root file system that is not
    read-only, which it does not ask for."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    for volume in pod.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    shared = pod.get("securityContext", {})
    for one in containers(dict(pod)):
        own = one.get("securityContext", {})
        context = {**shared, **own}
        capabilities = own.get("capabilities", {})
        checks = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "drop ALL": "ALL" in capabilities.get("drop", []),
            "add": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": context.get("runAsUser") != 0,
            "seccompProfile": context.get("seccompProfile", {}).get("type")
            in ("RuntimeDefault", "Localhost"),
            "hostPort": not any(port.get("hostPort") for port in one.get("ports", [])),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        }
        found += [f"{one['name']}: {name}" for name, holds in checks.items() if not holds]
    return found


def test_the_check_of_pods_finds_each_thing_that_the_level_forbids() -> None:
    assert violations({"containers": [{"name": "bare"}]}) == [
        "bare: allowPrivilegeEscalation",
        "bare: drop ALL",
        "bare: runAsNonRoot",
        "bare: seccompProfile",
        "bare: readOnlyRootFilesystem",
    ]
    good = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert violations({"containers": [{"name": "good", "securityContext": good}]}) == []
    bad = good | {"privileged": True, "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}
    assert violations(
        {
            "hostPID": True,
            "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
            "containers": [{"name": "bad", "securityContext": bad, "ports": [{"hostPort": 80}]}],
        }
    ) == ["hostPID", "volume hostPath", "bad: privileged", "bad: add", "bad: runAsUser", "bad: hostPort"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_passes_pod_security_at_its_strictest(folder: str) -> None:
    for name, template in pod_templates(folder):
        assert violations(template["spec"]) == [], name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_namespace_enforces_that_level(folder: str) -> None:
    labels = find(folder, "Namespace", "megl")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_manifest_holds_a_secret(folder: str) -> None:
    assert not [one for one in objects(folder) if one["kind"] == "Secret"]
    secret = re.compile(r"(password|secret_access_key|access_key_id|token)$", re.IGNORECASE)
    for name, template in pod_templates(folder):
        for container in containers(template["spec"]):
            for variable in container.get("env", []):
                if secret.search(variable["name"]):
                    assert "valueFrom" in variable, f"{name}: {variable['name']}"
    for one in objects(folder):
        if one["kind"] == "ConfigMap":
            assert not [key for key in one["data"] if secret.search(key)]
            assert not re.search(r"://[^/@\s]*:[^/@\s]+@", json.dumps(one))  # an address with a password


# --- who may do what --------------------------------------------------------------------------

PIPELINE = {
    "trainer.kubeflow.org/trainjobs": {"create", "delete", "get", "patch"},
    "events": {"list"},
    "pods": {"get", "list"},
    "pods/log": {"get"},
    "kueue.x-k8s.io/workloads": {"list"},
    "argoproj.io/workflowtaskresults": {"create", "patch"},
    "configmaps:kfp-launcher": {"get"},
    "secrets:mlpipeline-minio-artifact": {"get"},
}
SCHEDULE = {
    f"pipelines.kubeflow.org/{resource}": {"create", "get", "list"}
    for resource in ("experiments", "jobs", "pipelines", "pipelines/versions")
}
VERBS = {"megl-pipeline": PIPELINE, "megl-schedule": SCHEDULE, "megl-training": {}, "mlflow": {}}


def verbs(folder: str) -> dict[str, dict[str, set[str]]]:
    """What each service account may: resource (and name) -> verbs."""
    found: dict[str, dict[str, set[str]]] = {
        one["metadata"]["name"]: {} for one in objects(folder) if one["kind"] == "ServiceAccount"
    }
    for binding in (one for one in objects(folder) if one["kind"] == "RoleBinding"):
        role = find(folder, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            may = found[subject["name"]]
            for rule in role["rules"]:
                names = rule.get("resourceNames", [""])
                for group, kind, name in itertools.product(rule["apiGroups"], rule["resources"], names):
                    may.setdefault(f"{group}/{kind}:{name}".strip("/:"), set()).update(rule["verbs"])
    return found


def test_each_service_account_may_do_exactly_this() -> None:
    assert verbs("overlays/prod") == VERBS
    assert verbs("overlays/dev") == {**VERBS, "postgres": {}}


def test_the_role_of_the_steps_holds_what_the_launcher_asks_for_and_no_more() -> None:
    granted = {
        (verb, group, resource)
        for rule in find("overlays/prod", "Role", "megl-pipeline")["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(right.verb, right.group, right.resource) for right in RIGHTS + QUEUE_RIGHTS}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_nothing_is_granted_beyond_the_namespace(folder: str) -> None:
    assert not [one for one in objects(folder) if one["kind"].startswith("ClusterRole")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_the_steps_that_kubeflow_runs_carry_a_token_of_the_api_server(folder: str) -> None:
    for name, template in pod_templates(folder):
        assert template["spec"]["automountServiceAccountToken"] is False, name
    carriers = [
        one["metadata"]["name"]
        for one in objects(folder)
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken", True)
    ]
    assert carriers == (["megl-pipeline"] if folder in OVERLAYS else [])


# --- who reaches whom -------------------------------------------------------------------------

Place = tuple[str, dict[str, str]]  # namespace and labels of a pod

KFP: Place = ("kubeflow", {"app": "ml-pipeline"})
DNS: Place = ("kube-system", {"k8s-app": "kube-dns"})
STRANGER: Place = ("somewhere", {"app": "stranger"})


def ours(name: str) -> Place:
    return "megl", {"app.kubernetes.io/name": name}


MLFLOW, POSTGRES, TRAINING = ours("mlflow"), ours("postgres"), ours("megl-training")
STEP: Place = ("megl", {"pipelines.kubeflow.org/v2_component": "true"})


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes those labels."""
    operators = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
    }
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        operators[rule["operator"]](labels.get(rule["key"]), rule["values"])
        for rule in selector.get("matchExpressions", [])
    )


def passes(folder: str, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether the network policies let `source` open a connection to `target`."""
    return all(
        _permits(folder, direction, pod, peer, (port, protocol))
        for direction, pod, peer in (("Egress", source, target), ("Ingress", target, source))
    )


def _permits(folder: str, direction: str, pod: Place, peer: Place, port: tuple[int, str]) -> bool:
    policies = [
        one
        for one in objects(folder)
        if one["kind"] == "NetworkPolicy"
        and direction in one["spec"]["policyTypes"]
        and one["metadata"]["namespace"] == pod[0]
        and selects(one["spec"]["podSelector"], pod[1])
    ]
    side = {"Egress": "to", "Ingress": "from"}[direction]
    return not policies or any(
        _rule_permits(rule, side, one["metadata"]["namespace"], peer, port)
        for one in policies
        for rule in one["spec"].get(direction.lower(), [])
    )


def _rule_permits(
    rule: Mapping[str, Any], side: str, namespace: str, peer: Place, port: tuple[int, str]
) -> bool:
    ports = [(one["port"], one["protocol"]) for one in rule.get("ports", [])]
    if ports and port not in ports:
        return False
    return side not in rule or any(_is_peer(one, namespace, peer) for one in rule[side])


def _is_peer(one: Mapping[str, Any], namespace: str, peer: Place) -> bool:
    if "namespaceSelector" in one:
        if not selects(one["namespaceSelector"], {"kubernetes.io/metadata.name": peer[0]}):
            return False
    elif peer[0] != namespace:
        return False
    return selects(one.get("podSelector", {}), peer[1])


@pytest.mark.parametrize("folder", OVERLAYS)
@pytest.mark.parametrize(
    ("source", "target", "port", "reaches"),
    [
        (TRAINING, MLFLOW, 5000, True),
        (STEP, MLFLOW, 5000, True),
        (ours("megl-check"), MLFLOW, 5000, True),
        (TRAINING, MLFLOW, 22, False),
        (STRANGER, MLFLOW, 5000, False),
        (TRAINING, TRAINING, 29500, True),
        (STEP, TRAINING, 29500, False),
        (TRAINING, POSTGRES, 5432, False),
        (STRANGER, POSTGRES, 5432, False),
        (MLFLOW, TRAINING, 29500, False),
        (STEP, KFP, 8887, True),
        (ours("megl-schedule"), KFP, 8888, True),
        (ours("megl-schedule"), MLFLOW, 22, False),
        (TRAINING, KFP, 8888, False),
        (TRAINING, STRANGER, 80, False),
        (KFP, TRAINING, 29500, False),
    ],
)
def test_only_these_ways_are_open(
    folder: str, source: Place, target: Place, port: int, reaches: bool
) -> None:
    assert passes(folder, source, target, port) is reaches


def test_in_development_only_mlflow_reaches_the_database_and_storage_is_in_kubeflow() -> None:
    assert passes("overlays/dev", MLFLOW, POSTGRES, 5432)
    for pod in (MLFLOW, TRAINING, STEP):
        assert passes("overlays/dev", pod, KFP, 9000)
    assert not passes("overlays/dev", POSTGRES, KFP, 9000)
    assert not passes("overlays/dev", TRAINING, STRANGER, 443)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_pod_finds_names_and_nobody_else_takes_its_questions(folder: str) -> None:
    for pod in (MLFLOW, TRAINING, STEP, POSTGRES):
        assert passes(folder, pod, DNS, 53, "UDP")
        assert not passes(folder, pod, STRANGER, 53, "UDP")
