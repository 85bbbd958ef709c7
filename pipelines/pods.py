"""Logs of a run's pods from Kubernetes itself: servers often name no pods, and serve logs only beside their
user interface."""

import re
from typing import Any

from megl_core.cluster.api import AbsentError, Api, UnansweredError
from megl_core.cluster.stopping import Stop
from megl_core.errors import MeglError
from megl_core.redaction import redact

RUN_LABEL = "pipeline/runid"
NODE_ANNOTATION = "workflows.argoproj.io/node-name"
"""Argo's name of what the pod runs: `<workflow>.root.train.executor(0)`."""
_PATIENCE_SECONDS = 10.0
_RETRY = re.compile(r"\(\d+\)$")


def read_log(namespace: str, run_id: str, step: str) -> tuple[str, list[str]] | None:
    """A step's newest pod and its log; None where this machine may not ask, or there is none."""
    try:
        api = Api(_PATIENCE_SECONDS, Stop())
        pods = api.ask(
            "list", "pods", api.core.list_namespaced_pod, namespace, label_selector=f"{RUN_LABEL}={run_id}"
        ).items
        pods = [pod for pod in pods if _runs(pod, step)]
        if not pods:
            return None
        newest = max(pods, key=lambda pod: pod.metadata.creation_timestamp)
        answer = api.ask(
            "get",
            "pods/log",
            api.core.read_namespaced_pod_log,
            *(newest.metadata.name, namespace),
            container="main",
            _preload_content=False,
        )
    except (MeglError, AbsentError, UnansweredError):
        return None
    return newest.metadata.name, redact(answer.data.decode(errors="replace")).splitlines()


def _runs(pod: Any, step: str) -> bool:
    node = (pod.metadata.annotations or {}).get(NODE_ANNOTATION, "")
    return step in [_RETRY.sub("", part) for part in node.split(".")]
