"""Lines of JSON of benchmarks/cpu.py to pictures: medians, with whiskers from the lowest to the highest round."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.report import Statistic, summarize, summarize_ratio
from m2l_runtime.bench.table import number

Line = Mapping[str, Any]
CONVOLUTIONS: Final = "convolutions"
_OURS, _THEIRS, _PALE, _INK = "#b3312c", "#8a929c", "#e3b0ae", "#3c4043"
_LINES: Final = ("#b3312c", "#2f6690", "#3f7d20", "#8f5aa8", "#c77d0a")
_MARKS: Final = "os^Dv"
_WIDTH_INCH: Final = 10.5
_GROUPS: Final = {
    CONVOLUTIONS: ("Conv", "QLinearConv", "FusedConv", "Deconvolution"),
    "depth-to-space": ("DepthToSpace",),
    "instance norms": ("MVN", "InstanceNormalization"),
    "concatenations": ("Concat", "QLinearConcat"),
    "slices": ("Slice", "StridedSlice"),
    "layouts and types": ("Reorder", "Transpose", "Cast", "Convert", "QuantizeLinear", "DequantizeLinear", "Fake"),
}
_OTHER: Final = "activations and the rest"
_GROUP_COLORS: Final = ("#b3312c", "#2f6690", "#3f7d20", "#8f5aa8", "#c77d0a", "#5c6670", "#c9ccd1")


def group_of(kind: str) -> str:
    """What a kind of operator, in either engine's words, belongs to."""
    return next((group for group, names in _GROUPS.items() if kind.startswith(names)), _OTHER)


def engines(line: Line) -> bytes:
    """Images/s of each way, and how many times the first that is."""
    sides = line["sides"]
    rows = {name: summarize(side["images_per_s"]) for name, side in sides.items()}
    ratios = {name: values[0] for name, values in line["over_the_first"].items()}
    picture, axes = _bars(line, f"The engine alone, ngf {line['ngf']}, 256x256", len(rows))
    _draw_bars(axes, rows, [_color(name) for name in rows], [f"{ratios[name]:.2f}x" for name in rows])
    _label_rates(axes, rows)
    return _png(picture)


def end_to_end(line: Line) -> bytes:
    """Images/s from files to files, and of the engine alone."""
    sides = line["sides"]
    rows = {name: summarize(side["images_per_s"]) for name, side in sides.items()}
    alone = {
        name: summarize(side["engine_images_per_s"]) for name, side in sides.items() if "engine_images_per_s" in side
    }
    ratios = {name: values[0] for name, values in line["over_the_first"].items()}
    picture, axes = _bars(line, f"Mask files to image files, ngf {line['ngf']}", len(rows))
    places = list(rows)
    axes.barh(
        [places.index(name) for name in alone],
        [figure.median for figure in alone.values()],
        height=0.75,
        color=_PALE,
        label="its engine alone",
    )
    _draw_bars(axes, rows, [_color(name) for name in rows], [f"{ratios[name]:.2f}x" for name in rows], height=0.45)
    most = max(figure.highest for figure in (*rows.values(), *alone.values()))
    axes.set_xlim(0, 1.15 * most)
    picture.legend(frameon=False, loc="outside lower right")
    _label_rates(axes, rows, keep_limits=True)
    return _png(picture)


def first_image(line: Line) -> bytes:
    """Seconds to the first image."""
    sides = line["sides"]
    rows = {name: summarize(side["seconds"]) for name, side in sides.items()}
    ratios = {name: values[0] for name, values in line["over_the_first"].items()}
    picture, axes = _bars(line, f"From a cold process to the first image, ngf {line['ngf']}", len(rows))
    texts = [f"{number(figure.median)} s, {ratios[name]:.2f}x as soon" for name, figure in rows.items()]
    _draw_bars(axes, rows, [_color(name) for name in rows], texts, with_figure=False)
    axes.set_xlabel("seconds (less is better)")
    return _png(picture)


def growth(line: Line) -> bytes:
    """Milliseconds an image by batch size and by width, seconds by number of images."""
    picture = Picture(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(picture)
    by_batch, by_width, by_count = picture.subplots(1, 3)
    panels = (
        (by_batch, "images_per_s_by_batch_size", "batch size (images of a call)", "ms an image (less is better)", True),
        (by_width, "images_per_s_by_ngf", "width of the network (ngf)", "ms an image (less is better)", True),
        (by_count, "seconds_by_image_count", "images", "s from start to last file (less is better)", False),
    )
    colors = {
        candidate: place
        for place, candidate in enumerate(dict.fromkeys(candidate for p in panels for candidate in line[p[1]]))
    }
    for axes, name, across, up, is_rate in panels:
        for candidate, values in line[name].items():
            numbers = sorted(map(int, values))
            found = [summarize([1e3 / v if is_rate else v for v in values[str(n)]]) for n in numbers]
            place = colors[candidate]
            axes.errorbar(
                numbers,
                [figure.median for figure in found],
                yerr=_error_bars(found),
                color=_LINES[place % len(_LINES)],
                marker=_MARKS[place % len(_MARKS)],
                markersize=5,
                capsize=2.5,
                linewidth=1.5,
                label=candidate,
            )
        ticks = sorted({int(n) for values in line[name].values() for n in values})
        _log_axes(axes)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        _bare(axes)
        axes.grid(axis="y", color="#e6e8ea")
    titles = {
        by_batch: f"ngf {line['ngf']}",
        by_width: "batch 1",
        by_count: f"ngf {line['ngf_of_counts']}, files to files",
    }
    for axes, words in titles.items():
        axes.set_title(words, fontsize=10)
    handles: dict[str, Any] = {}
    for axes in (by_batch, by_width, by_count):
        for handle, words in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(words, handle)
    picture.legend(list(handles.values()), list(handles), frameon=False, loc="outside lower center", ncols=5)
    _title(picture, line, "How cost grows")
    return _png(picture)


def forms(line: Line) -> bytes:
    """How many times as long the transposed convolution takes, by layer; images/s of whole networks over sub-pixel."""
    picture = Picture(figsize=(13, 4.8), layout="constrained")
    FigureCanvasAgg(picture)
    layers, networks = picture.subplots(1, 2)
    candidates = list(line["layers"][0]["ms"])
    for place, candidate in enumerate(candidates):
        sides, ratios = [], []
        for layer in line["layers"]:
            given = layer["ms"][candidate]
            if len(given) == 2:
                sides.append(layer["side"] * 1.05 ** (place - 1))
                ratios.append(summarize_ratio(given["deconvolution"], given["sub-pixel"]))
        layers.errorbar(
            sides,
            [figure.median for figure in ratios],
            yerr=_error_bars(ratios),
            color=_LINES[place],
            marker=_MARKS[place],
            capsize=2.5,
            linewidth=1.5,
            label=candidate,
        )
    layers.axhline(1, color=_INK, linewidth=0.8)
    _log_axes(layers)
    ticks = [layer["side"] for layer in line["layers"]]
    layers.set_xticks(ticks, [str(tick) for tick in ticks])
    layers.set_xlabel("side of what comes into the layer, pixels")
    layers.set_ylabel("time of deconvolution / of sub-pixel form\n(above 1: sub-pixel is faster)")
    layers.set_title("each upsampling layer alone", fontsize=10)
    layers.legend(frameon=False)
    layers.grid(axis="y", color="#e6e8ea")
    variants = list(dict.fromkeys(name for candidate in line["networks"].values() for name in candidate))
    for place, (candidate, given) in enumerate(line["networks"].items()):
        if variants[0] not in given:
            continue
        ratios = [summarize_ratio(given[name], given[variants[0]]) for name in variants if name in given]
        spots = [variants.index(name) + 0.26 * (place - 1) for name in variants if name in given]
        networks.barh(
            spots,
            [figure.median for figure in ratios],
            height=0.24,
            color=_LINES[place],
            xerr=_error_bars(ratios),
            error_kw={"ecolor": _INK, "capsize": 2, "elinewidth": 1},
            label=candidate,
        )
    networks.axvline(1, color=_INK, linewidth=0.8)
    networks.set_yticks(range(len(variants)), variants)
    networks.invert_yaxis()
    networks.set_xlabel(f"images/s over those of '{variants[0]}' (more is better)" if variants else "")
    networks.set_title("whole networks", fontsize=10)
    for axes in (layers, networks):
        _bare(axes)
    _title(picture, line, f"Transposed convolutions against their sub-pixel form, ngf {line['ngf']}")
    return _png(picture)


def encoders(line: Line) -> bytes:
    """CPU time of each lossless way, the quickest first, with the size of its files."""
    candidates = {name: candidate for name, candidate in line["ways"].items() if candidate["is_lossless"]}
    rows = {name: summarize(candidate["cpu_ms"]) for name, candidate in candidates.items()}
    rows = dict(sorted(rows.items(), key=lambda item: item[1].median))
    picture, axes = _bars(line, "Lossless encoders, one image of 256x256", len(rows), inch=0.3)
    others = ("imagecodecs", "OpenCV", "fpng", "simplejpeg")
    colors = [_THEIRS if name.startswith(others) else _OURS for name in rows]
    texts = [f"{number(figure.median)} ms, {candidates[name]['bytes'] / 1e3:.0f} kB" for name, figure in rows.items()]
    _draw_bars(axes, rows, colors, texts, with_figure=False)
    axes.set_xscale("log")
    axes.set_xlim(0.5 * min(f.lowest for f in rows.values()), 6 * max(f.highest for f in rows.values()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("CPU ms an image, one thread (less is better); grey: libraries that m2l does not need")
    return _png(picture)


def profile(line: Line) -> bytes:
    """Milliseconds of a call by kind of operator."""
    candidates = line["ways"]
    picture, axes = _bars(line, f"Where the time of one image goes, ngf {line['ngf']}", len(candidates) + 1)
    begins = [0.0] * len(candidates)
    for group, color in zip((*_GROUPS, _OTHER), _GROUP_COLORS, strict=True):
        sums = [
            sum(summarize(ms).median for kind, ms in candidate["ms_by_kind"].items() if group_of(kind) == group)
            for candidate in candidates.values()
        ]
        axes.barh(range(len(candidates)), sums, left=begins, height=0.6, color=color, label=group)
        begins = [begin + size for begin, size in zip(begins, sums, strict=True)]
    for place, total in enumerate(begins):
        axes.annotate(
            f"{number(total)} ms", (total, place), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(candidates)), list(candidates))
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(begins, default=1))
    axes.set_xlabel("ms, by the engine's own profiler (less is better)")
    picture.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=9)
    return _png(picture)


def _color(name: str) -> str:
    return _OURS if name.startswith("m2l") else _THEIRS


def _bars(line: Line, title: str, count: int, inch: float = 0.36) -> tuple[Picture, Any]:
    picture = Picture(figsize=(_WIDTH_INCH, 1.9 + inch * count), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    _bare(axes)
    _title(picture, line, title)
    return picture, axes


def _draw_bars(
    axes: Any,
    rows: Mapping[str, Statistic],
    colors: Sequence[str],
    texts: Sequence[str],
    *,
    height: float = 0.7,
    with_figure: bool = True,
) -> None:
    """A bar a row with its whiskers; behind it its median and a text."""
    places = range(len(rows))
    figures = list(rows.values())
    axes.barh(
        places,
        [figure.median for figure in figures],
        height=height,
        color=colors,
        xerr=_error_bars(figures),
        error_kw={"ecolor": _INK, "capsize": 2.5, "elinewidth": 1.1},
    )
    for place, figure, text in zip(places, figures, texts, strict=True):
        words = f"{number(figure.median)}, {text}" if with_figure else text
        axes.annotate(
            words, (figure.highest, place), (5, 0), textcoords="offset points", va="center", fontsize=9, color=_INK
        )
    axes.set_yticks(list(places), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * max((figure.highest for figure in figures), default=1))


def _label_rates(axes: Any, rows: Mapping[str, Statistic], *, keep_limits: bool = False) -> None:
    """images/s below, times the first row above."""
    axes.set_xlabel("images/s (more is better)")
    if not keep_limits:
        axes.set_xlim(0, 1.2 * max(figure.highest for figure in rows.values()))
    name, first = next(iter(rows.items()))
    above = axes.secondary_xaxis("top", functions=(lambda x: x / first.median, lambda x: x * first.median))
    above.set_xlabel(f"times the median of '{name}'")


def _title(picture: Picture, line: Line, title: str) -> None:
    given = line["conditions"]
    words = (
        "a rehearsal, not a measurement"
        if line.get("is_rehearsal")
        else f"medians of {plural(line['repeats'], 'round')}"
    )
    picture.suptitle(
        f"{title}\n{given['cpu']}, {plural(given['cpus'], 'usable CPU')}; {words}; whiskers from the lowest to the "
        "highest",
        fontsize=10.5,
        parse_math=False,
    )


def _log_axes(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


def _error_bars(found: Sequence[Statistic]) -> list[list[float]]:
    """How far below and above the medians they reach."""
    return [[figure.median - figure.lowest for figure in found], [figure.highest - figure.median for figure in found]]


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
