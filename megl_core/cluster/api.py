"""The cluster's API: every request is tried until it is answered, and every refusal is told in words."""

import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

from megl_core.cluster.stopping import Stop
from megl_core.errors import ConfigError, MeglError, UnavailableError
from megl_core.progress import get_reporter
from megl_core.redaction import redact

_TIMEOUT = (5, 30)  # seconds to connect, seconds between two bytes
_PASSING = {0, 408, 410, 429, 500, 502, 503, 504}
_PAUSE_SECONDS = 2.0
_RBAC = re.compile(r"cannot \w+ resource")  # admission and quotas answer 403 too


class AbsentError(Exception):
    """404: there is no such object."""


class ConflictError(Exception):
    """409: the name is taken, or the object is not the one that was meant."""


class UnansweredError(Exception):
    """No answer, or one that may be another in a moment."""


class Api:
    """The official client's two halves, and the one way in which they are called."""

    def __init__(self, patience_seconds: float, stop: Stop) -> None:
        """Connect as `kubectl` would: in a pod by its service account, else by KUBECONFIG.

        Raises:
            UnavailableError: there is no client library, or nothing that names a cluster.
        """
        try:
            from kubernetes import client
        except ImportError:
            raise UnavailableError(
                "the kubernetes client is not installed here", fix="pip install 'megl[pipeline]'"
            ) from None
        connection = client.ApiClient(_configuration())
        self.objects = client.CustomObjectsApi(connection)
        self.core = client.CoreV1Api(connection)
        self.host = str(connection.configuration.host)
        self.patience_seconds = patience_seconds
        self.stop = stop

    def call(self, verb: str, resource: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The answer of `function(*args, **options)`, asked again while the server is away.

        Args:
            verb: as in RBAC (`create`), and `resource` too (`trainjobs.trainer.kubeflow.org`): for messages.

        Raises:
            AbsentError, ConflictError: the server said so.
            UnavailableError: forbidden, or no answer for `patience_seconds`.
            SystemExit: the process was told to end while it waited.
        """
        silent_since = None
        while True:
            try:
                answer = self.ask(verb, resource, function, *args, **options)
            except UnansweredError as error:
                if silent_since is None:
                    silent_since = time.monotonic()
                    get_reporter().message(f"the cluster's API does not answer ({error}); trying on")
                if time.monotonic() - silent_since > self.patience_seconds:
                    raise UnavailableError(
                        f"the cluster's API gave no answer for {self.patience_seconds:.0f} s: {error}",
                        where=redact(self.host),
                        fix="check the address and the server; the same step started again finds its job",
                    ) from None
                self.stop.pause(min(_PAUSE_SECONDS, self.patience_seconds / 5))
            else:
                if silent_since is not None:
                    get_reporter().message("the cluster's API answers again")
                return answer

    def ask(self, verb: str, resource: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """As `call`, one try only; `UnansweredError` where there is no answer."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(*args, _request_timeout=_TIMEOUT, **options)
        except (HTTPError, OSError, UnicodeDecodeError) as error:
            raise UnansweredError(redact(f"{type(error).__name__}: {error}")[:300]) from None
        except ApiException as error:
            raise _told(error, verb, resource) from None


def _configuration() -> Any:
    """Tries are counted here and not in urllib3, which would hide what went wrong behind its own count."""
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(settings)
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise UnavailableError(
            f"no cluster is named: {redact(str(error))}",
            fix="set KUBECONFIG to a file that names one, or run in a pod with a service account",
        ) from None
    settings.retries = False
    return settings


def _told(error: Any, verb: str, resource: str) -> Exception:
    status, message = error.status or 0, _message(error)
    refusal: MeglError
    if status == 404:
        return AbsentError(message)
    if status == 409:
        return ConflictError(message)
    if status in _PASSING:
        return UnansweredError(f"{status} {message}".strip())
    if status == 401:
        refusal = UnavailableError(
            "the cluster does not know who asks (401)", fix="renew the token or the KUBECONFIG"
        )
    elif status == 403 and (_RBAC.search(message) or not message):
        refusal = UnavailableError(
            f"this service account may not {verb} {resource}",
            where=message or None,
            fix=f"grant the verb {verb!r} on {resource!r} with a Role in that namespace",
        )
    else:
        refusal = ConfigError(
            f"the cluster refused to {verb} {resource} ({status})",
            where=message or None,
            fix="mend what the message names, in the settings of the cluster or in its policies",
        )
    return refusal


def _message(error: Any) -> str:
    """The sentence in a Kubernetes Status, or what there is of one."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    text = found.get("message", "") if isinstance(found, dict) else body
    return redact(str(text or error.reason or ""))[:1000]
