"""What every task of every pipeline gets: its component's metadata, and the settings of its pod."""

from collections.abc import Mapping
from typing import Any

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components import IMAGE
from components.metadata import Metadata, read_metadata, steps
from megl_core.config import PodsConfig, StepPods, Toleration
from megl_core.errors import ConfigError
from megl_core.provenance.source import IMAGE_VARIABLE, PIPELINE_RUN_VARIABLE

WORKSPACE = "/workspace"
"""Where the pods of a cluster have the workspace."""

SLIM = ("_KFP_RUNTIME", "true")
"""Keeps KFP from importing client and compiler in each step's process; on a cluster KFP sets it itself."""

FIELDS = {
    PIPELINE_RUN_VARIABLE: "metadata.labels['pipeline/runid']",
    "POD_NAME": "metadata.name",
    "POD_UID": "metadata.uid",
    "POD_NAMESPACE": "metadata.namespace",
}
"""Variables that a pod reads of itself; KFP labels it with the id of its run."""


def settle(task: PipelineTask, step: str, pods: PodsConfig | None) -> None:
    """Give a task what components/<step>/metadata.yaml says, and its pod what `pods` says.

    Args:
        pods: None: the pipeline runs on this machine, where there are no pods and where trying a step
            again would only make its error wait. Only what is cached matters there.

    Raises:
        ConfigError: there is no such component, or `pods.steps` names one that is none.
    """
    metadata = read_metadata(step)
    task.set_caching_options(enable_caching=metadata.cached)
    if pods is None:
        task.set_env_variable(*SLIM)
        return
    if unknown := set(pods.steps) - set(steps()):
        raise ConfigError(
            f"no such step: {', '.join(sorted(unknown))}",
            where="pods.steps",
            fix=f"name {', '.join(steps())}",
        )
    own = _own(pods, step)
    task.set_display_name(metadata.title)
    _set_limits(task, metadata, own)
    _set_resources(task, metadata, own, pods.gpu_resource)
    _set_environment(task, pods, own)
    _set_pod(task, pods, own)


def gpus(pods: PodsConfig, step: str = "train") -> int:
    """How many GPUs a step's pod gets."""
    chosen = _own(pods, step).gpus
    return read_metadata(step).resources.gpus if chosen is None else chosen


def _own(pods: PodsConfig, step: str) -> StepPods:
    """The step's own settings. The prerequisites get the training's image, GPUs and nodes, to try them."""
    own = pods.steps.get(step, StepPods())
    if step != "prerequisites":
        return own
    train = _own(pods, "train")
    same = {name: getattr(train, name) for name in ("image", "node_selector", "tolerations")}
    return own.model_copy(update={"gpus": gpus(pods), **same})


def _set_limits(task: PipelineTask, metadata: Metadata, own: StepPods) -> None:
    count = metadata.retries.count if own.retries is None else own.retries
    if count:
        task.set_retry(
            count,
            backoff_duration=f"{metadata.retries.pause_seconds}s",
            backoff_factor=metadata.retries.factor,
            backoff_max_duration=f"{metadata.retries.max_pause_seconds}s",
        )
    minutes = own.timeout_minutes or metadata.timeout_minutes
    kubernetes.set_timeout(task, round(minutes * 60))


def _set_resources(task: PipelineTask, metadata: Metadata, own: StepPods, gpu_resource: str) -> None:
    cpu, memory = metadata.resources.cpu, metadata.resources.memory
    task.set_cpu_request(own.cpu_request or cpu.request)
    task.set_cpu_limit(own.cpu_limit or cpu.limit)
    task.set_memory_request(own.memory_request or memory.request)
    task.set_memory_limit(own.memory_limit or memory.limit)
    num_gpus = metadata.resources.gpus if own.gpus is None else own.gpus
    if num_gpus:
        task.set_accelerator_type(gpu_resource)
        task.set_accelerator_limit(num_gpus)


def _set_environment(task: PipelineTask, pods: PodsConfig, own: StepPods) -> None:
    image = own.image or pods.image
    if image:
        task.set_container_image(image)
    for name, value in {**pods.env, IMAGE_VARIABLE: image or IMAGE}.items():
        task.set_env_variable(name, value)
    for name, path in FIELDS.items():
        kubernetes.use_field_path_as_env(task, name, path)
    for secrets in (pods.secrets, own.secrets):
        for secret, variables in secrets.items():
            kubernetes.use_secret_as_env(task, secret, variables)


def _set_pod(task: PipelineTask, pods: PodsConfig, own: StepPods) -> None:
    if pods.pull_policy:
        kubernetes.set_image_pull_policy(task, pods.pull_policy)
    if pods.pull_secrets:
        kubernetes.set_image_pull_secrets(task, pods.pull_secrets)
    if pods.workspace_claim:
        kubernetes.mount_pvc(task, pods.workspace_claim, WORKSPACE)
    if pods.user is not None or pods.group is not None:
        kubernetes.set_security_context(task, pods.user, pods.group, run_as_non_root=True)
    for key, value in {**pods.node_selector, **own.node_selector}.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in (*pods.tolerations, *own.tolerations):
        kubernetes.add_toleration(task, **_given(toleration))


def _given(toleration: Toleration) -> Mapping[str, Any]:
    return toleration.model_dump(exclude_none=True)
