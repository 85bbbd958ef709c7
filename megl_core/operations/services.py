"""Services: each is asked for a sign of life, without credentials; a bucket, whether ours open it."""

import configparser
import importlib.metadata
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from megl_core.config import StorageConfig
from megl_core.errors import MeglError
from megl_core.operations.findings import Finding
from megl_core.redaction import redact
from megl_core.storage.s3 import open_client

TIMEOUT = 3.0
"""Seconds that a service has to answer."""

_VERSION = re.compile(r"\d+(\.\w+)+")


def mlflow(uri: str | None) -> Finding:
    """Whether a tracking server answers; a database is not tried."""
    if not uri:
        return Finding(
            "services", "mlflow", "unused", "MLFLOW_TRACKING_URI is not set: SQLite in the workspace"
        )
    if urlsplit(uri).scheme in ("http", "https"):
        return ask_http(
            "mlflow", uri, "/health", "start it: mlflow server --backend-store-uri sqlite:///mlflow.db"
        )
    return Finding("services", "mlflow", "ok", f"{redact(uri)} (not tried)")


def mlflow_version(uri: str) -> Finding:
    """The server's version against the client's: their first numbers must agree."""
    client = importlib.metadata.version("mlflow")
    name, both = "mlflow version", f"client {client}"
    try:
        with urllib.request.urlopen(_bare(uri, "/version"), timeout=TIMEOUT) as answer:  # noqa: S310
            server = answer.read(100).decode(errors="replace").strip()
    except (OSError, ValueError):
        server = ""
    if not _VERSION.fullmatch(server):
        return Finding("versions", name, "unused", f"{both}, the server does not tell its own")
    same = server.split(".")[0] == client.split(".")[0]
    fix = "" if same else f"use an image with mlflow {server.split('.')[0]}, or upgrade the server"
    return Finding("versions", name, "ok" if same else "missing", f"{both}, server {server}", fix, True)


def bucket(name: str, uri: str, storage: StorageConfig) -> Finding:
    """Whether the bucket of an s3:// address is there and may be looked into."""
    from botocore.exceptions import BotoCoreError, ClientError

    limits = {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT, "retries": 1}
    fix = "check the bucket's name, storage.endpoint_url, the region and the credentials"
    try:
        client = open_client(storage.model_copy(update=limits))
        client.head_bucket(Bucket=urlsplit(uri).netloc)
    except (BotoCoreError, ClientError, MeglError) as error:
        return Finding("services", name, "unreachable", f"{uri}: {redact(str(error))}", fix, required=True)
    return Finding("services", name, "ok", uri, required=True)


def kfp(uri: str | None) -> Finding:
    """Whether the API of Kubeflow Pipelines answers. A run there names its server with `--cluster`."""
    if not uri:
        return Finding(
            "services", "kubeflow pipelines", "unused", "KFP_ENDPOINT is not set: no server to try"
        )
    fix = "kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888"
    return ask_http("kubeflow pipelines", uri, "/apis/v2beta1/healthz", fix)


def ask_http(name: str, uri: str, path: str, fix: str) -> Finding:
    """Any answer below 500 counts: one that wants a login is there. No credentials are sent."""
    shown = redact(uri)
    if urlsplit(uri).scheme not in ("http", "https"):
        return Finding("services", name, "unreachable", f"{shown}: not an http address", fix, required=True)
    try:
        with urllib.request.urlopen(_bare(uri, path), timeout=TIMEOUT):  # noqa: S310 (http or https)
            return Finding("services", name, "ok", shown)
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return Finding("services", name, "ok", f"{shown} (answers with {error.code})")
        problem = f"answers with {error.code}"
    except (OSError, ValueError) as error:
        problem = redact(str(getattr(error, "reason", error)))
    return Finding("services", name, "unreachable", f"{shown}: {problem}", fix, required=True)


def _bare(uri: str, path: str) -> str:
    """The address of a path below a URI, without credentials."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + path).geturl()


def dvc_remote(inside: Path) -> Finding:
    """The default remote of the DVC repository that a folder lies in."""
    inside = inside.absolute()
    root = next((folder for folder in (inside, *inside.parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        return Finding("services", "dvc remote", "unused", f"no DVC repository at {inside}", "dvc init")
    settings = configparser.ConfigParser(interpolation=None)
    settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    name = settings.get("core", "remote", fallback=None)
    section = f"'remote \"{name}\"'"
    if name is None or not settings.has_section(section):
        fix = "dvc remote add --default storage s3://bucket/folder"
        return Finding(
            "services", "dvc remote", "unused", "no default remote: data stays on this machine", fix
        )
    url = settings.get(section, "url", fallback="")
    endpoint = settings.get(section, "endpointurl", fallback="https://s3.amazonaws.com")
    if urlsplit(url).scheme == "s3":
        return ask_socket(
            "dvc remote", endpoint, f"{url} at {endpoint}", "dvc remote modify: endpointurl, region"
        )
    if urlsplit(url).scheme:
        return Finding("services", "dvc remote", "ok", f"{redact(url)} (not tried)")
    folder = root / ".dvc" / url
    if folder.is_dir():
        return Finding("services", "dvc remote", "ok", str(folder.resolve()))
    return Finding("services", "dvc remote", "missing", f"no folder {folder}", "`dvc push` makes it")


def docker(environment: Mapping[str, str]) -> Finding:
    """Whether a Docker engine listens."""
    host = environment.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    fix = "start Docker; only building images needs it"
    if not host.startswith("unix://"):
        return ask_socket("docker", host, host, fix)
    path = host.removeprefix("unix://")
    if not Path(path).exists():
        return Finding("services", "docker", "unused", f"no socket {path}", fix)

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(path)

    return _try("docker", host, connect, fix)


def kubernetes(environment: Mapping[str, str]) -> Finding:
    """Whether the API of the cluster that KUBECONFIG names answers."""
    paths = environment.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    path = Path(paths.split(os.pathsep)[0])
    fix = "set KUBECONFIG; only clusters need it"
    if not path.is_file():
        return Finding("services", "kubernetes", "unused", f"no {path}", fix)
    server = _current_server(path)
    if server is None:
        return Finding(
            "services",
            "kubernetes",
            "missing",
            f"{path} has no current context",
            "kubectl config use-context",
        )
    return ask_socket("kubernetes", server, server, "check the cluster and your network")


def _current_server(path: Path) -> str | None:
    import yaml

    try:
        config: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        current = config["current-context"]
        contexts = {item["name"]: item["context"] for item in config["contexts"]}
        clusters = {item["name"]: item["cluster"] for item in config["clusters"]}
        return str(clusters[contexts[current]["cluster"]]["server"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def ask_socket(name: str, url: str, shown: str, fix: str) -> Finding:
    """Whether somebody listens at the host and port of a URL."""
    parts = urlsplit(url)

    def connect() -> None:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=TIMEOUT).close()

    return _try(name, shown, connect, fix)


def _try(name: str, shown: str, connect: Callable[[], None], fix: str) -> Finding:
    try:
        connect()
    except (OSError, ValueError) as error:
        detail = f"{redact(shown)}: {error}"
        return Finding("services", name, "unreachable", detail, fix)
    return Finding("services", name, "ok", redact(shown))
