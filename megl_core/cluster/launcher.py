"""Run a training as a TrainJob: create it, tell of it until its end, leave nothing behind.

The launcher asks every few seconds and never watches. A watch has to survive cut connections, 410 Gone
and restarts of the server, and then reads everything anew anyway; for one job and its pods, reading
everything anew is all there is to do, and each answer is the whole truth at that moment.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from megl_core.cluster import objects, pods
from megl_core.cluster.api import AbsentError, Api
from megl_core.cluster.logs import Follower, Tails
from megl_core.cluster.manifest import owner_reference, train_job
from megl_core.cluster.pods import Death, Waiting
from megl_core.cluster.stopping import stop_on_signals
from megl_core.config import ClusterConfig
from megl_core.errors import MeglError, UnavailableError
from megl_core.progress import get_reporter

_FIXES = {
    "memory": "raise cluster.memory, or lower train.batch_size (or raise train.accumulate)",
    "eviction": "run it again: it goes on from its last checkpoint in cluster.exchange",
    "exit": "see the process's last lines above",
}


def run_train_job(
    name: str,
    command: Sequence[str],
    config: ClusterConfig,
    *,
    image: str | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run `command` on the nodes that `config` asks for, and return when it has ended well.

    Called again with the same arguments while the job runs (a step that is tried again), it goes on
    following that job. The job is removed at every end: success, failure, deadline, SIGTERM and SIGINT.

    Args:
        name: the job's name; the same for every try of one training.
        command: what each node runs, usually torchrun.
        image: None: the runtime's.
        env: variables that win over `config.env`.

    Raises:
        MeglError: the training failed; the message names rank, cause and what to do.
        UnavailableError: it did not start or end in time, or the cluster is away or forbids it.
        ConfigError: the name or the settings are refused.
        SystemExit: a signal asked for an end, 128 + its number.
    """
    wanted = train_job(name, command, config, image=image, env=env, owner=owner_reference(config.namespace))
    with stop_on_signals() as stop:
        api = Api(config.patience_minutes * 60, stop)
        job = objects.attach(api, wanted, config.poll_seconds)
        try:
            _Watch(api, job, config).follow()
        finally:
            objects.remove(job)


class _Watch:
    """What was seen of one job so far: pods may be gone when the job says that it failed."""

    def __init__(self, api: Api, job: dict[str, Any], config: ClusterConfig) -> None:
        self.api, self.config = api, config
        self.name, self.uid = job["metadata"]["name"], job["metadata"]["uid"]
        created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        age = max(0.0, (datetime.now(UTC) - created).total_seconds())
        self.deadline = time.monotonic() + config.timeout_minutes * 60 - age
        self.deaths: set[Death] = set()
        self.followers: dict[str, Follower] = {}
        self.tails = Tails(api, config.namespace, config.tail_lines)
        self.told: str | None = None
        self.waits_since: float | None = None
        self.broken_since: float | None = None

    def follow(self) -> None:
        """Return when the job is complete; raise when it failed or took too long."""
        while True:
            job = self._job()
            found = self._pods()
            self._observe(found)
            if objects.condition(job, "Complete"):
                get_reporter().message(f"training job {self.name} is complete")
                return
            if failed := objects.condition(job, "Failed"):
                raise self._failure(failed)
            waits = self._waiting(job, found)
            self._tell(waits)
            self._check_patience(waits)
            self.api.stop.pause(self.config.poll_seconds)

    def _job(self) -> dict[str, Any]:
        try:
            job = objects.read(self.api, self.config.namespace, self.name)
        except AbsentError:
            job = None
        if job is None or job["metadata"]["uid"] != self.uid:
            raise MeglError(
                f"training job {self.name} was removed by somebody else",
                where=f"namespace {self.config.namespace}",
                fix="run the step again",
            )
        return job

    def _pods(self) -> list[Any]:
        selector = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        answer = self.api.call(
            *("list", "pods", self.api.core.list_namespaced_pod, self.config.namespace),
            label_selector=selector,
        )
        return list(answer.items)

    def _observe(self, found: Sequence[Any]) -> None:
        for pod in found:
            if pods.is_trainer(pod) and pods.rank(pod) == 0 and pod.status.phase != "Pending":
                self._show_log(pod.metadata.name)
            else:
                self.tails.update(pod)
            for death in pods.deaths(pod):
                if death not in self.deaths:
                    self.deaths.add(death)
                    get_reporter().message(death.cause)

    def _show_log(self, pod: str) -> None:
        if pod not in self.followers:
            self.followers[pod] = Follower(self.api, self.config.namespace, pod)
        for line in self.followers[pod].new_lines():
            get_reporter().message(line)

    def _waiting(self, job: dict[str, Any], found: Sequence[Any]) -> Waiting | None:
        if suspended := objects.condition(job, "Suspended"):
            return Waiting(self._quota() or f"suspended: {suspended.get('message', '')}".rstrip(": "))
        reason = pods.waiting(found, self.config.num_nodes)
        if reason and not found and (warning := self._warning()):
            return Waiting(warning)
        return reason

    def _quota(self) -> str | None:
        """Kueue's words on why the job is not admitted; None where it has none or may not be asked."""
        if not self.config.queue:
            return None
        path = ("kueue.x-k8s.io", "v1beta1", self.config.namespace, "workloads")
        try:
            found = self.api.call(
                *("list", "workloads.kueue.x-k8s.io", self.api.objects.list_namespaced_custom_object, *path),
                label_selector=f"kueue.x-k8s.io/job-uid={self.uid}",
            )
        except (AbsentError, MeglError):
            return None
        told = (
            one.get("message", "")
            for workload in found["items"]
            for one in workload.get("status", {}).get("conditions", [])
            if one["type"] == "QuotaReserved" and one["status"] == "False"
        )
        return f"waiting for quota in queue {self.config.queue}: {next(told, '')}".rstrip(": ")

    def _warning(self) -> str | None:
        """Why the job controller could make no pods, such as a ResourceQuota that is used up."""
        try:
            answer = self.api.call(
                *("list", "events", self.api.core.list_namespaced_event, self.config.namespace),
                field_selector=f"involvedObject.name={self.name}-node-0,type=Warning",
            )
        except MeglError:
            return None
        return next((f"{event.reason}: {event.message}" for event in reversed(answer.items)), None)

    def _tell(self, waits: Waiting | None) -> None:
        told = f"pending: {waits.why}" if waits else "running"
        if told != self.told:
            self.told = told
            get_reporter().message(f"training job {self.name} is {told}")

    def _check_patience(self, waits: Waiting | None) -> None:
        now = time.monotonic()
        self.waits_since = (self.waits_since or now) if waits else None
        self.broken_since = (self.broken_since or now) if waits and waits.broken else None
        why = waits.why if waits else "it was still running"
        if now > self.deadline:
            raise self._too_late("cluster.timeout_minutes", self.config.timeout_minutes, why)
        if self.broken_since is not None and now - self.broken_since > self.config.start_minutes * 60:
            raise self._too_late("cluster.start_minutes", self.config.start_minutes, why)
        if self.waits_since is not None and now - self.waits_since > self.config.pending_minutes * 60:
            raise self._too_late("cluster.pending_minutes", self.config.pending_minutes, why)

    def _too_late(self, setting: str, minutes: float, why: str) -> UnavailableError:
        return UnavailableError(
            f"training job {self.name} was given up after {minutes:g} minutes: {why}",
            where=f"namespace {self.config.namespace}",
            fix=f"mend what it waits for, or raise {setting}",
        )

    def _failure(self, failed: dict[str, Any]) -> MeglError:
        if failed.get("reason") == "DeadlineExceeded":
            return self._too_late(
                "cluster.timeout_minutes", self.config.timeout_minutes, "it ran out of time"
            )
        if not self.deaths:
            told = f"{failed.get('reason', '')}: {failed.get('message', '')}".strip(": ")
            return MeglError(
                f"training job {self.name} failed: {told or 'the cluster gives no reason'}",
                where=f"namespace {self.config.namespace}",
                fix=f"see the ClusterTrainingRuntime {self.config.runtime} and the events of the namespace",
            )
        death = min(self.deaths, key=Death.order)
        for line in self.tails.lines.get(death.pod, []):
            get_reporter().message(f"[rank {death.rank}] {line}")
        return MeglError(
            f"training job {self.name} failed: {death.cause}",
            where=f"pod {death.pod} in namespace {self.config.namespace}",
            fix=_FIXES[death.kind],
        )
