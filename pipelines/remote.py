"""The pipelines on a server: compiled here, uploaded there, and run once or by a schedule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from megl_core.config import Config
from megl_core.errors import ConfigError
from pipelines.client import Server, fitting, start_run, upload
from pipelines.compiling import compiled
from pipelines.run import pipeline_arguments
from pipelines.schedules import LATEST, Timing, choose_version, create
from pipelines.tasks import WORKSPACE

PACKAGES: dict[str, Callable[[], bytes]] = {"training": compiled}
"""The pipelines that can be sent to a server."""


def package(name: str) -> bytes:
    """A pipeline's YAML.

    Raises:
        ConfigError: there is no such pipeline.
    """
    if name not in PACKAGES:
        raise ConfigError(f"no pipeline {name!r}", fix=f"choose one of {', '.join(PACKAGES)}")
    return PACKAGES[name]()


def run_once(
    server: Server,
    name: str,
    config: Config,
    stage: str,
    *,
    experiment: str,
    service_account: str | None,
) -> dict[str, Any]:
    """Upload the pipeline, unless the server has these bytes, and start a run of it.

    Returns:
        run_id, url, version, and whether the version was uploaded.
    """
    content = package(name)
    arguments = fitting(content, pipeline_arguments(config, Path(WORKSPACE), stage))
    version = upload(server, name, content)
    run_id = start_run(
        server, version, name, arguments, experiment=experiment, service_account=service_account
    )
    return {
        "pipeline": name,
        "run_id": run_id,
        "url": server.page(run_id),
        "version": version.name,
        "uploaded": version.uploaded,
    }


def schedule(
    server: Server,
    name: str,
    config: Config,
    stage: str,
    when: Timing,
    *,
    reference: str = LATEST,
    experiment: str,
    service_account: str | None,
    replace: bool,
) -> dict[str, Any]:
    """Make a recurring run: of the version that `reference` names, or always of the latest.

    Returns:
        name, id, what was done (created, replaced, unchanged), version, cron and time_zone.
    """
    content = package(name)
    arguments = fitting(content, pipeline_arguments(config, Path(WORKSPACE), stage))
    pinned = reference != LATEST
    version = choose_version(server, name, reference) if pinned else upload(server, name, content)
    schedule_id, done = create(
        server,
        name,
        version,
        arguments,
        when,
        pinned=pinned,
        experiment=experiment,
        service_account=service_account,
        replace=replace,
    )
    return {
        "name": name,
        "id": schedule_id,
        "done": done,
        "version": version.name if pinned else LATEST,
        "cron": when.cron,
        "time_zone": when.zone,
    }
