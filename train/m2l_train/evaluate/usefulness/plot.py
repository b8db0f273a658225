"""Draw the forest plot: the difference of each comparison, with its interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from m2l_train.evaluate.usefulness.report import points
from m2l_train.evaluate.usefulness.result import Comparison

_ROW_INCH: Final = 0.34
_COLORS: Final = {"better": "#3f7d20", "worse": "#b3312c", "no difference shown": "#5c6670"}


def forest_plot(comparisons: Sequence[Comparison], kind: Literal["svg", "png"]) -> bytes:
    """Draw the comparisons of Dice as points with 95 % intervals, grouped by fraction; same bytes for the same values.

    Args:
        comparisons: at least one of Dice.
        kind: format of the picture.
    """
    rows = [one for one in comparisons if one.metric == "dice"]
    groups = {fraction: [one for one in rows if one.fraction == fraction] for fraction in {r.fraction: 0 for r in rows}}
    figure = Figure(figsize=(9.5, 1.1 + _ROW_INCH * (len(rows) + 1.2 * len(groups))), layout="constrained")
    axes = figure.subplots()
    height = 0.0
    places: list[float] = []
    labels: list[str] = []
    for fraction, group in groups.items():
        axes.text(0, height, f"{fraction:g} % of the real pairs", transform=axes.get_yaxis_transform(), weight="bold")
        for one in group:
            height -= 1
            _draw(axes, one, height)
            places.append(height)
            labels.append(f"{one.arm} vs {one.baseline}")
        height -= 1.2
    axes.axvline(0, color="#3c4043", linewidth=0.8)
    axes.set_yticks(places, labels)
    axes.set_ylim(height + 0.6, 0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("difference of mean Dice in points (hundredths), 95 % interval over images and seeds")
    axes.margins(x=0.08)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    if kind == "png":
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    else:
        with mpl.rc_context({"svg.hashsalt": "m2l", "svg.fonttype": "path"}):
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _draw(axes: Axes, one: Comparison, height: float) -> None:
    color, value = _COLORS[one.verdict], 100 * one.difference.value
    if one.difference.low is not None and one.difference.high is not None:
        ends = (100 * one.difference.low, 100 * one.difference.high)
        axes.plot(ends, (height, height), color=color, linewidth=1.8, solid_capstyle="butt")
    axes.plot(value, height, "s", color=color, markersize=6)
    axes.annotate(
        f"{points(one.difference)}, {one.verdict}",
        (1.01, height),
        xycoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color=color,
    )
