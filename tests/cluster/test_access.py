"""What the launcher may do, asked of a real cluster as a service account with a Role of its own."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from megl_core.cluster.access import QUEUE_RIGHTS, RIGHTS, Right, missing_rights
from megl_core.config import ClusterConfig

pytestmark = pytest.mark.service
Become = Callable[[Sequence[Right]], None]


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace of the test's own."""
    if "KUBECONFIG" not in os.environ:
        pytest.skip("no cluster: KUBECONFIG is not set")
    from kubernetes import client, config

    config.load_kube_config()
    core = client.CoreV1Api()
    name = f"megl-test-{uuid.uuid4().hex[:6]}"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    yield name
    core.delete_namespace(name)


@pytest.fixture
def become(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    """Let KUBECONFIG lead to a service account that has these rights and no others."""
    from kubernetes import client, config

    def act(rights: Sequence[Right]) -> None:
        config.load_kube_config()
        account = client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot"))
        core, rbac = client.CoreV1Api(), client.RbacAuthorizationV1Api()
        core.create_namespaced_service_account(namespace, account)
        rules = [{"apiGroups": [r.group], "resources": [r.resource], "verbs": [r.verb]} for r in rights]
        role: Any = {"metadata": {"name": "robot"}, "rules": rules}
        rbac.create_namespaced_role(namespace, role)
        subject = {"kind": "ServiceAccount", "name": "robot", "namespace": namespace}
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "robot"}
        binding: Any = {"metadata": {"name": "robot"}, "subjects": [subject], "roleRef": ref}
        rbac.create_namespaced_role_binding(namespace, binding)
        request: Any = {"spec": {"audiences": [], "expirationSeconds": 600}}
        token = core.create_namespaced_service_account_token("robot", namespace, request).status.token
        settings = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        for user in settings["users"]:
            user["user"] = {"token": token}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    return act


def test_the_rights_that_are_listed_are_all_it_asks_for(namespace: str, become: Become) -> None:
    become([*RIGHTS, *QUEUE_RIGHTS])
    assert missing_rights(ClusterConfig(namespace=namespace, queue="team")) == []


def test_each_right_that_the_role_lacks_is_named(namespace: str, become: Become) -> None:
    lacking = {Right("delete", RIGHTS[0].group, RIGHTS[0].resource), Right("get", "", "pods/log")}
    become([right for right in RIGHTS if right not in lacking])
    assert set(missing_rights(ClusterConfig(namespace=namespace))) == lacking


def test_rights_in_one_namespace_are_none_in_another(namespace: str, become: Become) -> None:
    become(RIGHTS)
    assert missing_rights(ClusterConfig(namespace="default")) == list(RIGHTS)
