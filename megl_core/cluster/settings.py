"""What a training job asks of a cluster."""

from pydantic import Field, model_validator

from megl_core.config import Section


class ClusterConfig(Section):
    """A TrainJob's size, its place in the queue, and how long to wait for what."""

    namespace: str = "megl"
    runtime: str = "megl"
    """The ClusterTrainingRuntime: image, torchrun, volumes, security and the pods' priority class."""
    num_nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(1, ge=0)
    """Also the number of processes on a node; 0: one process on the CPU."""
    cpu: str | None = None
    """Cores of a node as Kubernetes writes them (`8`, `500m`). None: as the runtime says."""
    memory: str | None = None
    """Memory of a node as Kubernetes writes it (`64Gi`). None: as the runtime says."""
    env: dict[str, str] = Field(default_factory=dict)
    """Plain variables; secrets stand in the runtime, by reference."""
    queue: str | None = None
    """A LocalQueue of Kueue. None: no queue."""
    priority: str | None = None
    """A WorkloadPriorityClass of Kueue; a TrainJob cannot name the priority class of its pods."""
    checkpoints: str | None = None
    """Folder or s3:// address that outlives a pod; the processes find it in `MEGL_CHECKPOINTS`."""
    timeout_minutes: float = Field(24 * 60, gt=0)
    """From the creation of the job to its end, all waiting included."""
    pending_minutes: float = Field(12 * 60, gt=0)
    """How long the job may wait for quota or nodes at a stretch."""
    start_minutes: float = Field(10, gt=0)
    """How long a container may fail to start, such as by an image that cannot be pulled."""
    patience_minutes: float = Field(10, gt=0)
    """How long the API server may be away at a stretch."""
    poll_seconds: float = Field(5, gt=0)
    tail_lines: int = Field(30, ge=1)
    """Lines kept of the log of every process but the first."""

    @model_validator(mode="after")
    def _priority_needs_a_queue(self) -> "ClusterConfig":
        if self.priority and not self.queue:
            raise ValueError(
                "priority is the order within a queue: set queue too, "
                "or put the pods' priorityClassName into the ClusterTrainingRuntime"
            )
        return self
