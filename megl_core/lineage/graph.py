"""A version's lineage as a graph: what it was made of, what judged it, where it stands."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from megl_core.lineage.record import Recorded
from megl_core.provenance.statement import Statement, byproducts, parameters, subjects
from megl_core.registry.history import Entry

_MOVES = ("promote", "rollback")


@dataclass(frozen=True)
class Node:
    """One thing of the lineage.

    Attributes:
        layer: place from left to right: 0 inputs, 1 the training, 2 the model, 3 reports, 4 the version and
            5 what was done to it.
        lines: what is known of it, short.
    """

    id: str
    layer: int
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in order of their layers, and edges `(from, to)` by id."""

    nodes: list[Node]
    edges: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        return {"nodes": [asdict(node) for node in self.nodes], "edges": [list(edge) for edge in self.edges]}


def graph_of(recorded: Recorded) -> Graph:
    """The graph of what is recorded of a version."""
    nodes = [*_inputs(recorded.statement), *_made(recorded), *_judged(recorded), *_moved(recorded)]
    inputs = [(node.id, "training") for node in nodes if node.layer == 0]
    reports = [
        edge for node in nodes if node.layer == 3 for edge in (("model", node.id), (node.id, "version"))
    ]
    moves = [node.id for node in nodes if node.layer == 5]
    edges = [*inputs, ("training", "model"), *reports]
    if not reports:
        edges.append(("model", "version"))
    edges += list(zip(["version", *moves], moves, strict=False))
    return Graph(nodes, edges)


def _inputs(statement: Statement | None) -> Iterator[Node]:
    if statement is None:
        yield Node("unknown", 0, "unknown inputs", ("registered without provenance",))
        return
    for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        yield Node(f"input {item['name']}", 0, item["name"], tuple(_facts(item)))
    sections = parameters(statement)
    count = sum(len(section) if isinstance(section, dict) else 1 for section in sections.values())
    yield Node("input parameters", 0, "parameters", (f"{count} settings: {', '.join(sections)}",))


def _facts(item: dict[str, Any]) -> Iterator[str]:
    for kind, digest in item.get("digest", {}).items():
        yield f"{kind} {str(digest)[:12]}"
    if item.get("uri"):
        yield str(item["uri"])
    for name, value in item.get("annotations", {}).items():
        if value is not None:
            yield f"{name}: {str(value).lower() if isinstance(value, bool) else value}"


def _made(recorded: Recorded) -> Iterator[Node]:
    version, statement = recorded.version, recorded.statement
    lines = [f"MLflow run {version.run_id[:12]}"]
    if statement is not None:
        metadata = statement["predicate"]["runDetails"]["metadata"]
        lines += [f"{metadata['startedOn']} to {metadata['finishedOn'][11:]}"]
        if metadata["invocationId"]:
            lines.append(f"pipeline run {metadata['invocationId']}")
    yield Node("training", 1, "training", tuple(lines))
    files = subjects(statement) if statement else {}
    yield Node(
        "model",
        2,
        "model files",
        (f"digest {version.model_digest[:12]}", *(f"{name} {digest[:12]}" for name, digest in files.items())),
    )


def _judged(recorded: Recorded) -> Iterator[Node]:
    if recorded.statement is None:
        return
    for name, digest in sorted(byproducts(recorded.statement).items()):
        yield Node(f"report {name}", 3, name, (f"sha256 {digest[:12]}",))


def _moved(recorded: Recorded) -> Iterator[Node]:
    version = recorded.version
    signed = f"signed by {recorded.signers[0][:12]}" if recorded.signers else "not signed"
    lines = (f"stage {version.stage}", signed, *((f"! {recorded.trouble}",) if recorded.trouble else ()))
    yield Node("version", 4, f"{version.name} version {version.version}", lines)
    for entry in recorded.entries:
        if entry.action in _MOVES:
            yield Node(
                f"entry {entry.number}", 5, move_of(entry), (entry.time[:19], entry.actor, entry.reason)
            )


def move_of(entry: Entry) -> str:
    """`Staging to Production`, `rolled back to`, in words."""
    if entry.action == "rollback":
        return f"rollback from version {entry.details['from']}"
    forced = " FORCED" if entry.details.get("forced") else ""
    return f"{entry.details['from']} to {entry.details['to']}{forced}"
