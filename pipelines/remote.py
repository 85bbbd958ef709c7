"""The pipelines on a server: compiled here, uploaded there, and run once or by a schedule."""

from pathlib import Path
from typing import Any

from megl_core.config import Config
from pipelines.catalog import arguments, find_pipeline
from pipelines.client import Server, fitting, start_run, upload
from pipelines.compiling import compiled
from pipelines.schedules import LATEST, Timing, choose_version, create
from pipelines.tasks import WORKSPACE


def run_once(
    server: Server,
    name: str,
    config: Config,
    *,
    stage: str | None,
    experiment: str,
    service_account: str | None,
    **options: str | None,
) -> dict[str, Any]:
    """Upload the pipeline, unless the server has these bytes, and start a run of it.

    Returns:
        run_id, url, version, and whether the version was uploaded.
    """
    pipeline = find_pipeline(name)
    given = arguments(pipeline, config, Path(WORKSPACE), stage=stage, **options)
    content = compiled(pipeline, config.pods)
    version = upload(server, name, content)
    run_id = start_run(
        server, version, name, fitting(content, given), experiment=experiment, service_account=service_account
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
    pipeline = find_pipeline(name)
    content = compiled(pipeline, config.pods)
    given = fitting(content, arguments(pipeline, config, Path(WORKSPACE)))
    pinned = reference != LATEST
    version = choose_version(server, name, reference) if pinned else upload(server, name, content)
    schedule_id, done = create(
        server,
        name,
        version,
        given,
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
