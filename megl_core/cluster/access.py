"""What the launcher must be allowed to do in its namespace, and asking the cluster whether it is."""

from dataclasses import dataclass

from megl_core.cluster.api import Api
from megl_core.cluster.manifest import GROUP, PLURAL
from megl_core.cluster.stopping import Stop
from megl_core.config import ClusterConfig

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource, as RBAC writes them; `group` "" is the core group."""

    verb: str
    group: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{self.group and '.' + self.group}"


RIGHTS = (
    *(Right(verb, GROUP, PLURAL) for verb in ("create", "get", "patch", "delete")),
    Right("list", "", "pods"),
    Right("get", "", "pods/log"),
    Right("list", "", "events"),
)
QUEUE_RIGHTS = (Right("list", "kueue.x-k8s.io", "workloads"),)
"""Needed beside the others where `cluster.queue` is set."""


def missing_rights(config: ClusterConfig) -> list[Right]:
    """What the caller's service account lacks, by SelfSubjectAccessReview.

    Raises:
        UnavailableError: no cluster is named, or it does not answer.
    """
    wanted = RIGHTS + (QUEUE_RIGHTS if config.queue else ())
    api = Api(_PATIENCE_SECONDS, Stop())
    return [right for right in wanted if not _is_granted(api, right, config.namespace)]


def _is_granted(api: Api, right: Right, namespace: str) -> bool:
    from kubernetes import client

    resource, _, subresource = right.resource.partition("/")
    attributes = client.V1ResourceAttributes(
        namespace=namespace,
        verb=right.verb,
        group=right.group,
        resource=resource,
        subresource=subresource or None,
    )
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    )
    ask = client.AuthorizationV1Api(api.core.api_client).create_self_subject_access_review
    answer = api.call("create", "selfsubjectaccessreviews.authorization.k8s.io", ask, review)
    return bool(answer.status.allowed)
