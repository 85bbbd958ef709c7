"""A Kubeflow Pipelines server, asked over its API v2beta1: versions of a package, runs, and who may ask.

The generated client is used without `kfp.Client` around it, which writes to the home folder, prints links
and opens a connection to ask for a namespace before it is told one.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from megl_core import __version__
from megl_core.errors import ConfigError, MeglError, UnavailableError
from megl_core.redaction import redact

TOKEN_VARIABLE = "MEGL_CLUSTER_TOKEN"  # noqa: S105 (its name, not a token)
"""Holds a token of Dex or another OIDC issuer."""
MOUNTED_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
MOUNTED = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where Kubeflow's documentation mounts a service account's token for its API."""

_TIMEOUT = (10, 60)  # seconds to connect, seconds between two bytes
_PASSING = {408, 429, 500, 502, 503, 504}
_FIRST_PATIENCE = 16.0  # seconds for a server that has not answered yet: the address may be wrong
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_EQUALS = "EQUALS"
PAGE = 100


class AbsentError(MeglError):
    """404: the server knows no such thing."""


class ConflictError(MeglError):
    """409: the name is taken."""


class PassingError(UnavailableError):
    """No answer, or one that may be another in a moment."""


@dataclass(frozen=True)
class Version:
    """A version of a pipeline on the server."""

    pipeline_id: str
    version_id: str
    name: str
    uploaded: bool
    """False: the server had these bytes already."""


class Server:
    """One server and namespace. Reads are tried again while it is away; writes never: it may have done them,
    and not said so."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str | None = None,
        token_file: Path | None = None,
        patience_seconds: float = 300,
        tell: Callable[[str], object] = str,
    ) -> None:
        """Make ready to ask; nothing is sent yet.

        Args:
            url: Of Kubeflow's gateway (ends in /pipeline there), of ml-pipeline-ui or of ml-pipeline.
            namespace: The profile that owns what is made; None on a server for a single user.
            token_file: Holds a token; read again for each request, because such tokens are replaced.
            patience_seconds: How long the server may be away at a stretch, once it has answered; before
                that, a quarter of a minute at most.
            tell: Is told when the server is away, and when it is back.

        Raises:
            ConfigError: the URL is none, or holds a password; the token's file cannot be read.
        """
        import kfp_server_api as api  # type: ignore[import-untyped]

        self.url = _checked(url)
        self.namespace = namespace
        self.patience_seconds = patience_seconds
        self._has_answered = False
        self.tell = tell
        self._token = _find_token(token_file)
        settings = api.Configuration()
        settings.host = self.url
        settings.retries = False  # tries are counted here, and told
        settings.ssl_ca_cert = os.environ.get("SSL_CERT_FILE")  # None: those that certifi ships
        if self._token():
            settings.api_key = {"authorization": self._token()}
            settings.api_key_prefix = {"authorization": "Bearer"}
            settings.refresh_api_key_hook = self._refresh
        connection = api.ApiClient(settings)
        self.models = api
        self.connection = connection
        self.pipelines = api.PipelineServiceApi(connection)
        self.uploads = api.PipelineUploadServiceApi(connection)
        self.experiments = api.ExperimentServiceApi(connection)
        self.runs = api.RunServiceApi(connection)
        self.schedules = api.RecurringRunServiceApi(connection)

    def read(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The answer of a request that changes nothing, asked again while the server is away.

        Raises:
            AbsentError, ConfigError, UnavailableError: as `write`.
        """
        away_since, pause = None, _FIRST_PAUSE
        while True:
            try:
                answer = self.write(what, function, *args, **options)
            except PassingError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    self.tell(f"the server does not answer ({error.what}); trying on")
                if time.monotonic() - away_since + pause > self._patience():
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if away_since is not None:
                    self.tell("the server answers again")
                return answer

    def _patience(self) -> float:
        return self.patience_seconds if self._has_answered else min(_FIRST_PATIENCE, self.patience_seconds)

    def write(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The answer of a request, asked once.

        Args:
            what: the request in words, for messages ("list the pipelines").

        Raises:
            AbsentError: 404.
            ConflictError: 409.
            ConfigError: the server says that the request is wrong.
            PassingError: no answer, or 5xx.
            UnavailableError: not signed in, or forbidden.
        """
        from urllib3.exceptions import HTTPError

        try:
            answer = function(*args, _request_timeout=_TIMEOUT, **options)
            self._has_answered = True
            return answer
        except self.models.ApiException as error:
            raise self._told(what, error.status, error.body or error.reason or "") from None
        except (HTTPError, OSError) as error:
            raise self._told(what, None, f"{type(error).__name__}: {error}") from None

    def all_pages(self, what: str, function: Callable[..., Any], field: str, **options: Any) -> list[Any]:
        """Every item of a list that the server gives in pages."""
        items: list[Any] = []
        token = ""
        while True:
            answer = self.read(what, function, page_size=PAGE, page_token=token, **options)
            items += getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return items

    def log(self, run_id: str, pod: str) -> str:
        """A pod's log, as the server's user interface reads it.

        Raises:
            MeglError: there is none here; the API's own port does not serve logs.
        """
        query = [("podname", pod), ("runid", run_id)]
        if self.namespace:
            query.append(("podnamespace", self.namespace))
        answer = self.write(
            "read the log",
            self.connection.call_api,
            *("/k8s/pod/logs", "GET"),
            query_params=query,
            auth_settings=["Bearer"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        return self.clean(answer.data.decode(errors="replace"))

    def page(self, run_id: str) -> str:
        """Where people look at a run."""
        return f"{self.url}/#/runs/details/{run_id}"

    def clean(self, text: str) -> str:
        """`text` without the token and other secrets."""
        token = self._token()
        return redact(text.replace(token, "***") if token else text)

    def _refresh(self, settings: Any) -> None:
        settings.api_key["authorization"] = self._token()

    def _told(self, what: str, status: int | None, answer: str | bytes) -> MeglError:
        text = self.clean(_message(answer))[:500]
        where = redact(self.url)
        if not status or status in _PASSING:
            return PassingError(
                f"cannot {what}: {status or 'no answer'}, {text}",
                where=where,
                fix="check the address and that the server runs, then try again",
            )
        words = f"cannot {what}: {status}, {text}"
        if status in (301, 302, 303, 307, 308, 401):
            fix = f"sign in: name a file that holds a token with --token-file, or set {TOKEN_VARIABLE}"
            return UnavailableError(words, where=where, fix=fix)
        if status == 403:
            fix = f"ask for the right to {what} in namespace {self.namespace or '(none given: --namespace)'}"
            return UnavailableError(words, where=where, fix=fix)
        kind = {404: AbsentError, 409: ConflictError}.get(status, ConfigError)
        return kind(words, where=where)


def equals(key: str, value: str) -> str:
    """A filter as the server's lists take it."""
    return json.dumps({"predicates": [{"operation": _EQUALS, "key": key, "string_value": value}]})


def pipeline_name(name: str) -> str:
    """What a pipeline of ours is called on a server."""
    return f"megl-{name}"


def version_name(package: bytes) -> str:
    """Our version and the first 12 hex digits of the package's digest: the same bytes, the same name."""
    return f"{__version__}-{hashlib.sha256(package).hexdigest()[:12]}"


def upload(server: Server, name: str, package: bytes) -> Version:
    """Make sure that the server has this package as a version of pipeline `megl-<name>`.

    Raises:
        MeglError: the server refuses it, or does not answer.
    """
    pipeline_id = _pipeline_id(server, pipeline_name(name))
    wanted = version_name(package)
    if (found := find_version(server, pipeline_id, wanted)) is not None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{pipeline_name(name)}.yaml"
        file.write_bytes(package)
        try:
            made = server.write(
                "upload a version",
                server.uploads.upload_pipeline_version,
                str(file),
                name=wanted,
                display_name=wanted,
                pipelineid=pipeline_id,
            )
        except ConflictError:  # somebody uploaded the same bytes at the same time
            if (found := find_version(server, pipeline_id, wanted)) is None:
                raise
            return found
    return Version(pipeline_id, made.pipeline_version_id, wanted, uploaded=True)


def find_pipeline(server: Server, name: str) -> str | None:
    """The id of the pipeline with this full name."""
    options = {"namespace": server.namespace} if server.namespace else {}
    listed = server.all_pages(
        "list the pipelines",
        server.pipelines.pipeline_service_list_pipelines,
        "pipelines",
        filter=equals("display_name", name),
        **options,
    )
    return next((str(one.pipeline_id) for one in listed if one.display_name == name), None)


def find_version(server: Server, pipeline_id: str, reference: str) -> Version | None:
    """The version of a pipeline with this name or id."""
    listed = server.all_pages(
        "list the versions",
        server.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
    )
    for one in listed:
        if reference in (one.display_name, one.pipeline_version_id):
            return Version(pipeline_id, one.pipeline_version_id, one.display_name, uploaded=False)
    return None


def experiment_id(server: Server, name: str) -> str:
    """The id of the experiment, which is made if there is none of this name."""
    options = {"namespace": server.namespace} if server.namespace else {}
    listing = server.experiments.experiment_service_list_experiments
    listed = server.all_pages(
        "list the experiments", listing, "experiments", filter=equals("display_name", name), **options
    )
    for one in listed:
        if one.display_name == name:
            return str(one.experiment_id)
    body = server.models.V2beta1Experiment(display_name=name, **options)
    create = server.experiments.experiment_service_create_experiment
    return str(server.write("create an experiment", create, experiment=body).experiment_id)


def start_run(
    server: Server,
    version: Version,
    name: str,
    arguments: Mapping[str, Any],
    *,
    experiment: str,
    service_account: str | None = None,
) -> str:
    """Start a run of a version and return its id; its name is `megl-<name>` and the time in UTC."""
    models = server.models
    body = models.V2beta1Run(
        display_name=f"{pipeline_name(name)} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        experiment_id=experiment_id(server, experiment),
        pipeline_version_reference=models.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=models.V2beta1RuntimeConfig(parameters=dict(arguments)),
        service_account=service_account or None,
    )
    made = server.write("start a run", server.runs.run_service_create_run, run=body)
    return str(made.run_id)


def fitting(package: bytes, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the package takes.

    Raises:
        ConfigError: it needs one that is not there.
    """
    spec = next(iter(yaml.safe_load_all(package)))
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    needed = {
        name
        for name, kind in inputs.items()
        if not kind.get("isOptional") and "defaultValue" not in kind and name not in arguments
    }
    if needed:
        raise ConfigError(
            f"the pipeline needs {', '.join(sorted(needed))}", where=str(spec["pipelineInfo"]["name"])
        )
    return {name: value for name, value in arguments.items() if name in inputs}


def _pipeline_id(server: Server, name: str) -> str:
    """The pipeline's id; it is made if there is none. Its versions are uploaded one by one."""
    if (known := find_pipeline(server, name)) is not None:
        return known
    body = server.models.V2beta1Pipeline(name=name, display_name=name, namespace=server.namespace)
    create = server.pipelines.pipeline_service_create_pipeline
    try:
        return str(server.write("create a pipeline", create, pipeline=body).pipeline_id)
    except ConflictError:  # somebody was faster
        if (known := find_pipeline(server, name)) is None:
            raise
        return known


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{redact(url)!r} is no address", where="--cluster", fix="write http(s)://host:port"
        )
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            "the address holds a secret, which every process on this machine can read",
            where="--cluster",
            fix=f"put a token into a file (--token-file) or into {TOKEN_VARIABLE}",
        )
    return url.rstrip("/")


def _find_token(file: Path | None) -> Callable[[], str]:
    """How to get the token of the moment: the file that was named, a variable, a pod's mounted file, none."""
    if file is None and (token := os.environ.get(TOKEN_VARIABLE, "").strip()):
        return lambda: token
    if file is None and (named := os.environ.get(MOUNTED_VARIABLE)):
        file = Path(named)
    if file is None and MOUNTED.is_file():
        file = MOUNTED
    if file is None:
        return lambda: ""
    path = file

    def read() -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the token: {type(error).__name__}", where=str(path)) from None

    return read


def _message(answer: str | bytes) -> str:
    """What an error's body says: the server's JSON holds it as `message` or `error`."""
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    try:
        tree = json.loads(text)
    except json.JSONDecodeError:
        return text.strip()
    if not isinstance(tree, dict):
        return text.strip()
    return str(tree.get("message") or tree.get("error") or tree.get("error_message") or text)
