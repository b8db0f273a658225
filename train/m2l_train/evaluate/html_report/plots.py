"""Plot results as SVG pictures, each for light and dark pages and for wide and narrow ones."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from m2l_train.evaluate.html_report.results import Column, Reading, short
from m2l_train.evaluate.registry import METRICS, metric_spec
from m2l_train.evaluate.result import ComparedMetric, Comparison
from m2l_train.evaluate.usefulness.plot import ForestColors, draw_forest, forest_height, forest_rows
from m2l_train.evaluate.usefulness.report import points
from m2l_train.evaluate.usefulness.result import Usefulness

MAX_LABEL: Final = 34
WIDE_INCHES: Final = 9.4
NARROW_INCHES: Final = 4.4
_BESIDE_REAL: Final = (
    "dice",
    "boundary",
    "kid_efflite2",
    "fid_efflite2",
    "precision_efflite2",
    "recall_efflite2",
    "two_sample_auc",
    "swd",
    "variety",
    "colour_spread_lesion",
    "colour_spread_skin",
    "sharpness_ratio",
    "red_green_correlation",
    "repeated_marks",
    "checkerboard",
    "neighbour_median",
)
"""Metrics that are above 0 and whose ratio to real images means something."""
_REACH: Final = 16.0
"""Ratios are drawn from one over this to this; those beyond stand at the edge."""
_MARKERS: Final = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Palette:
    """Hold the colors of plots on one kind of page."""

    text: str
    muted: str
    grid: str
    real: str
    series: tuple[str, ...]
    better: str
    worse: str


LIGHT: Final = Palette(
    text="#1d2129",
    muted="#5b6370",
    grid="#e4e2dc",
    real="#d9d3c4",
    series=("#0b5fa5", "#b8500b", "#1d7a4f", "#8a3f8f", "#7a6a00", "#b3312c"),
    better="#1d7a4f",
    worse="#b3312c",
)
DARK: Final = Palette(
    text="#ecebe7",
    muted="#a9b0bb",
    grid="#333943",
    real="#4a4d52",
    series=("#74b9f5", "#f3a260", "#6fce9f", "#d79adb", "#d9c84a", "#f0918c"),
    better="#6fce9f",
    worse="#f0918c",
)
"""After Okabe and Ito's order of hues, told apart by lightness and by markers, too."""


@dataclass(frozen=True)
class Plot:
    """Hold one plot in all its versions, as data: URIs, and what it says in words."""

    title: str
    caption: str
    alt: str
    wide: str
    wide_dark: str
    narrow: str
    narrow_dark: str
    width: int
    height: int
    narrow_width: int
    narrow_height: int


Draw = Callable[[Axes, Palette], None]


def _plot(title: str, caption: str, alt: str, height: float, draw: Draw, narrow_height: float | None = None) -> Plot:
    sizes = ((WIDE_INCHES, height), (NARROW_INCHES, height if narrow_height is None else narrow_height))
    wide_uri, wide_dark, narrow_uri, narrow_dark = (
        _svg(size, palette, draw) for size in sizes for palette in (LIGHT, DARK)
    )
    (wide, tall), (narrow, narrow_tall) = ((round(72 * w), round(72 * h)) for w, h in sizes)
    return Plot(title, caption, alt, wide_uri, wide_dark, narrow_uri, narrow_dark, wide, tall, narrow, narrow_tall)


def _svg(size: tuple[float, float], palette: Palette, draw: Draw) -> str:
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "m2l",
        "text.parse_math": False,
        "font.size": 10.5,
        "text.color": palette.text,
        "axes.labelcolor": palette.muted,
        "axes.edgecolor": palette.grid,
        "axes.titlecolor": palette.text,
        "xtick.color": palette.grid,
        "ytick.color": palette.grid,
        "xtick.labelcolor": palette.muted,
        "ytick.labelcolor": palette.text,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        draw(axes, palette)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(r"'[^']*'(, *'[^']*')*, *sans-serif", "system-ui, sans-serif", file.getvalue().decode())
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _is_narrow(axes: Axes) -> bool:
    return axes.figure.bbox.width / axes.figure.dpi < WIDE_INCHES


def shortened(label: str, limit: int = MAX_LABEL) -> str:
    """Shorten a label in its middle.

    Example:
        >>> shortened("abcdefghij", 7)
        'abc…hij'
    """
    half = (limit - 1) // 2
    return label if len(label) <= limit else f"{label[:half]}…{label[-half:]}"


def texture_plot(columns: Sequence[Column]) -> Plot | None:
    """Plot the sliced Wasserstein ratio of each level of the pyramids; None where it was not measured."""
    series: list[tuple[str, list[tuple[int, float]]]] = []
    for column in columns:
        points = [
            (int(side), reading.value)
            for name, reading in column.readings.items()
            if (side := name.removeprefix("swd_ratio_")).isdecimal() and reading.value is not None and reading.value > 0
        ]
        if points:
            series.append((column.label, sorted(points)))
    if not series:
        return None
    sides = sorted({side for _, points in series for side, _ in points})
    places = {side: place for place, side in enumerate(sides)}
    top = max(value for _, points in series for _, value in points)
    bottom = min(1.0, *(value for _, points in series for _, value in points))

    def draw(axes: Axes, palette: Palette) -> None:
        axes.axhline(1, color=palette.real, linewidth=6, zorder=0)
        axes.annotate("unseen real images", (0, 1), (0, 7), textcoords="offset points", color=palette.muted, fontsize=9)
        for i, (label, points) in enumerate(series):
            x, y = [places[side] for side, _ in points], [value for _, value in points]
            color, marker = palette.series[i % len(palette.series)], _MARKERS[i % len(_MARKERS)]
            axes.plot(x, y, color=color, linewidth=1.6, marker=marker, markersize=7, label=shortened(label))
            if len(series) == 1:
                for place, value in zip(x, y, strict=True):
                    axes.annotate(
                        short(value),
                        (place, value),
                        (0, 9),
                        textcoords="offset points",
                        ha="center",
                        fontsize=9,
                        color=palette.text,
                    )
        axes.set_yscale("log", base=2)
        axes.set_ylim(bottom / 1.3, top * 1.35)
        axes.yaxis.set_major_locator(FixedLocator([x for x in _STEPS if bottom / 1.3 <= x <= top * 1.35]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(list(places.values()), [f"{side} px" for side in places])
        axes.set_xlim(-0.35, len(places) - 0.65)
        axes.grid(axis="y", color=palette.grid, linewidth=0.8)
        axes.set_xlabel("level of the image pyramid: coarse to fine")
        if len(series) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1 if _is_narrow(axes) else 2)

    alt = "; ".join(
        f"{label}: " + ", ".join(f"{short(value)} at {side} pixels" for side, value in points)
        for label, points in series
    )
    return _plot(
        "Texture, level by level",
        "Sliced Wasserstein distance to the training images over that of unseen real images. 1 is as near as real "
        "images are; higher is further off. Fine levels are noise, hair and edges, coarse ones colors and layout.",
        f"Sliced Wasserstein ratios. {alt}.",
        3.5,
        draw,
    )


_STEPS: Final = tuple(sorted(base * 2.0**k for k in range(-8, 9) for base in (1, 1.5)))
_OCTAVES: Final = tuple(2.0**k for k in range(-8, 9))


def _ratio(reading: Reading) -> tuple[float, float | None, float | None, float, float] | None:
    """Value and interval over the real value, and the ends of the real interval over it."""
    if reading.value is None or reading.real is None or reading.real.value is None or reading.real.value <= 0:
        return None
    middle = reading.real.value
    low, high = (middle if end is None else end for end in (reading.real.low, reading.real.high))
    start, end = (None if x is None else x / middle for x in (reading.low, reading.high))
    return reading.value / middle, start, end, low / middle, high / middle


def beside_real_plot(columns: Sequence[Column]) -> Plot | None:
    """Plot metrics with their intervals as multiples of what real images have; None where there are none."""
    names = [name for name in _BESIDE_REAL if any(_ratio_of(column, name) is not None for column in columns)]
    if not names:
        return None

    def draw(axes: Axes, palette: Palette) -> None:
        axes.axvline(1, color=palette.muted, linewidth=1, zorder=1)
        offsets = _offsets(len(columns))
        for row, name in enumerate(names):
            for i, column in enumerate(columns):
                found = _ratio_of(column, name)
                if found is None:
                    continue
                value, low, high, real_low, real_high = found
                if i == 0 or _ratio_of(columns[0], name) is None:
                    axes.barh(
                        row, _cut(real_high) - _cut(real_low), left=_cut(real_low), height=0.72, color=palette.real
                    )
                color, marker = palette.series[i % len(palette.series)], _MARKERS[i % len(_MARKERS)]
                y = row + offsets[i]
                if low is not None and high is not None:
                    axes.plot([_cut(low), _cut(high)], [y, y], color=color, linewidth=1.8, solid_capstyle="round")
                beyond = "<" if value < 1 / _REACH else ">" if value > _REACH else marker
                axes.plot(
                    [_cut(value)], [y], marker=beyond, color=color, markersize=6.5,
                    label=shortened(column.label) if row == _first(names, column) else None, linestyle="none",
                )  # fmt: skip
        ends = [x for name in names for c in columns if (f := _ratio_of(c, name)) for x in f if x is not None]
        left, right = min(0.5, *map(_cut, ends)) / 1.1, max(2.0, *map(_cut, ends)) * 1.1
        axes.set_xscale("log", base=2)
        axes.set_xlim(left, right)
        axes.xaxis.set_major_locator(FixedLocator([x for x in _OCTAVES if left <= x <= right]))
        axes.xaxis.set_major_formatter(FuncFormatter(_multiple))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", color=palette.grid, linewidth=0.8)
        is_narrow = _is_narrow(axes)
        axes.set_yticks(range(len(names)), [shortened(_title(name), 22 if is_narrow else 40) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("times real images")
        if len(columns) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1 if is_narrow else 2)

    words = []
    for column in columns:
        pairs = [(name, found[0]) for name in names if (found := _ratio_of(column, name)) is not None]
        words.append(f"{column.label}: " + ", ".join(f"{_title(n)} {short(v)}" for n, v in pairs))
    return _plot(
        "Figures with their intervals, beside real images",
        "Each figure over that of unseen real images, with its 95 % interval. The band is the interval of the real "
        "images. Inside the band: as real images are. An arrow at the edge: further out than the plot reaches.",
        "Figures as multiples of those of real images. " + "; ".join(words) + ".",
        0.9 + (0.32 + 0.1 * (len(columns) - 1)) * len(names),
        draw,
    )


def _ratio_of(column: Column, name: str) -> tuple[float, float | None, float | None, float, float] | None:
    reading = column.measured(name)
    return None if reading is None else _ratio(reading)


def _first(names: Sequence[str], column: Column) -> int:
    """Return the first row where a column has a point, which carries its entry in the legend."""
    return next(row for row, name in enumerate(names) if _ratio_of(column, name) is not None)


def _offsets(count: int) -> list[float]:
    return [0.0] if count == 1 else [0.5 * (i / (count - 1) - 0.5) for i in range(count)]


def _cut(ratio: float) -> float:
    return min(max(ratio, 1 / _REACH), _REACH)


def _multiple(x: float, _: int) -> str:
    return f"{x:g}x" if x >= 1 else f"1/{1 / x:g}"


def _title(name: str) -> str:
    return metric_spec(name).title.strip() if name in METRICS else name


def comparison_plot(comparison: Comparison) -> Plot | None:
    """Plot how much of the way to its goal B goes beyond A in each metric; None where none has an interval."""
    rows = [(name, metric, scale) for name, metric in comparison.figures.items() if (scale := _scale(metric))]
    if not rows:
        return None

    def draw(axes: Axes, palette: Palette) -> None:
        axes.axvline(0, color=palette.muted, linewidth=1)
        for row, (_, metric, scale) in enumerate(rows):
            gain = metric.improvement
            assert gain is not None and gain.value is not None and gain.low is not None and gain.high is not None  # noqa: PT018, S101 -- _scale looked
            color = {"better": palette.better, "worse": palette.worse}.get(metric.verdict or "", palette.muted)
            low, value, high = (max(-1.15, min(1.15, end / scale)) for end in (gain.low, gain.value, gain.high))
            axes.plot([low, high], [row, row], color=color, linewidth=1.8, solid_capstyle="round")
            axes.plot(
                [value], [row], color=color, markersize=6.5, linestyle="none",
                marker={"better": "^", "worse": "v"}.get(metric.verdict or "", "o"),
                markerfacecolor="none" if metric.verdict == "not told apart" else color,
            )  # fmt: skip
        is_narrow = _is_narrow(axes)
        axes.set_xlim(-1.2, 1.2)
        axes.xaxis.set_major_locator(FixedLocator([-1, -0.5, 0, 0.5, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.0f} %" if x else "0"))
        axes.grid(axis="x", color=palette.grid, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [shortened(_title(name), 22 if is_narrow else 40) for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("B worse  ◂        ▸  B better")

    words = ", ".join(f"{_title(name)} {metric.verdict}" for name, metric, _ in rows)
    return _plot(
        "How much better or worse B is",
        "The improvement with its paired 95 % interval, as a share of the distance to the goal of whichever bundle is "
        "further from it (real images, 1, or 0): +100 % would reach it. Triangles up: better; down: worse; open "
        "circles: not told apart.",
        f"B beside A. {words}.",
        0.9 + 0.3 * len(rows),
        draw,
    )


def usefulness_plot(result: Usefulness) -> Plot | None:
    """Plot how arms differ in Dice, with intervals; None where nothing was compared."""
    groups = forest_rows(result.comparisons)
    if not groups:
        return None

    def draw(axes: Axes, palette: Palette) -> None:
        verdicts = {"better": palette.better, "worse": palette.worse, "no difference shown": palette.muted}
        is_narrow = _is_narrow(axes)
        colors = ForestColors(palette.muted, palette.text, verdicts)
        draw_forest(axes, groups, colors, is_annotated=not is_narrow)
        axes.grid(axis="x", color=palette.grid, linewidth=0.8)
        axes.set_xlabel("Dice points" if is_narrow else "difference of mean Dice, in points (hundredths)")

    words = "; ".join(
        f"{one.fraction:g} %, {one.arm} vs {one.baseline}: {points(one.difference)}, {one.verdict}"
        for group in groups.values()
        for one in group
    )
    return _plot(
        "Differences of Dice between arms",
        "Mean Dice of an arm less that of another, on the same test images, with its 95 % interval over images and "
        "seeds. Right of the line: the first arm is ahead. An interval that reaches across the line shows no "
        "difference.",
        f"Differences of mean Dice in points. {words}.",
        forest_height(groups),
        draw,
    )


def _scale(metric: ComparedMetric) -> float | None:
    """Return the larger of both distances to the goal, if the metric has a verdict."""
    gain = metric.improvement
    if metric.verdict is None or gain is None or metric.a is None or metric.b is None:
        return None
    if metric.a.value is None or metric.b.value is None:
        return None
    if metric.better in ("lower", "higher"):
        distance = max(abs(metric.a.value), abs(metric.b.value))
    else:
        goal = 1.0 if metric.better == "near 1" or metric.real is None else metric.real.value
        distance = math.nan if goal is None else max(abs(metric.a.value - goal), abs(metric.b.value - goal))
    return distance if math.isfinite(distance) and distance > 0 else None
