"""Learning curves as inline SVG that takes the colours of the page it stands in."""

import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

Row = dict[str, float]

_INK = "#010203"  # becomes currentColor, so that the chart is readable on light and on dark
_PALETTE = ("#4c78d8", "#d9622b", "#2f9e6e", "#b252c4", "#b58900", "#6c7a89", "#c7395b")
_NOT_CURVES = {"epoch", "step", "seconds", "images_per_second", "learning_rate"}


def learning_curves(history: Sequence[Row]) -> Markup | None:
    """Losses, validation metrics and the learning rate by epoch; None where nothing was recorded."""
    panels = [(title, names) for title, names in _panels(history) if names]
    if not panels:
        return None
    import matplotlib as mpl
    from matplotlib import rcsetup
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "megl",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.prop_cycle": rcsetup.cycler(color=_PALETTE),
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.0 * len(panels), 3.1), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, names) in zip(axes, panels, strict=True):
            for name in names:
                points = [(row["epoch"], row[name]) for row in history if name in row]
                marker = "o" if len(points) == 1 else None
                axis.plot(*zip(*points, strict=True), label=_words(name), linewidth=1.8, marker=marker)
            axis.set_title(title, loc="left", fontsize=11)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.25)
            if len(names) > 1:
                axis.legend(fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue())


def _panels(history: Sequence[Row]) -> list[tuple[str, list[str]]]:
    names = list(dict.fromkeys(name for row in history if "epoch" in row for name in row))
    curves = [name for name in names if name not in _NOT_CURVES]
    measured = [name for name in curves if name.startswith("val_") and not name.endswith("loss")]
    rate = [name for name in names if name == "learning_rate"]
    losses = [name for name in curves if name not in measured]
    return [("losses", losses), ("validation", measured), ("learning rate", rate)]


def _words(name: str) -> str:
    return name.removeprefix("val_").replace("_", " ")


def _inline(svg: str) -> Markup:
    """The <svg> element alone, scaling with the page."""
    element = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    element = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", element, count=1)
    element = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", element, count=1)
    return Markup(element)  # noqa: S704  matplotlib escapes the text in it
