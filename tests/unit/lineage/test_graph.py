"""The graph of a version, its picture and its page."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from megl_core.errors import ConfigError
from megl_core.lineage.graph import lineage_graph
from megl_core.lineage.page import lay_out, lineage_page
from megl_core.lineage.record import Recorded, concerns, parse_reference
from megl_core.lineage.verify import Check
from tests.unit.lineage.conftest import entry, promotion


def node(recorded: Recorded, id_: str) -> Any:
    return next(one for one in lineage_graph(recorded).nodes if one.id == id_)


def test_the_graph_leads_from_the_sources_to_the_last_entry(recorded: Recorded) -> None:
    graph = lineage_graph(recorded)
    assert (graph.title, graph.stage) == ("megl/3", "Production")
    assert [(one.id, one.layer) for one in graph.nodes] == [
        ("dataset", "sources"),
        ("code", "sources"),
        ("lock", "sources"),
        ("training", "training"),
        ("model", "model"),
        ("report evaluation.json", "reports"),
        ("report validation.json", "reports"),
        ("entry 1", "record"),
        ("entry 2", "record"),
    ]
    assert set(graph.edges) == {
        ("dataset", "training"),
        ("code", "training"),
        ("lock", "training"),
        ("training", "model"),
        ("model", "report evaluation.json"),
        ("model", "report validation.json"),
        ("report evaluation.json", "entry 1"),
        ("report validation.json", "entry 1"),
        ("entry 1", "entry 2"),
    }


def test_what_the_dataset_was_imported_from_is_a_source(recorded: Recorded) -> None:
    assert recorded.statement is not None
    source = {
        "name": "dataset source",
        "uri": "dvc+https://example.org/birds.git#data",
        "digest": {"dvcMd5": "6" * 32 + ".dir", "gitCommit": "a" * 40},
    }
    recorded.statement["predicate"]["buildDefinition"]["resolvedDependencies"].append(source)
    found = node(recorded, "dataset source")
    assert found.facts == (
        ("uri", "dvc+https://example.org/birds.git#data"),
        ("commit", "a" * 40),
        ("DVC hash", "6" * 32 + ".dir"),
    )
    assert (found.layer, found.warning) == ("sources", "")
    source["annotations"] = {"edited": True}
    assert node(recorded, "dataset source").warning == "edited since it was imported"


def test_every_node_has_its_digest(recorded: Recorded) -> None:
    digests = {one.id: one.digest for one in lineage_graph(recorded).nodes}
    assert digests["dataset"] == "d" * 64
    assert digests["code"] == "c" * 40
    assert digests["model"] == "1" * 64
    assert digests["report evaluation.json"] == "e" * 64
    assert digests["entry 2"] == "2" * 64


def test_what_an_auditor_should_notice_is_said(recorded: Recorded) -> None:
    assert node(recorded, "code").warning == "with uncommitted changes"
    assert node(recorded, "model").warning == "not signed"
    assert node(replace(recorded, signers=("7" * 64,)), "model").warning == ""
    forced = replace(recorded, entries=(promotion(2, 3, forced=True),))
    assert node(forced, "entry 2").warning == "FORCED"
    assert ("failed", "test.accuracy >= 0.9") in node(forced, "entry 2").facts


def test_who_moved_it_when_and_why(recorded: Recorded) -> None:
    moved = node(recorded, "entry 2")
    assert moved.title == "2. None to Production"
    assert dict(moved.facts) == {
        "when": "2026-11-24 09:02:00",
        "who": "ann",
        "why": "reason <2>",
        "gates": "passed",
        "report": "9" * 12,
        "approved by": "bob",
    }


def test_a_version_without_provenance_has_a_model_and_a_record(recorded: Recorded) -> None:
    graph = lineage_graph(replace(recorded, statement=None))
    assert [one.id for one in graph.nodes] == ["model", "entry 1", "entry 2"]
    assert graph.edges == (("model", "entry 1"), ("entry 1", "entry 2"))
    assert graph.nodes[0].warning == "registered without provenance"


def test_entries_that_moved_a_version_away_concern_it() -> None:
    assert concerns(promotion(2, 4, champion=3), 3)
    assert not concerns(promotion(2, 4, champion=2), 3)
    assert concerns(entry(3, "rollback", 2, **{"from": 3, "to": 2}), 3)
    assert concerns(entry(1, "adopt", 5, stages={"Staging": [3]}), 3)
    assert not concerns(entry(1, "adopt", 5, stages={"Staging": [4]}), 3)


def test_boxes_of_a_column_do_not_overlap_and_columns_run_to_the_right(recorded: Recorded) -> None:
    picture = lay_out(lineage_graph(recorded))
    columns: dict[int, list[Any]] = {}
    for box in picture.boxes:
        columns.setdefault(box.x, []).append(box)
        assert box.x >= 0
        assert box.x + box.width <= picture.width
        assert box.y + box.height <= picture.height
    assert list(columns) == sorted(columns)
    assert len(columns) == 5
    for boxes in columns.values():
        for upper, lower in pairwise(boxes):
            assert upper.y + upper.height < lower.y
    assert len(picture.arrows) == 9


def test_the_page_needs_nothing_else_and_runs_nothing(recorded: Recorded) -> None:
    page = lineage_page(lineage_graph(recorded), [Check("data", "broken", "images/1.png <gone>")])
    for loaded in ("<script", "src=", "href=", "@import", "url(http"):
        assert loaded not in page
    assert "reason &lt;2&gt;" in page
    assert "images/1.png &lt;gone&gt;" in page
    for digest in ("d" * 64, "c" * 40, "1" * 64, "e" * 64, "2" * 64):
        assert digest in page
    drawing = re.search(r"<svg.*?</svg>", page, re.DOTALL)
    assert drawing is not None
    boxes = ElementTree.fromstring(drawing[0]).findall(".//rect")
    assert len(boxes) == 9


@pytest.mark.parametrize("text", ["megl", "megl/", "/3", ""])
def test_a_reference_names_model_and_version(text: str) -> None:
    assert parse_reference("megl/3") == ("megl", "3")
    with pytest.raises(ConfigError, match="names no version"):
        parse_reference(text)
