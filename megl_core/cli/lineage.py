"""`megl lineage`: where a version comes from, whether that still holds, and where an image went."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from megl_core.cli.common import JsonOption, console, print_json, resolve_config
from megl_core.cli.models import UriOption, WorkspaceOption
from megl_core.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from megl_core.lineage.diff import Difference, Pair
    from megl_core.lineage.graph import Graph, Node
    from megl_core.lineage.impact import Impact
    from megl_core.lineage.verify import Check

app = typer.Typer(
    no_args_is_help=True, help="Audit: origin and integrity of versions, and what an image had a part in."
)

_WORKSPACE = Path("workspace")
_DATA_CHECKS = ("all", "list", "none")
_SHOWN = 20  # rows of a table on screen; --json has them all
_MARKS = {"ok": "[green]ok[/]", "broken": "[bold red]BROKEN[/]", "not checked": "[yellow]not checked[/]"}

VersionArgument = Annotated[str, typer.Argument(help="NAME/VERSION or NAME/ALIAS, such as megl/champion.")]
HtmlOption = Annotated[
    Path | None, typer.Option(help="Write a page with the graph to this file.", show_default=False)
]


@app.command()
def show(
    version: VersionArgument,
    html: HtmlOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show where a version comes from: data, code, training, files, reports, and who moved it why.

    Example: megl lineage show megl/3

    Example: megl lineage show megl/champion --html lineage.html
    """
    from megl_core.html import write_html
    from megl_core.lineage.graph import lineage_graph
    from megl_core.lineage.page import lineage_page
    from megl_core.lineage.record import parse_reference, read_record

    recorded = read_record(*parse_reference(version), _uri(tracking_uri, workspace))
    graph = lineage_graph(recorded)
    if html is not None:
        write_html(html, lineage_page(graph))
    if as_json:
        entries = [entry.to_json() for entry in recorded.entries]
        told = {"version": recorded.version.to_json(), "statement": recorded.statement, "entries": entries}
        print_json(told | graph.to_json())
    else:
        console.print(_tree(graph), highlight=False)


@app.command()
def verify(
    version: VersionArgument,
    data: Annotated[
        str, typer.Option(help="all: hash every image at the DVC remote; list: are they there; none.")
    ] = "all",
    public_key: Annotated[
        str | None,
        typer.Option(
            help="Must have signed it; registry.public_key or MEGL_PUBLIC_KEY if left out.",
            show_default=False,
        ),
    ] = None,
    html: HtmlOption = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Check every link between a version and the bytes that made it; exit code 6 if one is broken.

    Example: megl lineage verify megl/champion

    Example: megl lineage verify megl/3 --data list --public-key release.pub
    """
    from megl_core.html import write_html
    from megl_core.lineage.graph import lineage_graph
    from megl_core.lineage.page import lineage_page
    from megl_core.lineage.record import parse_reference, read_record
    from megl_core.lineage.verify import first_broken
    from megl_core.lineage.verify import verify as verify_version
    from megl_core.provenance.signing import find_verifier, load_verifier

    if data not in _DATA_CHECKS:
        raise ConfigError(f"--data {data!r}", fix=f"choose one of {', '.join(_DATA_CHECKS)}")
    verifier = load_verifier(public_key) if public_key else find_verifier(resolve_config(None, None).registry)
    uri, named = _uri(tracking_uri, workspace), parse_reference(version)
    checks = verify_version(
        *named,
        uri,
        data=data,  # type: ignore[arg-type]  # one of the three, as was just seen
        verifier=verifier,
    )
    broken = first_broken(checks)
    if as_json:
        print_json(
            {
                "version": version,
                "intact": broken is None,
                "first_broken": broken and broken.name,
                "checks": [check.to_json() for check in checks],
            }
        )
    else:
        console.print(_checks_table(version, checks))
        if broken is None:
            console.print(f"{version} is intact, as far as was checked.", highlight=False)
    if html is not None:
        write_html(html, lineage_page(lineage_graph(read_record(*named, uri)), checks))
    if broken is not None:
        raise IntegrityError(f"{broken.name}: {broken.note}", where=f"first broken link of {version}")


@app.command()
def impact(
    sample: Annotated[
        str | None,
        typer.Option(help="A sample's id, or the SHA-256 of an image or mask (12 digits or more)."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset's root digest (12 digits or more).")] = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show which versions of all models an image or a dataset had a part in, and their stages.

    Example: megl lineage impact --sample scene-00017

    Example: megl lineage impact --dataset 3b1c9e5a77d2 --json
    """
    from megl_core.lineage.impact import impact_of_dataset, impact_of_sample

    uri = _uri(tracking_uri, workspace)
    if (sample is None) == (dataset is None):
        raise ConfigError("ask for one of --sample and --dataset")
    found = impact_of_sample(sample, uri, workspace) if sample else impact_of_dataset(str(dataset), uri)
    if as_json:
        print_json(found.to_json())
        return
    if found.uses:
        console.print(_impact_table(found))
    else:
        console.print(f"No registered version has to do with {found.question}.", highlight=False)
    for line in found.unanswered:
        console.print(f"[yellow]not known:[/] {escape(line)}", highlight=False)


@app.command()
def diff(
    first: VersionArgument,
    second: VersionArgument,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show what changed from one version to another: data, parameters, code, metrics.

    Example: megl lineage diff megl/2 megl/3
    """
    from megl_core.lineage.diff import compare_versions
    from megl_core.lineage.record import parse_reference

    uri = _uri(tracking_uri, workspace)
    difference = compare_versions(parse_reference(first), parse_reference(second), uri, workspace)
    if as_json:
        print_json(difference.to_json())
    else:
        _print_difference(difference)


@app.command()
def export(
    version: VersionArgument,
    file: Annotated[Path | None, typer.Option(help="Write the events as JSON lines.")] = None,
    url: Annotated[str | None, typer.Option(help="Send them to an OpenLineage server.")] = None,
    tracking_uri: UriOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
) -> None:
    """Tell the training of a version as OpenLineage events, to a file or a server.

    Example: megl lineage export megl/3 --file events.jsonl

    Example: megl lineage export megl/3 --url http://marquez:5000
    """
    from megl_core.lineage.export import send_events, training_events, write_events
    from megl_core.lineage.record import parse_reference, read_record

    if file is None and url is None:
        raise ConfigError("nowhere to export to", fix="--file events.jsonl or --url http://host:5000")
    events = training_events(read_record(*parse_reference(version), _uri(tracking_uri, workspace)))
    if file is not None:
        write_events(events, file)
    if url is not None:
        send_events(events, url)
    console.print(f"{len(events)} events of the training of {version}", highlight=False)


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="For the private key; the public one gets .pub added.")],
) -> None:
    """Make a key pair to sign provenance with.

    Example: megl lineage keygen release.pem
    """
    from megl_core.provenance.signing import write_key_pair

    public = write_key_pair(file)
    console.print(
        f"{file}: keep it secret; it signs as MEGL_SIGNING_KEY or registry.signing_key\n"
        f"{public}: give it away; it checks as MEGL_PUBLIC_KEY or registry.public_key",
        highlight=False,
    )


def _uri(tracking_uri: str | None, workspace: Path) -> str:
    from megl_core.registry.tracking import resolve_registry

    config = resolve_config(None, None).registry
    if tracking_uri:
        config = config.model_copy(update={"tracking_uri": tracking_uri})
    return resolve_registry(config, workspace)


def _tree(graph: "Graph") -> Tree:
    from megl_core.lineage.graph import LAYERS

    tree = Tree(f"[bold]{escape(graph.title)}[/]  {graph.stage}")
    for layer in LAYERS:
        if nodes := graph.layer(layer):
            branch = tree.add(f"[bold]{layer}[/]")
            for node in nodes:
                _add(branch, node)
    return tree


def _add(branch: Tree, node: "Node") -> None:
    digest = f" [cyan]{node.digest[:12]}[/]" if node.digest else ""
    warning = f" [bold yellow]{escape(node.warning)}[/]" if node.warning else ""
    leaf = branch.add(f"{escape(node.title)}{digest}{warning}")
    for word, value in node.facts:
        leaf.add(f"[dim]{escape(word)}[/] {escape(value)}")


def _checks_table(version: str, checks: "list[Check]") -> Table:
    table = Table("link", "", "what was seen", title=f"the chain behind {version}")
    for check in checks:
        table.add_row(check.name, _MARKS[check.outcome], escape(check.note))
    return table


def _impact_table(found: "Impact") -> Table:
    table = Table("model", "version", "stage", "was", "samples", title=f"the part of {found.question}")
    for use in found.uses:
        samples = ", ".join(use.samples[:3]) + (" ..." if len(use.samples) > 3 else "")
        table.add_row(use.name, str(use.version), use.stage, ", ".join(use.uses), escape(samples))
    return table


def _print_difference(difference: "Difference") -> None:
    title = f"{difference.first} -> {difference.second}"
    if difference.data is None:
        console.print(f"[yellow]data not compared:[/] {escape(difference.trouble)}")
    else:
        data = difference.data
        console.print(
            f"samples: {len(data.added)} added, {len(data.removed)} removed, {len(data.changed)} changed",
            highlight=False,
        )
        rows = [
            *(("added", id_, "") for id_ in data.added[:_SHOWN]),
            *(("removed", id_, "") for id_ in data.removed[:_SHOWN]),
            *(("changed", id_, ", ".join(parts)) for id_, parts in list(data.changed.items())[:_SHOWN]),
        ]
        if rows:
            table = Table("", "sample", "what", title=title)
            for row in rows:
                table.add_row(*map(escape, row))
            console.print(table)
    for name, pairs in (("parameter", difference.parameters), ("source", difference.sources)):
        if pairs:
            console.print(_pairs_table(name, difference, pairs))
        else:
            console.print(f"{name}s: no difference")
    _print_metrics(difference)


def _print_metrics(difference: "Difference") -> None:
    """Those of the test split that differ, or where there is no such split, all that differ."""
    differing = {name: pair for name, pair in difference.metrics.items() if pair.first != pair.second}
    tested = {name: pair for name, pair in differing.items() if name.startswith("test.")}
    shown = tested or differing
    if shown:
        console.print(_pairs_table("metric", difference, shown))
    console.print(
        f"metrics: {len(differing) - len(shown)} others differ, "
        f"{len(difference.metrics) - len(differing)} are equal (--json has all)",
        highlight=False,
    )


def _pairs_table(name: str, difference: "Difference", pairs: "Mapping[str, Pair]") -> Table:
    table = Table(name, difference.first, difference.second, "difference")
    for key, pair in pairs.items():
        change = "" if pair.difference is None else f"{pair.difference:+.4g}"
        table.add_row(escape(key), _cell(pair.first), _cell(pair.second), change)
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value)[:60])
