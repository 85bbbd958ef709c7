"""Recurring runs on a server: a pipeline of ours, started by the server by a cron line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from megl_core.errors import ConfigError
from pipelines.client import (
    PAGE,
    Server,
    Version,
    experiment_id,
    find_pipeline,
    find_version,
    pipeline_name,
)

LATEST = "latest"
_FIELDS = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("weekday", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_RANGE = re.compile(r"(\*|\?|\w+(?:-\w+)?)(?:/([1-9]\d*))?")
_ZONE = re.compile(r"\[time zone (.+)\]")


@dataclass(frozen=True)
class Timing:
    """When, and how many at a time.

    Attributes:
        cron: six fields, seconds first.
        zone: the time zone in which the server reads them.
    """

    cron: str
    zone: str
    max_concurrency: int = 1
    catchup: bool = False


def timing(
    cron: str, zone: str, server_zone: str, *, max_concurrency: int = 1, catchup: bool = False
) -> Timing:
    """Check a cron line and its time zone.

    A server reads every cron line in one zone, UTC unless its scheduler was told otherwise; a recurring run
    has none of its own. A line meant for another zone cannot be translated: clocks are put forward and back.

    Raises:
        ConfigError: not five or six fields in their ranges, no such zone, or one the server does not read in.
    """
    _check_zone(zone)
    if zone != server_zone:
        raise ConfigError(
            f"the server reads cron lines in {server_zone}, not in {zone}, and a recurring run has no zone "
            "of its own",
            where="--time-zone",
            fix=f"write the line in {server_zone}; or set CRON_SCHEDULE_TIMEZONE={zone} at the deployment "
            f"ml-pipeline-scheduledworkflow, and say --server-time-zone {zone} here",
        )
    return Timing(six_fields(cron), zone, max_concurrency, catchup)


def six_fields(cron: str) -> str:
    """A cron line with seconds; a line of five fields starts at second 0.

    Raises:
        ConfigError: naming the field that is wrong.
    """
    fields = cron.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        raise ConfigError(
            f"{cron!r} has {len(fields)} fields",
            where="--cron",
            fix="write minute hour day month weekday, as in '0 3 * * 1'; or six fields, seconds first",
        )
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if not _fits(part, low, high, names):
                raise ConfigError(
                    f"{part!r} is no {name}", where="--cron", fix=f"{low} to {high}, *, a-b, a,b or */n"
                )
    return " ".join(fields)


def create(
    server: Server,
    name: str,
    version: Version,
    arguments: Mapping[str, Any],
    when: Timing,
    *,
    pinned: bool,
    experiment: str,
    service_account: str | None = None,
    replace: bool = False,
) -> tuple[str, str]:
    """Make the recurring run `megl-<name>`.

    Args:
        pinned: Run this version for ever; else the latest of its pipeline at each start.
        replace: Delete the one of this name first, if it differs.

    Returns:
        Its id, and what was done: created, replaced or unchanged.

    Raises:
        ConfigError: there is one of this name that differs, and `replace` was not asked for.
    """
    body = _body(server, name, version, arguments, when, pinned=pinned)
    body.experiment_id = experiment_id(server, experiment)
    body.service_account = service_account or None
    old = _named(server, name)
    if old and all(_same(one, body) for one in old):
        return str(old[0].recurring_run_id), "unchanged"
    if old and not replace:
        raise ConfigError(
            f"there is a schedule {name!r} with other settings",
            where=server.url,
            fix="--replace puts this one in its place",
        )
    make = server.schedules.recurring_run_service_create_recurring_run
    made = server.write("create a recurring run", make, recurring_run=body)
    for one in old:  # after the new one, so that a refusal leaves the old one at work
        _delete(server, one)
    return str(made.recurring_run_id), "replaced" if old else "created"


def choose_version(server: Server, name: str, reference: str) -> Version:
    """The version of pipeline `megl-<name>` with this name or id.

    Raises:
        ConfigError: the server has none.
    """
    pipeline_id = find_pipeline(server, pipeline_name(name))
    found = find_version(server, pipeline_id, reference) if pipeline_id else None
    if found is None:
        raise ConfigError(
            f"{pipeline_name(name)} has no version {reference!r} on this server",
            where="--version",
            fix=f"name one that it shows, or {LATEST}",
        )
    return found


def list_schedules(server: Server) -> list[dict[str, Any]]:
    """Our recurring runs: name, cron, zone, state, version, and state and time of the last run."""
    return [_row(server, one) for one in _listed(server) if str(one.display_name).startswith("megl-")]


def pause(server: Server, name: str) -> None:
    """Start no more runs until `resume`."""
    for one in _existing(server, name):
        disable = server.schedules.recurring_run_service_disable_recurring_run
        server.write("pause a recurring run", disable, one.recurring_run_id)


def resume(server: Server, name: str) -> None:
    """Start runs again."""
    for one in _existing(server, name):
        enable = server.schedules.recurring_run_service_enable_recurring_run
        server.write("resume a recurring run", enable, one.recurring_run_id)


def delete(server: Server, name: str) -> None:
    """Remove the schedule; its runs stay."""
    for one in _existing(server, name):
        _delete(server, one)


def _body(
    server: Server,
    name: str,
    version: Version,
    arguments: Mapping[str, Any],
    when: Timing,
    *,
    pinned: bool,
) -> Any:
    models = server.models
    return models.V2beta1RecurringRun(
        display_name=pipeline_name(name),
        description=f"Made by megl pipeline schedule create. [time zone {when.zone}]",
        mode=models.RecurringRunMode.ENABLE,
        max_concurrency=str(when.max_concurrency),
        no_catchup=not when.catchup,
        trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=when.cron)),
        pipeline_version_reference=models.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id,
            pipeline_version_id=version.version_id if pinned else None,
        ),
        runtime_config=models.V2beta1RuntimeConfig(parameters=dict(arguments)),
    )


def _same(there: Any, wanted: Any) -> bool:
    """Do both start the same, at the same times?"""
    account = wanted.service_account  # without one, the server shows its own choice
    return bool(_essence(there) == _essence(wanted)) and account in (None, there.service_account)


def _essence(one: Any) -> tuple[Any, ...]:
    reference = one.pipeline_version_reference
    cron = one.trigger and one.trigger.cron_schedule and one.trigger.cron_schedule.cron
    return (
        cron,
        str(one.max_concurrency),
        bool(one.no_catchup),
        reference and reference.pipeline_id,
        (reference and reference.pipeline_version_id) or None,
        (one.runtime_config and one.runtime_config.parameters) or {},
        one.description,
        one.experiment_id,
    )


def _listed(server: Server) -> list[Any]:
    options = {"namespace": server.namespace} if server.namespace else {}
    listing = server.schedules.recurring_run_service_list_recurring_runs
    return server.all_pages("list the recurring runs", listing, "recurring_runs", **options)


def _named(server: Server, name: str) -> list[Any]:
    return [one for one in _listed(server) if one.display_name == pipeline_name(name)]


def _existing(server: Server, name: str) -> list[Any]:
    found = _named(server, name)
    if not found:
        raise ConfigError(
            f"no schedule {name!r}", where=server.url, fix="megl pipeline schedule list shows what there is"
        )
    return found


def _delete(server: Server, one: Any) -> None:
    remove = server.schedules.recurring_run_service_delete_recurring_run
    server.write("delete a recurring run", remove, one.recurring_run_id)


def _row(server: Server, one: Any) -> dict[str, Any]:
    reference = one.pipeline_version_reference
    cron = one.trigger and one.trigger.cron_schedule and one.trigger.cron_schedule.cron
    zone = _ZONE.search(one.description or "")
    last = _last_run(server, one)
    return {
        "name": str(one.display_name).removeprefix("megl-"),
        "id": one.recurring_run_id,
        "cron": cron or "",
        "time_zone": zone[1] if zone else "",
        "enabled": one.status == "ENABLED",
        "version": (reference and reference.pipeline_version_id) or LATEST,
        "max_concurrency": int(one.max_concurrency or 1),
        "catchup": not one.no_catchup,
        "last_run": last and last.run_id,
        "last_state": last and last.state,
        "last_started": last and last.created_at and last.created_at.isoformat(),
    }


def _last_run(server: Server, one: Any) -> Any:
    """Its newest run, if it is among the newest of its experiment."""
    answer = server.read(
        "list the runs",
        server.runs.run_service_list_runs,
        experiment_id=one.experiment_id,
        page_size=PAGE,
        sort_by="created_at desc",
    )
    runs = answer.runs or []
    return next((run for run in runs if run.recurring_run_id == one.recurring_run_id), None)


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"no time zone {zone!r}", where="--time-zone", fix="write UTC, or a place: Europe/Berlin"
        ) from None


def _fits(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    match = _RANGE.fullmatch(part)
    if match is None:
        return False
    if match[1] in ("*", "?"):
        return True
    numbers = [_number(text, low, names) for text in match[1].split("-")]
    return all(low <= number <= high for number in numbers) and numbers == sorted(numbers)


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    """-1 for what is neither a number nor a name."""
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isdecimal() else -1
