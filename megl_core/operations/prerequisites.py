"""Is everything there that a run will need? Asked once, before anything expensive begins."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import gettempdir

from megl_core.code import code_digest
from megl_core.config import ClusterConfig, Config, StorageConfig
from megl_core.errors import MeglError
from megl_core.files import sha256_json, write_json
from megl_core.operations import machine, services
from megl_core.operations.findings import Finding, require, table
from megl_core.progress import get_reporter
from megl_core.redaction import redact
from megl_core.registry.tracking import resolve_tracking_uri

PACKAGES = ("megl", "torch", "mlflow", "dvc", "great-expectations")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What later steps have to know of the place they run in.

    Attributes:
        code: digest of the code that is installed here, whatever the caller of the pipeline has.
        store: digest of the tracking server's address as it is here.
    """

    code: str
    store: str


def prepare(
    config: Config,
    workspace: Path,
    report: Path,
    *,
    gpus: int = 0,
    free_gib: float = 1.0,
) -> Prepared:
    """Show every finding in the log, write them to `report` as JSON, and stop a run that lacks anything.

    Raises:
        UnavailableError: it names everything that is wrong; the report is written before.
    """
    findings = check_prerequisites(config, workspace, gpus=gpus, free_gib=free_gib)
    get_reporter().message(table(findings))
    write_json(report, [asdict(finding) for finding in findings])
    require(findings)
    return Prepared(code_digest(), sha256_json(resolve_tracking_uri(config.registry, workspace)))


def check_prerequisites(
    config: Config,
    workspace: Path,
    *,
    gpus: int = 0,
    free_gib: float = 1.0,
) -> list[Finding]:
    """Everything that was looked at, in the order to show it; nothing here raises for what is not there.

    Args:
        gpus: how many the pod must have been granted.
        free_gib: what the workspace and the folder for temporary files must have left, in GiB.
    """
    return [
        machine.python(),
        *(machine.package(name, required=True) for name in PACKAGES),
        *_devices(config, workspace, gpus, free_gib),
        *_tracking(config, workspace),
        *_data(config, workspace),
        *_cluster(config.cluster, config.storage),
    ]


def _devices(config: Config, workspace: Path, gpus: int, free_gib: float) -> Iterator[Finding]:
    trains_here = config.train.device == "cuda" and config.cluster.exchange is None
    if asked := max(gpus, int(trains_here)):
        yield machine.gpus(asked)
    yield machine.writable("workspace", workspace)
    yield machine.disk("disk of the workspace", workspace, free_gib=free_gib)
    yield machine.disk("disk of temporary files", Path(gettempdir()), free_gib=free_gib)


def _tracking(config: Config, workspace: Path) -> Iterator[Finding]:
    uri = resolve_tracking_uri(config.registry, workspace)
    server = services.mlflow(uri)
    yield server
    if server.state == "ok" and uri.startswith(("http://", "https://")):
        yield services.mlflow_version(uri)
        yield _may_read(uri)


def _may_read(uri: str) -> Finding:
    """Whether the credentials in the environment let us in, which only a real request tells."""
    from megl_core.registry.models import list_models

    try:
        found = list_models(uri)
    except MeglError as error:
        return Finding("services", "mlflow access", "unreachable", error.what, error.fix or "", True)
    return Finding("services", "mlflow access", "ok", f"{len(found)} registered models", required=True)


def _data(config: Config, workspace: Path) -> Iterator[Finding]:
    source = config.data.source
    if source and source.startswith("s3://"):
        yield services.bucket("data source", source, config.storage)
    elif source and config.data.path and not Path(source).is_dir():
        yield Finding("services", "data source", "ok", f"{redact(source)} (not tried)")
    elif source:
        there = Path(source).exists()
        fix = "" if there else "mount it, or set data.source"
        yield Finding("services", "data source", "ok" if there else "missing", source, fix, True)
    remote = services.dvc_remote(workspace / "datasets")
    yield replace(remote, required=remote.state == "unreachable")


def _cluster(cluster: ClusterConfig, storage: StorageConfig) -> Iterator[Finding]:
    if cluster.exchange is None:
        return
    if cluster.exchange.startswith("s3://"):
        yield services.bucket("exchange", cluster.exchange, storage)
    else:
        yield machine.writable("exchange", Path(cluster.exchange))
    from megl_core.cluster.access import missing_rights

    try:
        missing = missing_rights(cluster)
    except MeglError as error:
        yield Finding("services", "kubernetes", "unreachable", error.what, error.fix or "", True)
        return
    if missing:
        text = f"this service account may not {', '.join(map(str, missing))} in {cluster.namespace}"
        fix = "grant it these verbs with a Role in that namespace"
        yield Finding("services", "kubernetes", "missing", text, fix, True)
    else:
        text = f"may create and follow TrainJobs in {cluster.namespace}"
        yield Finding("services", "kubernetes", "ok", text, required=True)
