"""Draw the forest plot: the difference of each comparison, with its interval."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from m2l_train.evaluate.usefulness.report import points
from m2l_train.evaluate.usefulness.result import Comparison

_ROW_INCH: Final = 0.34


@dataclass(frozen=True)
class ForestColors:
    """Hold the colors of a forest plot."""

    axis: str
    text: str
    verdicts: Mapping[str, str]


_PRINTED: Final = ForestColors(
    "#3c4043", "#000000", {"better": "#3f7d20", "worse": "#b3312c", "no difference shown": "#5c6670"}
)


def forest_rows(comparisons: Sequence[Comparison]) -> dict[float, list[Comparison]]:
    """Group the comparisons of Dice by fraction."""
    rows = [one for one in comparisons if one.metric == "dice"]
    return {fraction: [one for one in rows if one.fraction == fraction] for fraction in {r.fraction: 0 for r in rows}}


def forest_height(groups: Mapping[float, Sequence[Comparison]]) -> float:
    """Return the height in inches that these rows take."""
    return 1.1 + _ROW_INCH * (sum(map(len, groups.values())) + 1.2 * len(groups))


def draw_forest(
    axes: Axes, groups: Mapping[float, Sequence[Comparison]], colors: ForestColors, *, is_annotated: bool
) -> None:
    """Draw comparisons as points with 95 % intervals, one group below the other.

    Args:
        axes: to draw on.
        groups: comparisons by fraction.
        colors: of what is drawn.
        is_annotated: whether each row ends with its numbers and verdict.
    """
    height = 0.0
    places: list[float] = []
    labels: list[str] = []
    for fraction, group in groups.items():
        axes.text(
            0,
            height,
            f"{fraction:g} % of the real pairs",
            transform=axes.get_yaxis_transform(),
            weight="bold",
            color=colors.text,
        )
        for one in group:
            height -= 1
            _draw(axes, one, height, colors, is_annotated=is_annotated)
            places.append(height)
            labels.append(f"{one.arm} vs {one.baseline}")
        height -= 1.2
    axes.axvline(0, color=colors.axis, linewidth=0.8)
    axes.set_yticks(places, labels)
    axes.set_ylim(height + 0.6, 0.8)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)


def _draw(axes: Axes, one: Comparison, height: float, colors: ForestColors, *, is_annotated: bool) -> None:
    color, value = colors.verdicts[one.verdict], 100 * one.difference.value
    if one.difference.low is not None and one.difference.high is not None:
        ends = (100 * one.difference.low, 100 * one.difference.high)
        axes.plot(ends, (height, height), color=color, linewidth=1.8, solid_capstyle="butt")
    axes.plot(value, height, "s", color=color, markersize=6)
    if is_annotated:
        axes.annotate(
            f"{points(one.difference)}, {one.verdict}",
            (1.01, height),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=color,
        )


def forest_plot(comparisons: Sequence[Comparison], kind: Literal["svg", "png"]) -> bytes:
    """Draw the comparisons of Dice as points with 95 % intervals, grouped by fraction; same bytes for the same values.

    Args:
        comparisons: at least one of Dice.
        kind: format of the picture.
    """
    groups = forest_rows(comparisons)
    figure = Figure(figsize=(9.5, forest_height(groups)), layout="constrained")
    axes = figure.subplots()
    draw_forest(axes, groups, _PRINTED, is_annotated=True)
    axes.set_xlabel("difference of mean Dice in points (hundredths), 95 % interval over images and seeds")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    if kind == "png":
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    else:
        with mpl.rc_context({"svg.hashsalt": "m2l", "svg.fonttype": "path"}):
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
