"""The page of a version's origin: one file with a picture and a table, for a screen or on paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from megl_core.html import render
from megl_core.lineage.graph import LAYERS, Graph, Node
from megl_core.lineage.verify import Check

_WIDTH, _GAP_X, _GAP_Y, _MARGIN = 236, 44, 18, 14  # in the picture's own units
_TITLE, _LINE, _PADDING = 20, 15, 12
_LETTERS = 34  # of a line of text in a box
_MAX_LINES = 7


@dataclass(frozen=True)
class Box:
    """A node in its place; `lines` are what it says, each short enough for the box."""

    node: Node
    x: int
    y: int
    height: int
    title: str
    lines: tuple[str, ...]
    width: int = _WIDTH


@dataclass(frozen=True)
class Picture:
    """Boxes, the paths of the arrows between them (SVG), and the headings of the columns."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    arrows: tuple[str, ...]
    headings: tuple[tuple[int, str], ...]


def lineage_page(graph: Graph, checks: Sequence[Check] = ()) -> str:
    """A self-contained page, without script and network; `checks` are shown where there are any."""
    return render("lineage.html", graph=graph, picture=lay_out(graph), layers=LAYERS, checks=checks)


def lay_out(graph: Graph) -> Picture:
    """Layers from left to right, each a column that is centred in the picture's height."""
    columns = [(layer, graph.layer(layer)) for layer in LAYERS if graph.layer(layer)]
    heights = [sum(_height(node) + _GAP_Y for node in nodes) - _GAP_Y for _, nodes in columns]
    tallest, top = max(heights), _MARGIN + _TITLE
    boxes: dict[str, Box] = {}
    headings = []
    for number, (layer, nodes) in enumerate(columns):
        x = _MARGIN + number * (_WIDTH + _GAP_X)
        y = top + (tallest - heights[number]) // 2
        headings.append((x, layer))
        for node in nodes:
            boxes[node.id] = Box(node, x, y, _height(node), _short(node.title), tuple(_lines(node)))
            y += _height(node) + _GAP_Y
    width = 2 * _MARGIN + len(columns) * (_WIDTH + _GAP_X) - _GAP_X
    arrows = tuple(_arrow(boxes[one], boxes[other]) for one, other in graph.edges)
    return Picture(width, top + tallest + _MARGIN, tuple(boxes.values()), arrows, tuple(headings))


def _height(node: Node) -> int:
    return _TITLE + len(_lines(node)) * _LINE + _PADDING


def _lines(node: Node) -> list[str]:
    """Its digest, then as many facts as the box has room for."""
    facts = [_short(f"{word}: {value}") for word, value in node.facts]
    if len(facts) > _MAX_LINES:
        facts = [*facts[: _MAX_LINES - 1], f"and {len(facts) - _MAX_LINES + 1} more below"]
    warning = [_short(node.warning)] if node.warning else []
    digest = [f"{node.digest[:24]}..."] if node.digest else []
    return [*warning, *digest, *facts]


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."


def _arrow(one: Box, other: Box) -> str:
    """A curve from side to side, or straight down within a column."""
    if one.x == other.x:
        middle = one.x + _WIDTH // 2
        return f"M{middle},{one.y + one.height} V{other.y - 2}"
    start, end = one.x + _WIDTH, other.x - 2
    y, to_y, half = one.y + one.height // 2, other.y + other.height // 2, (end - start) // 2
    return f"M{start},{y} C{start + half},{y} {end - half},{to_y} {end},{to_y}"
