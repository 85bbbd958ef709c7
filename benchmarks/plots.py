"""The pictures of the page."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.stats import Interval, confidence
from megl_core.files import atomic_file

_COLOURS = (
    *("#c7395b", "#4c78d8", "#2f9e6e", "#b58900", "#6c4fb0", "#d9622b"),
    *("#1f8a9e", "#8a5a44", "#111111", "#7f8c9b", "#9dbf3b", "#e39bb0"),
)
_MARKERS = "osD^v<>Pph*X"
_SETTINGS: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Point:
    """A run in the scatter plot; energy and accuracy in per cent."""

    family: str
    title: str
    is_plain: bool
    energy: float
    accuracy: float


def accuracy_by_share(
    path: Path,
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    levels: Mapping[str, Sequence[float]],
) -> None:
    """OOD accuracy against the share of masks: a line through the means, a dot for each seed.

    Args:
        curves: `{method: {share above 0: accuracies}}`, all in per cent.
        levels: accuracies of methods that use no mask, as lines across.
    """
    with _figure(path, (6.4, 4.0)) as figure:
        axis = figure.subplots()
        shares = sorted({share for curve in curves.values() for share in curve})
        for colour, (method, curve) in zip(_COLOURS, curves.items(), strict=False):
            known = sorted(curve)
            axis.plot(
                known, [_mean(curve[share]) for share in known], color=colour, label=method, linewidth=1.8
            )
            for share in known:
                axis.plot(
                    [share] * len(curve[share]), curve[share], "o", color=colour, markersize=3.5, alpha=0.6
                )
        for style, (method, values) in zip(("--", ":", "-.", (0, (1, 4))), levels.items(), strict=False):
            axis.axhline(_mean(values), color="#555555", linestyle=style, linewidth=1.2, label=method)
        axis.axhline(25, color="#bbbbbb", linewidth=0.8, label="chance")
        axis.set_xscale("log")
        axis.set_xticks(shares, [f"{share} %" for share in shares])
        axis.minorticks_off()
        axis.set_ylim(0, 102)
        axis.set_xlabel("training images with a mask")
        axis.set_ylabel("accuracy out of distribution, %")
        figure.legend(loc="outside right center")


def differences(path: Path, panels: Mapping[str, Mapping[str, Interval]]) -> None:
    """Bars with 95 % intervals, a panel for each title, in points of OOD accuracy."""
    rows = max(len(bars) for bars in panels.values())
    with _figure(path, (3.6 * len(panels) + 0.8, 0.27 * rows + 1.1)) as figure:
        axes = figure.subplots(1, len(panels), sharey=len(panels) > 1, squeeze=False)[0]
        for axis, (title, bars) in zip(axes, panels.items(), strict=True):
            names = list(bars)
            means = [bars[name].mean for name in names]
            axis.barh(names, means, color=[_colour(bars[name]) for name in names], height=0.65)
            for name, bar in bars.items():
                if bar.low is not None and bar.high is not None:
                    axis.plot([bar.low, bar.high], [name, name], color="#222222", linewidth=1.1)
            axis.axvline(0, color="#222222", linewidth=0.8)
            axis.set_title(title, loc="left", fontsize=9)
            axis.set_xlabel("accuracy out of distribution, points less MEGL")
        axes[0].invert_yaxis()


def alignment_against_accuracy(path: Path, points: Sequence[Point]) -> None:
    """Energy in mask on test images against OOD accuracy, a dot for each run, hollow for plain maps."""
    families = list(dict.fromkeys(point.family for point in points))
    styles = dict(zip(families, zip(_COLOURS, _MARKERS, strict=True), strict=False))
    with _figure(path, (6.4, 4.0)) as figure:
        axis = figure.subplots()
        for family, (colour, marker) in styles.items():
            axis.plot([], [], marker, color=colour, markersize=4, label=family)
        for point in points:
            colour, marker = styles[point.family]
            face = "none" if point.is_plain else colour
            axis.plot(
                point.energy,
                point.accuracy,
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=4,
                alpha=0.7,
            )
        axis.set_xlim(0, 102)
        axis.set_ylim(0, 102)
        axis.set_xlabel("energy in mask on test images, %  (hollow: plain map)")
        axis.set_ylabel("accuracy out of distribution, %")
        figure.legend(loc="outside right center")


def pairs(
    path: Path, bars: Mapping[str, tuple[Sequence[float], Sequence[float]]], names: tuple[str, str]
) -> None:
    """Two bars for each title, accuracies in per cent, a dot for each seed."""
    with _figure(path, (6.4, 0.42 * len(bars) + 1.2)) as figure:
        axis = figure.subplots()
        for side, (name, colour) in enumerate(zip(names, ("#b8bec6", "#c7395b"), strict=True)):
            places = [place + 0.38 * side - 0.19 for place in range(len(bars))]
            values = [pair[side] for pair in bars.values()]
            axis.barh(places, [_mean(seeds) for seeds in values], 0.36, color=colour, label=name)
            for place, seeds in zip(places, values, strict=True):
                axis.plot(seeds, [place] * len(seeds), "o", color="#222222", markersize=2.5)
        axis.set_yticks(range(len(bars)), list(bars))
        axis.invert_yaxis()
        axis.set_xlim(0, 102)
        axis.set_xlabel("accuracy on test images, %")
        figure.legend(loc="outside upper right", ncols=2)


def _colour(bar: Interval) -> str:
    """Orange: clearly worse, green: clearly better, grey: neither."""
    if bar.is_below:
        return "#d9822b"
    return "#2f9e6e" if bar.is_above else "#b8bec6"


def _mean(values: Sequence[float]) -> float:
    return confidence(values).mean


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained", dpi=110)
        yield figure
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
