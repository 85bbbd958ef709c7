"""One TrainJob on the cluster: make it or find it again, read it, remove it."""

import time
from typing import Any

from megl_core.cluster.api import AbsentError, Api, ConflictError
from megl_core.cluster.manifest import DIGEST, GROUP, PLURAL, VERSION
from megl_core.cluster.stopping import Stop
from megl_core.errors import ConfigError, MeglError, UnavailableError
from megl_core.progress import get_reporter

RESOURCE = f"{PLURAL}.{GROUP}"
_REMOVAL_SECONDS = 20.0
"""Within the 30 s that a pod has between SIGTERM and SIGKILL."""


def attach(api: Api, wanted: dict[str, Any], poll_seconds: float) -> dict[str, Any]:
    """Create the job, or find the running or complete one that an earlier try of the same step made.

    A failed one is replaced, one that is being removed is waited for.

    Raises:
        ConfigError: a job of that name asks for something else.
        UnavailableError: the cluster knows no TrainJob or no such namespace, or an earlier job will not go.
    """
    path = _path(wanted["metadata"]["namespace"])
    name = wanted["metadata"]["name"]
    deadline = time.monotonic() + api.patience_seconds
    while time.monotonic() < deadline:
        try:
            job: dict[str, Any] = api.call(
                "create", RESOURCE, api.objects.create_namespaced_custom_object, *path, wanted
            )
            get_reporter().message(f"training job {name} is created")
            return job
        except AbsentError as error:
            raise UnavailableError(
                f"there is no place for a TrainJob: {error}",
                where=f"namespace {wanted['metadata']['namespace']}",
                fix="install Kubeflow Trainer, and see that the namespace exists",
            ) from None
        except ConflictError:
            pass
        try:
            if found := _reuse(api, wanted):
                return found
        except AbsentError:
            continue
        api.stop.pause(poll_seconds)
    raise UnavailableError(
        f"training job {name} of an earlier try does not go away",
        where=f"namespace {wanted['metadata']['namespace']}",
        fix=f"see what holds it: kubectl get trainjob {name} -o yaml, metadata.finalizers",
    )


def read(api: Api, namespace: str, name: str) -> dict[str, Any]:
    """The job as it is now; `AbsentError` where it is not."""
    job: dict[str, Any] = api.call(
        "get", RESOURCE, api.objects.get_namespaced_custom_object, *_path(namespace), name
    )
    return job


def remove(job: dict[str, Any]) -> None:
    """Delete this very job with its pods and see it go; what hinders it is told, never raised.

    Finalizers of others (a queue, a storage) are theirs: they are waited for and named, not removed.
    """
    metadata = job["metadata"]
    name, namespace = metadata["name"], metadata["namespace"]
    try:
        left = _remove(Api(_REMOVAL_SECONDS, Stop()), namespace, name, metadata["uid"])
    except MeglError as error:
        get_reporter().message(f"training job {name} was not removed: {error}")
        return
    if left is not None:
        held = ", ".join(left["metadata"].get("finalizers", [])) or "its pods"
        get_reporter().message(f"training job {name} is being removed; it still waits for {held}")


def condition(job: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The job's condition of that type, if it holds."""
    found = job.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind and one["status"] == "True"), None)


def _reuse(api: Api, wanted: dict[str, Any]) -> dict[str, Any] | None:
    metadata = wanted["metadata"]
    name, namespace = metadata["name"], metadata["namespace"]
    found = read(api, namespace, name)
    if "deletionTimestamp" in found["metadata"]:
        get_reporter().message(f"training job {name} of an earlier try is being removed: waiting")
        return None
    if found["metadata"].get("annotations", {}).get(DIGEST) != metadata["annotations"][DIGEST]:
        raise ConfigError(
            f"there is a training job {name} with other settings",
            where=f"namespace {namespace}",
            fix=f"choose another name, or remove it: kubectl delete trainjob {name} -n {namespace}",
        )
    if condition(found, "Failed"):
        remove(found)
        return None
    get_reporter().message(f"training job {name} is there already: following it")
    owners = metadata.get("ownerReferences")
    if not owners or owners == found["metadata"].get("ownerReferences"):
        return found
    change = {"metadata": {"ownerReferences": owners}}
    adopted: dict[str, Any] = api.call(
        "patch", RESOURCE, api.objects.patch_namespaced_custom_object, *_path(namespace), name, change
    )
    return adopted


def _remove(api: Api, namespace: str, name: str, uid: str) -> dict[str, Any] | None:
    """What is left of the job when the time is over; None: nothing."""
    options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
    end = time.monotonic() + _REMOVAL_SECONDS
    try:
        api.call(
            *("delete", RESOURCE, api.objects.delete_namespaced_custom_object, *_path(namespace), name),
            body=options,
        )
        while (left := read(api, namespace, name))["metadata"]["uid"] == uid:
            if time.monotonic() > end:
                return left
            api.stop.pause(0.2)
    except (AbsentError, ConflictError):  # gone, or another job of that name
        pass
    return None


def _path(namespace: str) -> tuple[str, str, str, str]:
    return GROUP, VERSION, namespace, PLURAL
