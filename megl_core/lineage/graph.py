"""A version's origin as a graph: sources -> training -> model -> reports -> record.

The tree on screen, the JSON and the picture are three views of it.
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from megl_core.files import sha256_json
from megl_core.lineage.record import Recorded
from megl_core.provenance.statement import (
    CODE,
    DATASET,
    RUN,
    SOURCE,
    Statement,
    byproducts,
    parameters,
    subjects,
)
from megl_core.registry.history import Entry

LAYERS = ("sources", "training", "model", "reports", "record")


@dataclass(frozen=True)
class Node:
    """Something that has a digest, or was done.

    Attributes:
        id: unique in the graph.
        layer: one of `LAYERS`.
        facts: pairs of a word and what it says.
        digest: hexadecimal; "" for what has none.
        warning: what an auditor should notice; "" for nothing.
    """

    id: str
    layer: str
    title: str
    facts: tuple[tuple[str, str], ...] = ()
    digest: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Graph:
    """What is known of a version.

    Attributes:
        nodes: layer by layer.
        edges: pairs of the nodes' ids.
    """

    title: str
    stage: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def layer(self, name: str) -> list[Node]:
        return [node for node in self.nodes if node.layer == name]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lineage_graph(recorded: Recorded) -> Graph:
    """What is recorded of a version, from its sources to its stages."""
    statement = recorded.statement
    nodes = [_model(recorded)]
    if statement is not None:
        nodes = [*_sources(statement), _training(statement), *nodes, *_reports(statement)]
    nodes += [_deed(entry, recorded.version.version) for entry in recorded.entries]
    version = recorded.version
    return Graph(f"{version.name}/{version.version}", str(version.stage), tuple(nodes), tuple(_edges(nodes)))


def _sources(statement: Statement) -> Iterator[Node]:
    for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        name, digest, notes = item["name"], item["digest"], item.get("annotations", {})
        facts: list[tuple[str, str]] = []
        warning = ""
        if name == DATASET:
            facts = [
                ("DVC repository", notes.get("repository")),
                ("path", notes.get("path")),
                ("revision", notes.get("revision") or "not in Git"),
                ("DVC hash", digest.get("dvcMd5")),
                ("files", notes.get("num_files")),
                ("bytes", notes.get("size")),
            ]
            warning = "" if digest.get("dvcMd5") else "DVC does not know these data"
        elif name == SOURCE:
            facts = [
                ("uri", item["uri"]),
                ("commit", digest.get("gitCommit")),
                ("DVC hash", digest.get("dvcMd5")),
            ]
            warning = "edited since it was imported" if notes.get("edited") else ""
        elif name == CODE:
            facts = [("repository", item.get("uri")), ("commit", digest.get("gitCommit"))]
            warning = "with uncommitted changes" if notes.get("dirty") else ""
        elif "uri" in item:
            facts = [("uri", item["uri"])]
        told = tuple((word, str(value)) for word, value in facts if value not in (None, ""))
        yield Node(name, "sources", name, told, _digest_of(digest), warning)


def _training(statement: Statement) -> Node:
    details = statement["predicate"]["runDetails"]
    metadata = details["metadata"]
    runs = [item["annotations"]["run_id"] for item in details["byproducts"] if item["name"] == RUN]
    sections = parameters(statement)
    facts = [
        ("MLflow run", ", ".join(runs)),
        ("pipeline run", metadata.get("invocationId", "")),
        ("started", metadata["startedOn"]),
        ("finished", metadata["finishedOn"]),
        ("parameters", ", ".join(sorted(sections))),
        ("builder", f"MEGL {details['builder'].get('version', {}).get('megl', '')}"),
    ]
    told = tuple((word, value) for word, value in facts if value)
    return Node("training", "training", "training", told, sha256_json(sections))


def _model(recorded: Recorded) -> Node:
    version = recorded.version
    files = subjects(recorded.statement) if recorded.statement else {}
    facts = [
        *((name, digest[:12]) for name, digest in sorted(files.items())),
        ("signed by", ", ".join(key[:12] for key in recorded.signers) or "nobody"),
    ]
    warning = recorded.trouble or ("" if recorded.statement else "registered without provenance")
    if not warning and not recorded.signers:
        warning = "not signed"
    title = f"{version.name} version {version.version}"
    return Node("model", "model", title, tuple(facts), version.model_digest, warning)


def _reports(statement: Statement) -> Iterator[Node]:
    for name, digest in sorted(byproducts(statement).items()):
        yield Node(f"report {name}", "reports", name, (), digest)


def _deed(entry: Entry, version: int) -> Node:
    gate = entry.details.get("gate", {})
    facts = [("when", entry.time[:19].replace("T", " ")), ("who", entry.actor), ("why", entry.reason)]
    if gate:
        facts.append(("gates", "passed" if gate["passed"] else "not passed"))
        facts.append(("report", gate["digest"][:12]))
        facts.append(("failed", ", ".join(gate["failed"])))
    if entry.details.get("approvals"):
        facts.append(("approved by", ", ".join(entry.details["approvals"])))
    told = tuple((word, value) for word, value in facts if value)
    warning = "FORCED" if entry.details.get("forced") else ""
    title = f"{entry.number}. {_words(entry, version)}"
    return Node(f"entry {entry.number}", "record", title, told, entry.digest, warning)


def _words(entry: Entry, version: int) -> str:
    """What was done to this version."""
    if entry.version != version:
        return f"archived by version {entry.version} ({entry.action})"
    if entry.action == "promote":
        return f"{entry.details['from']} to {entry.details['to']}"
    if entry.action == "rollback":
        return f"back into Production, from version {entry.details['from']}"
    return f"{entry.action} to {entry.details['to']}" if "to" in entry.details else entry.action


def _edges(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """Sources to training to model to reports to the first entry, and from entry to entry."""
    by_layer = {layer: [node.id for node in nodes if node.layer == layer] for layer in LAYERS}
    record = by_layer["record"]
    yield from ((one, "training") for one in by_layer["sources"])
    yield from (("training", "model") for _ in by_layer["training"])
    yield from (("model", one) for one in by_layer["reports"])
    yield from ((one, record[0]) for one in by_layer["reports"] or ["model"] if record)
    yield from itertools.pairwise(record)


def _digest_of(digest: dict[str, str]) -> str:
    return digest.get("sha256") or digest.get("gitCommit") or ""
