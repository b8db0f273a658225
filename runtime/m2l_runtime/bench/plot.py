"""Plot a report: images/s of each row, and latency by batch size. Primitives serve other benchmarks, too."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from m2l_runtime._utils.text import plural, printable
from m2l_runtime.bench.report import BenchReport, Row, Statistic
from m2l_runtime.bench.table import number

_ALONE: Final = "#b3312c"
_FILES: Final = "#c9ccd1"
_INK: Final = "#3c4043"
LINE_COLORS: Final = ("#b3312c", "#2f6690", "#3f7d20", "#8f5aa8", "#c77d0a", "#5c6670")
_MARKS: Final = "os^Dv*"
_LOW_INCH: Final = 4.2
_ROW_INCH: Final = 0.55
_LABEL_GAP: Final = 1.035
"""Of two lines at the same batch size, so that their whiskers do not hide one another."""


def plot(report: BenchReport) -> bytes:
    """Draw a report as PNG. Bars and points are medians over rounds, whiskers reach from the lowest to the highest.

    Args:
        report: with at least one row that was measured.
    """
    rows = report.measured
    height = max(_LOW_INCH, 1.9 + _ROW_INCH * len(rows))
    picture = new_picture(12.5, height)
    bars, lines = picture.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_bars(bars, rows)
    _draw_latencies(lines, rows)
    for axes in (bars, lines):
        remove_frame(axes)
    bundle, machine = report.bundle, report.machine
    picture.suptitle(
        f"{printable(bundle['name'])} (ngf {bundle['ngf']}) on {printable(machine['cpu'])}, "
        f"{plural(machine['usable_cpus'], 'usable CPU')}\n"
        + (
            f"medians of {plural(report.round_count, 'round')}; whiskers from the lowest to the highest"
            if report.round_count > 1
            else "1 round"
        ),
        fontsize=11,
        parse_math=False,
    )
    return to_png(picture)


def new_picture(width_inch: float, height_inch: float) -> Picture:
    """Make an empty picture of this size."""
    picture = Picture(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def to_png(picture: Picture) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def remove_frame(axes: Any) -> None:
    """Leave the axes on the left and below alone."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


def draw_bars(
    axes: Any,
    places: Sequence[float],
    statistics: Sequence[Statistic],
    *,
    height: float,
    color: str | Sequence[str],
    label: str | None = None,
    texts: Sequence[str] | None = None,
) -> None:
    """Draw a bar up to each median, with whiskers from the lowest to the highest, and a text behind it.

    Args:
        axes: where.
        places: positions on the y axis.
        statistics: a value of each bar.
        height: of a bar, in units of the y axis.
        color: one, or one of each bar.
        label: for the legend.
        texts: behind the bars; None: the medians.
    """
    axes.barh(
        places,
        [one.median for one in statistics],
        height=height,
        color=color,
        label=label,
        xerr=_error_bars(statistics),
        error_kw={"ecolor": _INK, "capsize": 2.5, "elinewidth": 1.1},
    )
    shown = [number(one.median) for one in statistics] if texts is None else texts
    for place, one, text in zip(places, statistics, shown, strict=True):
        axes.annotate(
            text,
            (one.highest, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=_INK,
        )


def draw_line(axes: Any, places: Sequence[float], statistics: Sequence[Statistic], index: int, label: str) -> None:
    """Draw a line through medians, with whiskers from the lowest to the highest.

    Args:
        axes: where.
        places: positions on the x axis.
        statistics: a value of each place.
        index: number of the line, which gives it its color and mark.
        label: for the legend.
    """
    axes.errorbar(
        places,
        [one.median for one in statistics],
        yerr=_error_bars(statistics),
        color=LINE_COLORS[index % len(LINE_COLORS)],
        marker=_MARKS[index % len(_MARKS)],
        markersize=6,
        capsize=2.5,
        linewidth=1.5,
        elinewidth=1.1,
        label=label,
    )


def use_log_axes(axes: Any, ticks: Sequence[int]) -> None:
    """Make both axes logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", color="#e6e8ea")


def _draw_bars(axes: Any, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    for name, what, color, offset in (
        ("images_per_s", "engine alone", _ALONE, -0.2),
        ("end_to_end_images_per_s", "mask files to PNG files", _FILES, 0.2),
    ):
        statistics = [row.metrics[name] for row in rows]
        draw_bars(axes, [place + offset for place in places], statistics, height=0.38, color=color, label=what)
    axes.set_yticks(list(places), [row.label for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(
        0, 1.1 * max(row.metrics[n].highest for row in rows for n in ("images_per_s", "end_to_end_images_per_s"))
    )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("images/s (more is better)")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _draw_latencies(axes: Any, rows: Sequence[Row]) -> None:
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(_line_of(row), []).append(row)
    for index, (name, members) in enumerate(lines.items()):
        members.sort(key=lambda row: row.config.batch_size)
        found = [row.metrics["latency_p50_ms"] for row in members]
        tails = [row.metrics["latency_p95_ms"].median for row in members]
        places = [row.config.batch_size * _LABEL_GAP ** (index - (len(lines) - 1) / 2) for row in members]
        draw_line(axes, places, found, index, name)
        color, mark = LINE_COLORS[index % len(LINE_COLORS)], _MARKS[index % len(_MARKS)]
        axes.plot(places, tails, color=color, linestyle="none", marker=mark, markersize=5, markerfacecolor="white")
    batch_sizes = sorted({row.config.batch_size for row in rows})
    use_log_axes(axes, batch_sizes)
    axes.set_xlim(batch_sizes[0] / 1.4, batch_sizes[-1] * 1.4)
    axes.set_xlabel("batch size (images of a call)")
    least = min(row.metrics["latency_p50_ms"].lowest for row in rows)
    most = max(row.metrics["latency_p95_ms"].median for row in rows)
    axes.set_ylim(_step_below(least), _step_above(most))
    axes.set_ylabel("latency of a call, ms, log scale (less is better)")
    axes.legend(
        frameon=False,
        title="filled: p50; hollow: p95",
        fontsize=9,
        title_fontsize=9,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=2,
    )


def _line_of(row: Row) -> str:
    """Return a row's label without the batch size."""
    return row.label.replace(f" batch {row.config.batch_size}", "")


def _step_below(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is below."""
    return 0.1 / _step_above(0.1 / value)


def _step_above(value: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is above."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10, 20) if step * power > value)


def _error_bars(found: Sequence[Statistic]) -> list[list[float]]:
    """Return how far below and above the medians they reach."""
    return [[figure.median - figure.lowest for figure in found], [figure.highest - figure.median for figure in found]]
