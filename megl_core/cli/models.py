"""`megl models`: what is registered, and where it stands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from megl_core.cli.common import JsonOption, console, print_json, resolve_config
from megl_core.errors import ConfigError
from megl_core.redaction import redact

if TYPE_CHECKING:
    from megl_core.registry.models import RegisteredVersion

app = typer.Typer(no_args_is_help=True, help="Look at registered models, and promote them.")

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
def promote(
    name: NameArgument,
    reference: ReferenceArgument,
    to: Annotated[str, typer.Option("--to", help=f"The stage: {', '.join(_STAGES)}.")],
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Move a version to a stage. The version that was in production before is archived.

    Example: megl models promote megl 3 --to staging

    Example: megl models promote megl staging --to production
    """
    if to.lower() not in _STAGES:
        raise ConfigError(f"no stage {to!r}", fix=f"choose one of {', '.join(_STAGES)}")
    from megl_core.registry.models import Stage, show_version
    from megl_core.registry.models import promote as promote_version

    uri = _uri(tracking_uri, workspace)
    number = show_version(name, reference, uri).version
    version = promote_version(name, number, Stage(to.capitalize()), uri)
    if as_json:
        print_json(version.to_json())
    else:
        console.print(f"{name} version {number} is in stage {version.stage}", highlight=False)


def _uri(tracking_uri: str | None, workspace: Path) -> str:
    from megl_core.registry.tracking import resolve_tracking_uri

    config = resolve_config(None, None).registry
    if tracking_uri:
        config = config.model_copy(update={"tracking_uri": tracking_uri})
    return resolve_tracking_uri(config, workspace)


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
