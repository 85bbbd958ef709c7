"""Kubeflow Trainer and JobSet as far as a training needs them: TrainJobs become pods of our runtime.

It looks every half second. A TrainJob gets a headless Service and one pod for each node; when one of them is
lost or fails, all are made anew, at most as often as the runtime says, and not after an exit code with which
the runtime gives up. What Kubernetes itself does, from images to signals, is real.
"""

import copy
import threading
from types import TracebackType
from typing import Any, Self

from megl_core.cluster.manifest import GROUP, PLURAL, VERSION
from tests.infra.manifests import Object, find

PORT = "29500"
CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{PLURAL}.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": PLURAL, "singular": "trainjob", "kind": "TrainJob"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


class Trainer:
    """A thread for one namespace; use as a context manager.

    Args:
        images: by the name of a runtime, which is otherwise ours.
        claims: whether the cluster has storage for the workspace.
    """

    def __init__(self, namespace: str, images: dict[str, str], *, claims: bool) -> None:
        from kubernetes import client, config

        connection = config.new_client_from_config()
        self.core, self.objects = client.CoreV1Api(connection), client.CustomObjectsApi(connection)
        self.namespace, self.images, self.claims = namespace, images, claims
        spec = find("overlays/dev", "ClusterTrainingRuntime", "megl")["spec"]["template"]["spec"]
        self.restarts: int = spec["failurePolicy"]["maxRestarts"]
        (replicated,) = spec["replicatedJobs"]
        (rule,) = replicated["template"]["spec"]["podFailurePolicy"]["rules"]
        self.hopeless = set(rule["onExitCodes"]["values"])
        self.template: Object = replicated["template"]["spec"]["template"]
        self.problem: Exception | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if error is None and self.problem is not None:
            raise self.problem

    def pods(self, job: str) -> list[Any]:
        """The pods that are not being removed."""
        selector = f"jobset.sigs.k8s.io/jobset-name={job}"
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return [one for one in found if one.metadata.deletion_timestamp is None]

    def jobs(self) -> list[Object]:
        place = (GROUP, VERSION, self.namespace, PLURAL)
        found: list[Object] = self.objects.list_namespaced_custom_object(*place)["items"]
        return found

    def _run(self) -> None:
        from kubernetes.client import ApiException

        while not self._end.wait(0.5):
            try:
                for job in self.jobs():
                    self._reconcile(job)
            except ApiException as error:
                if error.status not in (404, 409):  # it was removed or changed in between
                    self.problem = error
            except Exception as error:
                self.problem = error
                raise

    def _reconcile(self, job: Object) -> None:
        name, status = job["metadata"]["name"], job.get("status", {})
        found = self.pods(name)
        if "deletionTimestamp" in job["metadata"]:
            self._remove(name)
            return
        if status.get("conditions"):
            return
        attempt = int(status.get("attempt", -1))
        if attempt < 0:
            self._start(job, 0)
            return
        codes = [_exit_code(one) for one in found]
        if len(found) == self._size(job) and not any(codes):
            if all(one.status.phase == "Succeeded" for one in found):
                self._conclude(job, "Complete", "JobsCompleted", "all nodes have ended")
        elif self.hopeless.intersection(codes):
            self._conclude(job, "Failed", "PodFailurePolicy", f"a node ended with one of {self.hopeless}")
        elif attempt >= self.restarts:
            self._conclude(job, "Failed", "JobsFailed", "there were too many restarts")
        elif len(found) < self._size(job) or any(codes):
            self._remove(name)
            if not self.core.list_namespaced_pod(
                self.namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={name}"
            ).items:
                self._start(job, attempt + 1)

    def _start(self, job: Object, attempt: int) -> None:
        name = job["metadata"]["name"]
        if attempt == 0:
            self.core.create_namespaced_service(self.namespace, self._service(job))
        first = self._create(job, 0, attempt, "127.0.0.1")
        address = self._address(first) if self._size(job) > 1 else ""
        for rank in range(1, self._size(job)):
            self._create(job, rank, attempt, address)
        self._set_status(name, {"attempt": attempt})

    def _create(self, job: Object, rank: int, attempt: int, first: str) -> str:
        """A node's pod, which finds the first node at that address even where the cluster's DNS does not know
        headless Services; returns its name."""
        made = self._pod(job, rank, attempt)
        name = job["metadata"]["name"]
        made["spec"]["hostAliases"] = [{"ip": first, "hostnames": [f"{name}-node-0-0.{name}"]}]
        self.core.create_namespaced_pod(self.namespace, made)
        return str(made["metadata"]["name"])

    def _address(self, pod: str) -> str:
        """A pod's address, once it has one."""
        while not self._end.wait(0.2):
            if address := self.core.read_namespaced_pod(pod, self.namespace).status.pod_ip:
                return str(address)
        return ""

    def _remove(self, name: str) -> None:
        self.core.delete_collection_namespaced_pod(
            self.namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={name}"
        )

    def _conclude(self, job: Object, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self._set_status(job["metadata"]["name"], {**job["status"], "conditions": [condition]})

    def _set_status(self, name: str, status: Object) -> None:
        place = (GROUP, VERSION, self.namespace, PLURAL, name)
        self.objects.patch_namespaced_custom_object_status(*place, {"status": status})

    def _size(self, job: Object) -> int:
        return int(job["spec"]["trainer"]["numNodes"])

    def _service(self, job: Object) -> Object:
        name = job["metadata"]["name"]
        spec = {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"jobset.sigs.k8s.io/jobset-name": name},
        }
        return {"metadata": {"name": name, "ownerReferences": [_owner(job)]}, "spec": spec}

    def _pod(self, job: Object, rank: int, attempt: int) -> Object:
        """The runtime's pod with what Trainer adds to it.

        Its share of the machine is left out: the test's machine is smaller than two nodes.
        """
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        host = f"{name}-node-0-{rank}"
        made = copy.deepcopy(self.template)
        labels = {
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "jobset.sigs.k8s.io/restart-attempt": str(attempt),
            "batch.kubernetes.io/job-completion-index": str(rank),
        }
        made["metadata"]["labels"].update(labels)
        made["metadata"].update(name=f"{host}-{attempt}", ownerReferences=[_owner(job)])
        spec = made["spec"]
        spec.update(hostname=host, subdomain=name)
        if not self.claims:
            spec["volumes"] = [
                {"name": one["name"], "emptyDir": {}} if "persistentVolumeClaim" in one else one
                for one in spec["volumes"]
            ]
        (container,) = spec["containers"]
        container.update(
            image=self.images[job["spec"]["runtimeRef"]["name"]],
            imagePullPolicy="IfNotPresent",
            command=trainer["command"],
            resources={"requests": {"cpu": "50m", "memory": "256Mi"}},
        )
        place = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
            "PET_MASTER_PORT": PORT,
        }
        container["env"] += [*trainer["env"], *({"name": key, "value": place[key]} for key in place)]
        return made


def _exit_code(pod: Any) -> int:
    """0: it runs or has ended well."""
    if pod.status.phase != "Failed":
        return 0
    states = [one.state.terminated for one in pod.status.container_statuses or [] if one.state.terminated]
    return next((state.exit_code for state in states if state.exit_code), 1)


def _owner(job: Object) -> Object:
    metadata = job["metadata"]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
