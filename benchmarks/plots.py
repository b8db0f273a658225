"""Plot lines of JSON of benchmarks/cpu.py: medians, with whiskers from the lowest to the highest round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.plot import LINE_COLORS, draw_bars, draw_line, new_picture, remove_frame, to_png, use_log_axes
from m2l_runtime.bench.report import Statistic, summarize, summarize_ratio
from m2l_runtime.bench.table import number

Line = Mapping[str, Any]
CONVOLUTIONS: Final = "convolutions"
_OURS, _THEIRS, _PALE, _OTHERS = "#b3312c", "#8a929c", "#e3b0ae", "#c9ccd1"
_GROUPS: Final = {
    CONVOLUTIONS: ("Conv", "QLinearConv", "FusedConv", "Deconvolution"),
    "depth-to-space": ("DepthToSpace",),
    "instance norms": ("MVN", "InstanceNormalization"),
    "concatenations": ("Concat", "QLinearConcat"),
    "slices": ("Slice", "StridedSlice"),
    "layouts and types": ("Reorder", "Transpose", "Cast", "Convert", "QuantizeLinear", "DequantizeLinear", "Fake"),
}
_OTHER: Final = "activations and the rest"


def group_of(kind: str) -> str:
    """Return the group of a kind of operator, in either engine's words."""
    return next((group for group, names in _GROUPS.items() if kind.startswith(names)), _OTHER)


def engines(line: Line) -> bytes:
    """Plot images/s of each side, and how many times the first that is."""
    rows = {name: summarize(side["images_per_s"]) for name, side in line["sides"].items()}
    picture, axes = _bars(line, f"The engine alone, ngf {line['ngf']}, 256x256", len(rows))
    _draw_rows(axes, rows, _times(line, rows), "images/s (more is better)")
    return to_png(picture)


def end_to_end(line: Line) -> bytes:
    """Plot images/s from files to files, and of the engine alone."""
    sides = line["sides"]
    rows = {name: summarize(side["images_per_s"]) for name, side in sides.items()}
    picture, axes = _bars(line, f"Mask files to image files, ngf {line['ngf']}", len(rows))
    alone = {place: side.get("engine_images_per_s", [0.0]) for place, side in enumerate(sides.values())}
    medians = [summarize(values).median for values in alone.values()]
    axes.barh(list(alone), medians, height=0.75, color=_PALE, label="its engine alone")
    _draw_rows(axes, rows, _times(line, rows), "images/s (more is better)", height=0.45)
    axes.set_xlim(0, 1.15 * max(*medians, *(one.highest for one in rows.values())))
    picture.legend(frameon=False, loc="outside lower right")
    return to_png(picture)


def first_image(line: Line) -> bytes:
    """Plot seconds to the first image."""
    rows = {name: summarize(side["seconds"]) for name, side in line["sides"].items()}
    picture, axes = _bars(line, f"From a cold process to the first image, ngf {line['ngf']}", len(rows))
    _draw_rows(axes, rows, [f"{text} as soon" for text in _times(line, rows)], "seconds (less is better)")
    return to_png(picture)


def growth(line: Line) -> bytes:
    """Plot milliseconds an image by batch size and by width, seconds by number of images."""
    picture = new_picture(13, 4.6)
    rate = "ms an image (less is better)"
    panels = (
        ("images_per_s_by_batch_size", "batch size (images of a call)", rate, f"ngf {line['ngf']}"),
        ("images_per_s_by_ngf", "width of the network (ngf)", rate, "batch 1"),
        (
            *("seconds_by_image_count", "images", "s from start to last file (less is better)"),
            f"ngf {line['ngf_of_counts']}, files to files",
        ),
    )
    indices = {name: index for index, name in enumerate(dict.fromkeys(name for p in panels for name in line[p[0]]))}
    handles: dict[str, Any] = {}
    for axes, (field, across, up, title) in zip(picture.subplots(1, 3), panels, strict=True):
        for name, values in line[field].items():
            numbers = sorted(map(int, values))
            found = [summarize([1e3 / v if up == rate else v for v in values[str(n)]]) for n in numbers]
            draw_line(axes, numbers, found, indices[name], name)
        use_log_axes(axes, sorted({int(n) for values in line[field].values() for n in values}))
        axes.set(xlabel=across, ylabel=up)
        axes.set_title(title, fontsize=10)
        remove_frame(axes)
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    picture.legend(list(handles.values()), list(handles), frameon=False, loc="outside lower center", ncols=5)
    _title(picture, line, "How cost grows")
    return to_png(picture)


def forms(line: Line) -> bytes:
    """Plot the time of transposed convolutions over that of their sub-pixel form, and images/s of whole networks."""
    picture = new_picture(13, 4.8)
    layers, networks = picture.subplots(1, 2)
    for index, name in enumerate(line["layers"][0]["ms"]):
        given = {layer["side"]: layer["ms"][name] for layer in line["layers"] if len(layer["ms"][name]) == 2}
        ratios = [summarize_ratio(both["deconvolution"], both["sub-pixel"]) for both in given.values()]
        draw_line(layers, [side * 1.05 ** (index - 1) for side in given], ratios, index, name)
    use_log_axes(layers, [layer["side"] for layer in line["layers"]])
    layers.axhline(1, color="black", linewidth=0.8)
    layers.set(xlabel="side of what comes into the layer, pixels", ylabel="time of deconvolution / of sub-pixel form")
    layers.set_title("each upsampling layer alone (above 1: sub-pixel is faster)", fontsize=10)
    layers.legend(frameon=False)
    variants = list(dict.fromkeys(name for given in line["networks"].values() for name in given))
    for index, given in enumerate(line["networks"].values()):
        there = [name for name in variants if name in given and variants[0] in given]
        places = [variants.index(name) + 0.26 * (index - 1) for name in there]
        ratios = [summarize_ratio(given[name], given[variants[0]]) for name in there]
        draw_bars(networks, places, ratios, height=0.24, color=LINE_COLORS[index])
    networks.axvline(1, color="black", linewidth=0.8)
    networks.set_yticks(range(len(variants)), variants)
    networks.invert_yaxis()
    networks.set_xlabel(f"images/s over those of '{variants[0]}' (more is better)" if variants else "")
    networks.set_title("whole networks", fontsize=10)
    for axes in (layers, networks):
        remove_frame(axes)
    _title(picture, line, f"Transposed convolutions against their sub-pixel form, ngf {line['ngf']}")
    return to_png(picture)


def encoders(line: Line) -> bytes:
    """Plot CPU time of each lossless encoder, the quickest first, with the size of its files."""
    lossless = {name: one for name, one in line["ways"].items() if one["is_lossless"]}
    rows = {name: summarize(one["cpu_ms"]) for name, one in lossless.items()}
    rows = dict(sorted(rows.items(), key=lambda item: item[1].median))
    picture, axes = _bars(line, "Lossless encoders, one image of 256x256", len(rows), inch=0.3)
    sizes = [f"{lossless[name]['bytes'] / 1e3:.0f} kB" for name in rows]
    what = "CPU ms an image, one thread (less is better); grey: libraries that m2l does not need"
    _draw_rows(axes, rows, sizes, what, theirs=("imagecodecs", "OpenCV", "fpng", "simplejpeg"))
    axes.set_xscale("log")
    axes.set_xlim(0.5 * min(one.lowest for one in rows.values()), 6 * max(one.highest for one in rows.values()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return to_png(picture)


def profile(line: Line) -> bytes:
    """Plot milliseconds of a call by kind of operator."""
    engines = line["ways"]
    picture, axes = _bars(line, f"Where the time of one image goes, ngf {line['ngf']}", len(engines) + 1)
    begins = [0.0] * len(engines)
    for group, color in zip((*_GROUPS, _OTHER), (*LINE_COLORS, _OTHERS), strict=True):
        sums = [
            sum(summarize(ms).median for kind, ms in one["ms_by_kind"].items() if group_of(kind) == group)
            for one in engines.values()
        ]
        axes.barh(range(len(engines)), sums, left=begins, height=0.6, color=color, label=group)
        begins = [begin + size for begin, size in zip(begins, sums, strict=True)]
    totals = [Statistic(total, total, total) for total in begins]
    draw_bars(axes, range(len(engines)), totals, height=0, color=_OURS, texts=[f"{number(t)} ms" for t in begins])
    axes.set_yticks(range(len(engines)), list(engines))
    axes.set(ylim=(len(engines) - 0.5, -0.5), xlim=(0, 1.12 * max(begins, default=1)))
    axes.set_xlabel("ms, by the engine's own profiler (less is better)")
    picture.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=9)
    return to_png(picture)


def _bars(line: Line, title: str, count: int, inch: float = 0.36) -> tuple[Picture, Any]:
    picture = new_picture(10.5, 1.9 + inch * count)
    axes = picture.subplots()
    remove_frame(axes)
    _title(picture, line, title)
    return picture, axes


def _draw_rows(
    axes: Any,
    rows: Mapping[str, Statistic],
    texts: Sequence[str],
    across: str,
    *,
    height: float = 0.7,
    theirs: tuple[str, ...] = ("PyTorch", "today's", "onnxruntime", "OpenVINO"),
) -> None:
    """Draw a bar of each row, and behind it its median and a text; grey where the name begins with one of `theirs`."""
    statistics = list(rows.values())
    colors = [_THEIRS if name.startswith(theirs) else _OURS for name in rows]
    words = [f"{number(one.median)}, {text}" for one, text in zip(statistics, texts, strict=True)]
    draw_bars(axes, range(len(rows)), statistics, height=height, color=colors, texts=words)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.3 * max(one.highest for one in statistics)), xlabel=across)


def _times(line: Line, rows: Mapping[str, Statistic]) -> list[str]:
    return [f"{line['over_the_first'][name][0]:.2f}x" for name in rows]


def _title(picture: Picture, line: Line, title: str) -> None:
    given, rounds = line["conditions"], plural(line["repeats"], "round")
    words = "a rehearsal, not a measurement" if line.get("is_rehearsal") else f"medians of {rounds}"
    picture.suptitle(
        f"{title}\n{given['cpu']}, {plural(given['cpus'], 'usable CPU')}; {words}; whiskers from the lowest to the "
        "highest",
        fontsize=10.5,
        parse_math=False,
    )
