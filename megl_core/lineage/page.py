"""One HTML page about a version's lineage, with a picture of its graph."""

from pathlib import Path

from markupsafe import Markup, escape

from megl_core.html import render, write_html
from megl_core.lineage.graph import Graph, Node, graph_of
from megl_core.lineage.record import Recorded
from megl_core.lineage.verify import Check

_WIDTH, _GAP_X, _GAP_Y, _LINE, _PADDING = 250, 60, 18, 17, 12
_MAX_LETTERS = 34


def write_page(path: Path, recorded: Recorded, checks: list[Check] | None = None) -> None:
    """Write the page; with `checks` it says what was verified.

    Raises:
        MeglError: the file cannot be written.
    """
    graph = graph_of(recorded)
    page = render(
        "lineage.html",
        recorded=recorded,
        graph=graph,
        picture=draw(graph),
        checks=checks,
        statement=recorded.statement,
    )
    write_html(path, page)


def draw(graph: Graph) -> Markup:
    """The graph as SVG: layers from left to right, a box for each node, a curve for each edge."""
    places = _places(graph)
    height = max(y + _height(node) for node, _, y in places.values()) + _PADDING
    layers = max(node.layer for node in graph.nodes) + 1
    width = layers * (_WIDTH + _GAP_X) - _GAP_X + 2 * _PADDING
    curves = Markup("").join(_curve(places[one], places[other]) for one, other in graph.edges)
    boxes = Markup("").join(_box(*place) for place in places.values())
    return (
        Markup(  # noqa: S704 (what is put in is escaped below)
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            'aria-label="What the version was made of, what judged it, and where it stands">'
        )
        + curves
        + boxes
        + Markup("</svg>")
    )


Place = tuple[Node, int, int]


def _places(graph: Graph) -> dict[str, Place]:
    """`{id: (node, x, y)}`; columns are centred on the tallest."""
    columns: dict[int, list[Node]] = {}
    for node in graph.nodes:
        columns.setdefault(node.layer, []).append(node)
    heights = {
        layer: sum(map(_height, nodes)) + _GAP_Y * (len(nodes) - 1) for layer, nodes in columns.items()
    }
    places = {}
    for layer, nodes in columns.items():
        y = _PADDING + (max(heights.values()) - heights[layer]) // 2
        for node in nodes:
            places[node.id] = (node, _PADDING + layer * (_WIDTH + _GAP_X), y)
            y += _height(node) + _GAP_Y
    return places


def _height(node: Node) -> int:
    return 2 * _PADDING + _LINE * (1 + len(node.lines))


def _curve(start: Place, end: Place) -> Markup:
    """Between neighbours in a column from below to above, else from right to left."""
    (one, x1, y1), (other, x2, y2) = start, end
    if x1 == x2:
        x, top, bottom = x1 + _WIDTH // 2, y1 + _height(one), y2
        return Markup('<path class="edge" d="M{} {} L{} {}"/>').format(x, top, x, bottom)
    left, right = (x1 + _WIDTH, y1 + _height(one) // 2), (x2, y2 + _height(other) // 2)
    middle = (left[0] + right[0]) // 2
    path = Markup('<path class="edge" d="M{} {} C{} {} {} {} {} {}"/>')
    return path.format(*left, middle, left[1], middle, right[1], *right)


def _box(node: Node, x: int, y: int) -> Markup:
    rows = [
        Markup('<text x="{}" y="{}" class="{}">{}<title>{}</title></text>').format(
            x + _PADDING,
            y + _PADDING + _LINE * (number + 1) - 4,
            "title" if number == 0 else "fact",
            _short(line),
            line,
        )
        for number, line in enumerate((node.title, *node.lines))
    ]
    box = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="8" class="node"/>')
    return box.format(x, y, _WIDTH, _height(node)) + Markup("").join(rows)


def _short(line: str) -> Markup:
    return escape(line if len(line) <= _MAX_LETTERS else line[: _MAX_LETTERS - 1] + "…")
