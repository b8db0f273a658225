"""Plot the sides of a line of benchmarks/cpu.py: medians, with whiskers from the lowest to the highest round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tables import Side, compare

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.plot import draw_bars, new_picture, remove_frame, to_png
from m2l_runtime.bench.table import number

if TYPE_CHECKING:
    from page import Part

_OURS: Final = "#b3312c"
_OTHERS: Final = "#8a929c"
_PALE: Final = "#e3b0ae"


def plot_sides(line: Mapping[str, Any], part: Part, sides: Mapping[str, Side]) -> bytes:
    """Draw a bar of each side's median as PNG, behind it the median and how many times the first side's it is.

    Bars of m2l are red, and pale up to its engine alone where that was measured.
    """
    rows = {name: one for name, side in sides.items() if (one := side.statistic(part.values)) is not None}
    picture = new_picture(10.5, 1.9 + 0.36 * len(rows))
    axes = picture.subplots()
    remove_frame(axes)
    first = next(iter(sides.values())).values(part.values)
    texts, reach = [], max(one.highest for one in rows.values())
    for place, (name, statistic) in enumerate(rows.items()):
        times = compare(sides[name].values(part.values), first, is_inverse=part.is_inverse)
        texts.append(f"{number(statistic.median)}, {times.median:.2f}x" if times else number(statistic.median))
        alone = sides[name].statistic("engine_images_per_s")
        if alone is not None:
            axes.barh(place, alone.median, height=0.8, color=_PALE)
            reach = max(reach, alone.median)
    colors = [_OURS if name.startswith("m2l") else _OTHERS for name in rows]
    draw_bars(axes, range(len(rows)), list(rows.values()), height=0.5, color=colors, texts=texts)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.3 * reach), xlabel=part.axis)
    given, rounds = line["conditions"], plural(line["repeats"], "round")
    words = "a rehearsal, not a measurement" if line.get("is_rehearsal") else f"medians of {rounds}"
    picture.suptitle(
        f"{part.title.format(ngf=line['ngf'])}\n{given['cpu']}, {plural(given['cpus'], 'usable CPU')}; {words}; "
        "whiskers from the lowest to the highest",
        fontsize=10.5,
        parse_math=False,
    )
    return to_png(picture)
