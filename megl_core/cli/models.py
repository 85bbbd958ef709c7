"""`megl models`: what is registered, and where it stands."""

import sys
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from megl_core.cli.common import (
    JsonOption,
    ParamsOption,
    SetOption,
    console,
    errors,
    print_json,
    resolve_config,
)
from megl_core.errors import ConfigError, GateError
from megl_core.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from megl_core.config import Config
    from megl_core.registry.history import Entry
    from megl_core.registry.models import RegisteredVersion, Stage
    from megl_core.registry.promotion import Verdict

app = typer.Typer(no_args_is_help=True, help="Look at registered models, promote them, roll them back.")

_FORCED = "[bold white on red] FORCED [/]"
_STAGES = ("none", "staging", "production", "archived")

NameArgument = Annotated[str, typer.Argument(help="The registered model.")]
ReferenceArgument = Annotated[str, typer.Argument(help="Its version: a number or an alias.")]
UriOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow server or database; else registry.tracking_uri of params.yaml, else "
        "MLFLOW_TRACKING_URI, else SQLite in the workspace.",
        show_default=False,
    ),
]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder of the local MLflow store.")]
_WORKSPACE = Path("workspace")
ToOption = Annotated[str, typer.Option("--to", help=f"The stage: {', '.join(_STAGES)}.")]
ReasonOption = Annotated[
    str,
    typer.Option("--reason", help="Why; asked for on a terminal, part of the record.", show_default=False),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Packed test data to compare both on, where their evaluations do not compare.",
        show_default=False,
    ),
]


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="One model; all of them if left out.")] = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """List registered versions, newest first.

    Example: megl models list

    Example: megl models list megl --json
    """
    from megl_core.registry.models import list_models, list_versions

    uri = _uri(tracking_uri, workspace)
    names = [name] if name else list_models(uri)
    versions = [version for each in names for version in list_versions(each, uri)]
    if name and not versions:
        raise _unknown(name, list_models(uri), uri)
    if as_json:
        print_json([version.to_json() for version in versions])
    elif versions:
        console.print(_table(versions))
    else:
        console.print("No model is registered here. `megl pipeline run` trains and registers one.")


@app.command()
def show(
    name: NameArgument,
    reference: ReferenceArgument = "champion",
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show one version: digests, stage, tags and metrics.

    Example: megl models show megl 3

    Example: megl models show megl champion --json
    """
    import tempfile

    from megl_core.files import read_json
    from megl_core.registry.models import fetch_evaluation, show_version

    uri = _uri(tracking_uri, workspace)
    version = show_version(name, reference, uri)
    with tempfile.TemporaryDirectory() as folder:
        report = fetch_evaluation(name, version.version, uri, Path(folder) / "evaluation.json")
        metrics = read_json(report)["metrics"]
    if as_json:
        print_json(version.to_json() | {"metrics": metrics})
        return
    console.print(_details(version))
    console.print(_metrics_table(metrics))


@app.command()
def gates(
    name: NameArgument,
    reference: ReferenceArgument,
    data: DataOption = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Look at the gates of a version without moving it; exit code 4 if one does not pass.

    Example: megl models gates megl staging
    """
    from megl_core.registry.promotion import judge

    config, uri = _settings(params, set_, tracking_uri, workspace)
    verdict = judge(name, _number(name, reference, uri), config, uri, data)
    if as_json:
        print_json(verdict.to_json())
    else:
        console.print(_gate_table(verdict))
    raise typer.Exit(0 if verdict.passed else GateError.exit_code)


@app.command()
def promote(
    name: NameArgument,
    reference: ReferenceArgument,
    to: ToOption,
    reason: ReasonOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Do without gates and approvals; the record says so for ever.")
    ] = False,
    data: DataOption = None,
    params: ParamsOption = None,
    set_: SetOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Move a version to a stage, if the gates pass. The version in production before is archived.

    Example: megl models promote megl 3 --to staging --reason "better on wet roads"

    Example: megl models promote megl staging --to production --reason "two weeks in staging"
    """
    from megl_core.registry.stages import GATED
    from megl_core.registry.steps import promote_judged

    config, uri = _settings(params, set_, tracking_uri, workspace)
    stage, number = _stage(to), _number(name, reference, uri)
    version = promote_judged(
        name,
        number,
        stage,
        config,
        uri,
        reason=_reason(reason),
        data=data,
        force=force,
        show=None if as_json else lambda verdict: console.print(_gate_table(verdict)),
    )
    if force and stage in GATED:
        errors.print(f"{_FORCED} No gate or approval held this version back; the record says so for ever.")
    if as_json:
        print_json(version.to_json())
        return
    console.print(f"{name} version {number} is in stage {version.stage}", highlight=False)


@app.command()
def rollback(
    name: NameArgument,
    reason: ReasonOption = "",
    params: ParamsOption = None,
    set_: SetOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Put the version back into production that was there before.

    Example: megl models rollback megl --reason "answers are slow since version 4"
    """
    from megl_core.provenance.signing import find_verifier
    from megl_core.registry.models import rollback as roll_back

    config, uri = _settings(params, set_, tracking_uri, workspace)
    version = roll_back(name, uri, reason=_reason(reason), verifier=find_verifier(config.registry))
    if as_json:
        print_json(version.to_json())
    else:
        console.print(f"{name} version {version.version} is in stage {version.stage}", highlight=False)


@app.command()
def request(
    name: NameArgument,
    reference: ReferenceArgument,
    to: ToOption,
    reason: ReasonOption = "",
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
) -> None:
    """Ask for a promotion that others must approve.

    Example: megl models request megl 3 --to production --reason "better on wet roads"
    """
    from megl_core.registry import models

    _answer(models.request, name, reference, to, reason, _uri(tracking_uri, workspace))


@app.command()
def approve(
    name: NameArgument,
    reference: ReferenceArgument,
    to: ToOption,
    reason: ReasonOption = "",
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
) -> None:
    """Approve a promotion that somebody else asked for.

    Example: megl models approve megl 3 --to production --reason "looked at the report"
    """
    from megl_core.registry import models

    _answer(models.approve, name, reference, to, reason, _uri(tracking_uri, workspace))


@app.command()
def reject(
    name: NameArgument,
    reference: ReferenceArgument,
    to: ToOption,
    reason: ReasonOption = "",
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
) -> None:
    """Reject a promotion that was asked for.

    Example: megl models reject megl 3 --to production --reason "fails on night images"
    """
    from megl_core.registry import models

    _answer(models.reject, name, reference, to, reason, _uri(tracking_uri, workspace))


@app.command()
def history(
    name: NameArgument,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show what was done to a model's versions: when, by whom, why.

    Example: megl models history megl
    """
    from megl_core.registry.models import read_history

    entries = read_history(name, _uri(tracking_uri, workspace))
    if as_json:
        print_json([entry.to_json() for entry in entries])
    else:
        console.print(_history_table(name, entries))


@app.command()
def at(
    name: NameArgument,
    date: Annotated[str, typer.Argument(help="2026-11-24 (its end, in UTC) or 2026-11-24T09:30:00+01:00.")],
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show which version was in which stage at a moment; a date alone means its end in UTC.

    Example: megl models at megl 2026-11-24
    """
    from megl_core.registry.models import state_at

    moment = parse_moment(date)
    state = state_at(name, moment, _uri(tracking_uri, workspace))
    versions = sorted({*state.registered, *state.stages})
    stages = {str(version): str(state.stage_of(version)) for version in versions}
    if as_json:
        print_json({"at": moment.isoformat(), "production": state.production, "stages": stages})
        return
    in_production = f"version {state.production}" if state.production else "no version"
    console.print(
        f"{moment.isoformat(timespec='seconds')}: {in_production} of {name} in Production", highlight=False
    )
    for version, stage in stages.items():
        console.print(f"  version {version}: {stage}", highlight=False)


def parse_moment(text: str) -> datetime:
    """A date (its last moment in UTC) or a time with its zone.

    Raises:
        ConfigError: neither.
    """
    fix = "write 2026-11-24, or a time with its zone: 2026-11-24T09:30:00+01:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no date", fix=fix) from None
    if len(text) == len("2026-11-24"):
        return datetime.combine(moment.date(), time.max, UTC)
    if moment.tzinfo is None:
        raise ConfigError(f"{text!r} has no time zone", fix=fix)
    return moment


def _answer(
    record: "Callable[..., Entry]", name: str, reference: str, to: str, reason: str, uri: str
) -> None:
    entry = record(name, _number(name, reference, uri), _stage(to), uri, reason=_reason(reason))
    console.print(f"recorded as entry {entry.number}: {entry.action} by {entry.actor}", highlight=False)


def _stage(text: str) -> "Stage":
    from megl_core.registry.models import Stage

    if text.lower() not in _STAGES:
        raise ConfigError(f"no stage {text!r}", fix=f"choose one of {', '.join(_STAGES)}")
    return Stage(text.capitalize())


def _number(name: str, reference: str, uri: str) -> int:
    from megl_core.registry.models import show_version

    return show_version(name, reference, uri).version


def _reason(given: str) -> str:
    """The reason that was given, or the answer of whoever sits at the terminal."""
    if not given and sys.stdin.isatty():
        given = str(typer.prompt("Why"))
    if not given.strip():
        raise ConfigError("a reason is needed; it becomes part of the record", fix="--reason 'why'")
    return given


def _settings(
    params: Path | None, set_: list[str] | None, tracking_uri: str | None, workspace: Path
) -> "tuple[Config, str]":
    from megl_core.registry.tracking import resolve_registry

    config = resolve_config(params, set_)
    registry = config.registry.model_copy(update={"tracking_uri": tracking_uri}) if tracking_uri else None
    return config, resolve_registry(registry or config.registry, workspace)


def _gate_table(verdict: "Verdict") -> Table:
    against = f"against version {verdict.champion}" if verdict.champion else "no version in Production"
    table = Table(
        *("gate", "value", "champion", "difference", "bound", "", "note"),
        title=f"{verdict.name} version {verdict.version}, {against}",
    )
    table.columns[0].no_wrap = True
    for row in verdict.rows:
        numbers = ("" if value is None else f"{value:.4g}" for value in (row.value, row.champion))
        interval = "" if row.low is None else f"{row.low:+.3g} to {row.high:+.3g}"
        mark = "[green]pass[/]" if row.passed else "[bold red]FAIL[/]"
        table.add_row(row.metric, *numbers, interval, row.bound, mark, row.note)
    return table


def _history_table(name: str, entries: "Sequence[Entry]") -> Table:
    table = Table("", "when (UTC)", "who", "what", "version", "why", title=f"the record of {name}")
    for entry in entries:
        table.add_row(
            str(entry.number),
            entry.time[:19].replace("T", " "),
            escape(entry.actor),
            _what(entry),
            str(entry.version or ""),
            escape(entry.reason),
        )
    return table


def _what(entry: "Entry") -> str:
    details = entry.details
    words = entry.action
    if entry.action == "promote":
        words = f"{details['from']} to {details['to']}"
        if details["forced"]:
            words += f" {_FORCED}"
        elif details["approvals"]:
            words += f", approved by {escape(', '.join(details['approvals']))}"
    elif entry.action == "rollback":
        words += f" from {details['from']}" if details["from"] else ""
    elif entry.action == "adopt":
        words += "".join(f", {stage}: {_numbers(versions)}" for stage, versions in details["stages"].items())
    elif "to" in details:
        words += f" to {details['to']}"
    return words


def _numbers(versions: "Sequence[int]") -> str:
    return ", ".join(map(str, versions))


def _uri(tracking_uri: str | None, workspace: Path) -> str:
    return _settings(None, None, tracking_uri, workspace)[1]


def _unknown(name: str, known: list[str], uri: str) -> ConfigError:
    fix = f"choose one of {', '.join(known)}" if known else "megl pipeline run trains and registers one"
    return ConfigError(f"no model {name!r} is registered", where=redact(uri), fix=fix)


def _table(versions: "list[RegisteredVersion]") -> Table:
    table = Table("model", "version", "stage", "aliases", "gate", "digest", "created")
    for version in versions:
        table.add_row(
            version.name,
            str(version.version),
            version.stage,
            ", ".join(version.aliases),
            version.tags.get("megl.gate", ""),
            version.model_digest[:12],
            version.created[:16].replace("T", " "),
        )
    return table


def _details(version: "RegisteredVersion") -> Table:
    table = Table("", "", show_header=False, title=f"{version.name} version {version.version}")
    table.columns[1].overflow = "fold"
    rows = {
        "stage": version.stage,
        "aliases": ", ".join(version.aliases),
        "created": version.created,
        "run": version.run_id,
        "load": version.uri,
        **dict(sorted(version.tags.items())),
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _metrics_table(metrics: dict[str, dict[str, float]]) -> Table:
    """Metrics in rows, splits in columns."""
    table = Table("metric", *metrics)
    for name in sorted({name for values in metrics.values() for name in values}):
        cells = (values.get(name) for values in metrics.values())
        table.add_row(name, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    return table
