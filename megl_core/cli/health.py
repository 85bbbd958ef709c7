"""What `megl doctor` looks at. Nothing here imports a framework but torch, to ask it for devices."""

import configparser
import os
import platform
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from megl_core.cli import extras
from megl_core.redaction import redact

State = Literal["ok", "missing", "unreachable", "unused"]
MARKS = {"ok": ("✓", "green"), "missing": ("✗", "red"), "unreachable": ("✗", "red"), "unused": ("·", "dim")}

LIBRARIES = ("torch", "transformers", "mlflow", "kfp", "dvc", "great-expectations")
TIMEOUT = 3.0
"""Seconds that a service has to answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `fix` says how to get what is not there."""

    area: str
    name: str
    state: State
    detail: str
    fix: str = ""
    required: bool = False


def examine() -> list[Finding]:
    """Every finding, in the order to show them."""
    return [*_versions(), *_extras(), *_devices(), *_services()]


# --- packages --------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding(
        "versions",
        "python",
        "ok" if supported else "missing",
        f"{python} ({sys.executable})",
        "" if supported else "install Python 3.11, then `make setup`",
        required=True,
    )
    for package in (extras.DISTRIBUTION, *LIBRARIES):
        version = extras.version(package)
        fix = "" if version else "make setup"
        yield Finding("versions", package, "ok" if version else "missing", version or "not installed", fix)


def _extras() -> Iterator[Finding]:
    for extra, packages in extras.requirements().items():
        missing = [package for package in packages if extras.version(package) is None]
        yield Finding(
            "extras",
            extra,
            "missing" if missing else "ok",
            f"lacks {', '.join(missing)}" if missing else f"complete ({len(packages)} packages)",
            extras.how_to_complete(extra) if missing else "",
            required=extra == extras.CORE,
        )


# --- devices ---------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("devices", "cpu", "ok", f"{cores} cores, {platform.machine()}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("devices", "memory", "ok", f"{memory / 2**30:.1f} GiB")
    disk = shutil.disk_usage(Path.cwd())
    yield Finding(
        "devices", "disk", "ok", f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free here"
    )
    yield _gpus()


def _gpus() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("devices", "gpu", "unused", "torch is not installed, so none can be used")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        return Finding("devices", "gpu", "ok", ", ".join(names))
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
    return Finding(
        "devices", "gpu", "unused", f"none that torch can use (torch is {build}); training runs on the CPU"
    )


# --- services --------------------------------------------------------------------------------


def _services() -> Iterator[Finding]:
    environment = os.environ
    for look in (_mlflow, _dvc_remote, _kfp, _docker, _kubernetes):
        yield look(environment)


def _mlflow(environment: Mapping[str, str]) -> Finding:
    uri = environment.get("MLFLOW_TRACKING_URI")
    if not uri:
        return Finding(
            "services", "mlflow", "unused", "MLFLOW_TRACKING_URI is not set: SQLite in the workspace"
        )
    if urlsplit(uri).scheme in ("http", "https"):
        return _ask_http(
            "mlflow", uri, "/health", "start it: mlflow server --backend-store-uri sqlite:///mlflow.db"
        )
    return Finding("services", "mlflow", "ok", f"{redact(uri)} (not tried)")


def _kfp(environment: Mapping[str, str]) -> Finding:
    uri = environment.get("KFP_ENDPOINT")
    if not uri:
        return Finding(
            "services", "kubeflow pipelines", "unused", "KFP_ENDPOINT is not set: pipelines run here"
        )
    fix = "kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888"
    return _ask_http("kubeflow pipelines", uri, "/apis/v2beta1/healthz", fix)


def _ask_http(name: str, uri: str, path: str, fix: str) -> Finding:
    """Any answer below 500 counts: one that wants a login is there. No credentials are sent."""
    shown = redact(uri)
    parts = urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + path)
    if parts.scheme not in ("http", "https"):
        return Finding("services", name, "unreachable", f"{shown}: not an http address", fix, required=True)
    try:
        with urllib.request.urlopen(bare.geturl(), timeout=TIMEOUT):  # noqa: S310 (http or https)
            return Finding("services", name, "ok", shown)
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return Finding("services", name, "ok", f"{shown} (answers with {error.code})")
        problem = f"answers with {error.code}"
    except (OSError, ValueError) as error:
        problem = redact(str(getattr(error, "reason", error)))
    return Finding("services", name, "unreachable", f"{shown}: {problem}", fix, required=True)


def _dvc_remote(_: Mapping[str, str]) -> Finding:
    root = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        return Finding("services", "dvc remote", "unused", "no DVC repository here", "dvc init")
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
        return _ask_socket(
            "dvc remote", endpoint, f"{url} at {endpoint}", "dvc remote modify: endpointurl, region"
        )
    if urlsplit(url).scheme:
        return Finding("services", "dvc remote", "ok", f"{redact(url)} (not tried)")
    folder = root / ".dvc" / url
    if folder.is_dir():
        return Finding("services", "dvc remote", "ok", str(folder.resolve()))
    return Finding("services", "dvc remote", "missing", f"no folder {folder}", "`dvc push` makes it")


def _docker(environment: Mapping[str, str]) -> Finding:
    host = environment.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    fix = "start Docker; only building images needs it"
    if not host.startswith("unix://"):
        return _ask_socket("docker", host, host, fix)
    path = host.removeprefix("unix://")
    if not Path(path).exists():
        return Finding("services", "docker", "unused", f"no socket {path}", fix)

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(path)

    return _try("docker", host, connect, fix)


def _kubernetes(environment: Mapping[str, str]) -> Finding:
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
    return _ask_socket("kubernetes", server, server, "check the cluster and your network")


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


def _ask_socket(name: str, url: str, shown: str, fix: str) -> Finding:
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
