"""What the pods of a TrainJob say: why they wait, and of what they died."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

_CANNOT_START = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_AFTER_OTHERS = {5: 2, 137: 3, 143: 3}
"""How processes end when another one failed: they lose it (`UnavailableError`), or are killed. The higher
the number, the less an exit code tells of the cause."""


@dataclass(frozen=True)
class Waiting:
    """Why a job does not run yet; `broken`: by itself it hardly will."""

    why: str
    broken: bool = False


@dataclass(frozen=True)
class Death:
    """One end of a container or pod before its time."""

    pod: str
    rank: int
    attempt: int
    kind: Literal["memory", "eviction", "exit"]
    exit_code: int | None
    time: datetime
    message: str

    @property
    def cause(self) -> str:
        """`rank 1 ran out of memory (OOMKilled, exit code 137)`."""
        if self.kind == "memory":
            return f"rank {self.rank} ran out of memory (OOMKilled, exit code {self.exit_code})"
        told = f": {self.message}" if self.message else ""
        if self.kind == "eviction":
            return f"rank {self.rank} was evicted{told}"
        return f"rank {self.rank} ended with exit code {self.exit_code}{told}"

    def order(self) -> tuple[int, int, datetime, int]:
        """The cause of a failure comes first.

        Within the last attempt: what no other process can bring about (memory, eviction), then the earliest
        exit, then the processes that lost another one or were killed because of it.
        """
        severity = _AFTER_OTHERS.get(self.exit_code or 0, 1) if self.kind == "exit" else 0
        return (-self.attempt, severity, self.time, self.rank)


def rank(pod: Any) -> int:
    """The node's number: its index in the indexed Job."""
    key = "batch.kubernetes.io/job-completion-index"
    labels, annotations = pod.metadata.labels or {}, pod.metadata.annotations or {}
    return int(labels.get(key, annotations.get(key, 0)))


def attempt(pod: Any) -> int:
    """How often the JobSet had started all pods anew when this one was made."""
    return int((pod.metadata.labels or {}).get("jobset.sigs.k8s.io/restart-attempt", 0))


def is_trainer(pod: Any) -> bool:
    """Whether it is a training node, and no initializer of data or model."""
    return (pod.metadata.labels or {}).get("jobset.sigs.k8s.io/replicatedjob-name", "node") == "node"


def deaths(pod: Any) -> Iterator[Death]:
    """Every untimely end that the pod's status still tells of."""
    about = (pod.metadata.name, rank(pod), attempt(pod))
    if told := _eviction(pod):
        yield Death(*about, "eviction", None, _LONG_AGO, told)
        return
    for status in _containers(pod):
        for state in (status.last_state, status.state):
            if not state or not state.terminated or state.terminated.exit_code == 0:
                continue
            end = state.terminated
            kind: Literal["memory", "exit"] = "memory" if end.reason == "OOMKilled" else "exit"
            message = " ".join((end.message or "").split())[-300:]
            yield Death(*about, kind, end.exit_code, end.finished_at or _LONG_AGO, message)


def waiting(pods: Sequence[Any], num_nodes: int) -> Waiting | None:
    """Why not all nodes run, the worst reason first; None: all do or did."""
    reasons = [reason for pod in pods if (reason := _waiting(pod))]
    if broken := [reason for reason in reasons if reason.broken]:
        return broken[0]
    if reasons:
        return reasons[0]
    started = sum(pod.status.phase in ("Running", "Succeeded") for pod in pods if is_trainer(pod))
    return None if started >= num_nodes else Waiting(f"{started} of {num_nodes} nodes run")


def _waiting(pod: Any) -> Waiting | None:
    """A pod's init containers run before its phase is Running, so only a pending one is asked."""
    if pod.status.phase != "Pending":
        return None
    for status in _containers(pod):
        waits = status.state.waiting if status.state else None
        if waits and waits.reason in _CANNOT_START:
            told = " ".join((waits.message or "").split())[:300]
            return Waiting(f"{waits.reason} on rank {rank(pod)}: {told or status.image}", broken=True)
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            told = " ".join((condition.message or "").split())[:300]
            return Waiting(f"{condition.reason}: {told}")
    return Waiting(f"rank {rank(pod)} is starting")


def _eviction(pod: Any) -> str:
    """Why the pod was taken away; empty: it was not."""
    if pod.status.reason in ("Evicted", "Preempting", "NodeLost"):
        return " ".join((pod.status.message or pod.status.reason).split())[:300]
    for condition in pod.status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return f"{condition.reason} {condition.message or ''}".strip()[:300]
    return ""


def _containers(pod: Any) -> list[Any]:
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
