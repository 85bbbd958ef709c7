"""`megl lineage`: which bytes made a model, whether they still stand, and where an image went."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.tree import Tree

from megl_core.cli.common import JsonOption, console, print_json, resolve_config
from megl_core.cli.models import UriOption, WorkspaceOption
from megl_core.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from megl_core.config import RegistryConfig
    from megl_core.lineage.diff import Diff
    from megl_core.lineage.graph import Graph
    from megl_core.lineage.impact import Impact
    from megl_core.lineage.verify import Check

app = typer.Typer(no_args_is_help=True, help="Which bytes made a model, and where did an image go?")

_WORKSPACE = Path("workspace")
_LAYERS = ("made of", "by", "model", "judged by", "version", "moved")
_SHOWN = 10
_MARKS = {"ok": "[green]ok[/]", "broken": "[bold red]BROKEN[/]", "not checked": "[yellow]not checked[/]"}

VersionArgument = Annotated[str, typer.Argument(help="NAME/VERSION or NAME/ALIAS, as in megl/3.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a page with a picture of the graph.")]


@app.command()
def show(
    version: VersionArgument,
    html: HtmlOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show what a version was made of, what judged it and who moved it.

    Example: megl lineage show megl/champion --html lineage.html
    """
    from megl_core.lineage.graph import graph_of
    from megl_core.lineage.record import parse_reference, read_record

    _, uri = _registry(tracking_uri, workspace)
    recorded = read_record(*parse_reference(version), uri)
    graph = graph_of(recorded)
    if html is not None:
        from megl_core.lineage.page import write_page

        write_page(html, recorded)
    if as_json:
        entries = [entry.to_json() for entry in recorded.entries]
        version_json = recorded.version.to_json()
        print_json(
            {"version": version_json, "statement": recorded.statement, "entries": entries, **graph.to_json()}
        )
    else:
        console.print(_tree(graph))
        if html is not None:
            console.print(f"page {html}", highlight=False)


@app.command()
def verify(
    version: VersionArgument,
    data: Annotated[
        str,
        typer.Option(help="Of the images at the DVC remote: all (hash them), list (are they there), none."),
    ] = "all",
    html: HtmlOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Check every link from a version to the bytes that made it; exit code 6 if one is broken.

    Example: megl lineage verify megl/champion

    Example, quick: megl lineage verify megl/3 --data list
    """
    from typing import get_args

    from megl_core.lineage.record import parse_reference, read_record
    from megl_core.lineage.verify import DataCheck, first_broken
    from megl_core.lineage.verify import verify as check_links
    from megl_core.provenance.signing import find_verifier

    if data not in get_args(DataCheck):
        raise ConfigError(f"--data {data!r}", fix=f"choose one of {', '.join(get_args(DataCheck))}")
    registry, uri = _registry(tracking_uri, workspace)
    name, reference = parse_reference(version)
    checks = check_links(name, reference, uri, workspace, data=data, verifier=find_verifier(registry))  # type: ignore[arg-type]
    broken = first_broken(checks)
    if html is not None and broken is None:
        from megl_core.lineage.page import write_page

        write_page(html, read_record(name, reference, uri), checks)
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        console.print(_checks_table(version, checks))
    if broken is not None:
        raise IntegrityError(
            f"the first broken link is the {broken.name}: {broken.note}",
            where=version,
            fix="do not use this version until somebody can explain it",
        )


@app.command()
def impact(
    sample: Annotated[
        str | None,
        typer.Option(help="A sample's id, or the SHA-256 of its image or mask.", show_default=False),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset's root digest.", show_default=False)] = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """List the versions that were trained, selected or evaluated on an image or a dataset.

    Example: megl lineage impact --sample train-000017

    Example: megl lineage impact --sample "$(sha256sum photo.jpg | cut -d' ' -f1)"
    """
    from megl_core.lineage.impact import impact_of_dataset, impact_of_sample

    _, uri = _registry(tracking_uri, workspace)
    if sample is not None and dataset is None:
        found = impact_of_sample(sample, uri, workspace)
    elif dataset is not None and sample is None:
        found = impact_of_dataset(dataset, uri)
    else:
        raise ConfigError("one of the two is needed", fix="--sample ID, or --dataset DIGEST")
    if as_json:
        print_json({"uses": [use.to_json() for use in found.uses], "unknown": found.unknown})
    else:
        _print_impact(found, sample or dataset or "")


@app.command("diff")
def diff_(
    first: VersionArgument,
    second: VersionArgument,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two versions: data, parameters, code, packages, metrics.

    Example: megl lineage diff megl/3 megl/4
    """
    from megl_core.lineage.diff import diff
    from megl_core.lineage.record import parse_reference, read_record

    _, uri = _registry(tracking_uri, workspace)
    one, other = (read_record(*parse_reference(version), uri) for version in (first, second))
    found = diff(one, other, uri, workspace)
    if as_json:
        print_json(found.to_json())
    else:
        _print_diff(found, first, second)


@app.command()
def export(
    version: VersionArgument,
    file: Annotated[Path | None, typer.Option(help="Append the events to this file.")] = None,
    url: Annotated[str | None, typer.Option(help="Send them to this OpenLineage server.")] = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
) -> None:
    """Export a version's training as OpenLineage events.

    Example: megl lineage export megl/3 --file events.jsonl

    Example: megl lineage export megl/3 --url https://catalogue.example.org
    """
    from megl_core.lineage.export import export as send
    from megl_core.lineage.record import parse_reference, read_record

    _, uri = _registry(tracking_uri, workspace)
    count = send(read_record(*parse_reference(version), uri), file=file, url=url)
    console.print(f"{count} events to {file or url}", highlight=False)


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="For the private key; FILE.pub is the public one.")],
) -> None:
    """Make a key pair to sign provenance with.

    Example: megl lineage keygen signing.pem
    """
    from megl_core.provenance.signing import load_verifier, write_key_pair

    public = write_key_pair(file)
    console.print(f"private {file} (keep it secret: MEGL_SIGNING_KEY={file})", highlight=False)
    console.print(f"public  {public} (for all: MEGL_PUBLIC_KEY={public})", highlight=False)
    console.print(f"key id  {load_verifier(str(public)).key_id}", highlight=False)


def _registry(tracking_uri: str | None, workspace: Path) -> "tuple[RegistryConfig, str]":
    from megl_core.registry.tracking import resolve_tracking_uri

    config = resolve_config(None, None).registry
    chosen = config.model_copy(update={"tracking_uri": tracking_uri}) if tracking_uri else config
    return config, resolve_tracking_uri(chosen, workspace)


def _tree(graph: "Graph") -> Tree:
    """The version first, then what stands behind it, layer by layer."""
    version = next(node for node in graph.nodes if node.id == "version")
    tree = Tree(f"[bold]{version.title}[/]  {' · '.join(version.lines)}", highlight=False)
    for layer, title in enumerate(_LAYERS):
        nodes = [node for node in graph.nodes if node.layer == layer and node is not version]
        if not nodes:
            continue
        branch = tree.add(f"[dim]{title}[/]")
        for node in nodes:
            leaf = branch.add(f"[bold]{node.title}[/]")
            for line in node.lines:
                leaf.add(line)
    return tree


def _checks_table(version: str, checks: "list[Check]") -> Table:
    table = Table("link", "", "what was seen", title=f"{version}, link by link")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for check in checks:
        table.add_row(check.name, _MARKS[check.outcome], check.note)
    return table


def _print_impact(found: "Impact", asked: str) -> None:
    if found.uses:
        table = Table("model", "version", "stage", "how", "sample", "split", "dataset", title=asked)
        for use in found.uses:
            table.add_row(
                use.name, str(use.version), use.stage, use.how, use.sample, use.split, use.digest[:12]
            )
        console.print(table)
    else:
        console.print(f"no registered version was made of {asked}", highlight=False)
    for digest in found.unknown:
        console.print(f"[yellow]nobody can say for the dataset {digest[:12]}: its manifest is gone[/]")


def _print_diff(found: "Diff", first: str, second: str) -> None:
    if found.trouble:
        console.print(f"[yellow]{found.trouble}[/]")
    if found.data is not None:
        data = found.data
        console.print(
            f"data: {len(data.added)} rows added, {len(data.removed)} removed, {len(data.changed)} changed",
            highlight=False,
        )
        changed = [f"{sample} ({', '.join(parts)})" for sample, parts in data.changed.items()]
        for title, names in (("added", data.added), ("removed", data.removed), ("changed", changed)):
            for name in names[:_SHOWN]:
                console.print(f"  {title} {name}", highlight=False)
            if len(names) > _SHOWN:
                console.print(f"  ... and {len(names) - _SHOWN} more", highlight=False)
    elif not found.trouble:
        console.print("data: the same")
    for title, pairs in (
        ("parameters", found.parameters),
        ("made of", found.dependencies),
        ("metrics", found.metrics),
    ):
        if pairs:
            table = Table(title, first, second)
            for name, values in pairs.items():
                table.add_row(name, *map(_cell, values))
            console.print(table)
        else:
            console.print(f"{title}: the same")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 64 else text[:12] + "..."
