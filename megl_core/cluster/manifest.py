"""The TrainJob as an object: plain dicts, nothing that talks to a cluster."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from megl_core.config import ClusterConfig
from megl_core.errors import ConfigError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
DIGEST = "megl.dev/settings"
"""Annotation: SHA-256 of what was asked for, since the cluster fills in and changes the object itself."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,42}[a-z0-9])?")  # the pods' names add 19 characters and end at 63


def train_job(
    name: str,
    command: Sequence[str],
    config: ClusterConfig,
    *,
    image: str | None = None,
    env: Mapping[str, str] | None = None,
    owner: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A TrainJob that runs `command` under the runtime's torchrun.

    Args:
        name: the job's name, at most 44 lower-case letters, digits and dashes.
        command: what every node runs.
        image: None: the runtime's.
        env: variables that win over `config.env`.
        owner: from `owner_reference`; the job goes when its owner goes.

    Raises:
        ConfigError: the name is none that pods can be named after.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a training job cannot be named {name!r}",
            fix="at most 44 lower-case letters, digits and dashes, a letter first and no dash last",
        )
    labels = {"app.kubernetes.io/managed-by": "megl"}
    if config.queue:
        labels["kueue.x-k8s.io/queue-name"] = config.queue
    if config.priority:
        labels["kueue.x-k8s.io/priority-class"] = config.priority
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": config.runtime},
        "activeDeadlineSeconds": max(1, round(config.timeout_minutes * 60)),
        "trainer": _trainer(command, config, image, env or {}),
    }
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": config.namespace,
        "labels": labels,
        "annotations": {DIGEST: _digest({"labels": labels, "spec": spec})},
    }
    if owner:
        metadata["ownerReferences"] = [owner]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": spec,
    }


def owner_reference(namespace: str) -> dict[str, Any] | None:
    """This pod as an owner, from POD_NAME, POD_UID and POD_NAMESPACE; None outside of `namespace`.

    An owner in another namespace counts as gone, and the job would be removed at once.
    """
    name, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    if not name or not uid or os.environ.get("POD_NAMESPACE", namespace) != namespace:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def _trainer(
    command: Sequence[str], config: ClusterConfig, image: str | None, env: Mapping[str, str]
) -> dict[str, Any]:
    variables = {**config.env, **env}
    trainer: dict[str, Any] = {
        "command": list(command),
        "numNodes": config.num_nodes,
        "numProcPerNode": config.processes_per_node or max(1, config.gpus_per_node),
        "env": [{"name": key, "value": variables[key]} for key in sorted(variables)],
    }
    if resources := _resources(config):
        trainer["resourcesPerNode"] = {"requests": resources, "limits": resources}
    if image:
        trainer["image"] = image
    return trainer


def _resources(config: ClusterConfig) -> dict[str, str]:
    gpus = str(config.gpus_per_node) if config.gpus_per_node else None
    asked = {"cpu": config.cpu, "memory": config.memory, "nvidia.com/gpu": gpus}
    return {name: amount for name, amount in asked.items() if amount is not None}


def _digest(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
