"""Plot the distributions of the metrics of one or two sets of masks."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from m2l_runtime.masks.sources.statistics import SetStatistics, compare

_LABELS: Final = {
    "area": "area (share of the frame)",
    "parts": "parts",
    "holes": "holes",
    "roundness": "roundness, 4πA/P²",
}
_MAX_COUNTED: Final = 8


def plot(one: SetStatistics, name: str, other: SetStatistics | None = None, other_name: str = "") -> bytes:
    """Plot area, parts, holes and roundness, a panel each, as a PNG.

    Args:
        one: the set described.
        name: its name, for the legend.
        other: the set to compare with.
        other_name: the name of that.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (figure_name, label) in zip(figure.subplots(2, 2).ravel(), _LABELS.items(), strict=True):
        values = one.metrics[figure_name].values
        others = None if other is None else other.metrics[figure_name].values
        is_count = figure_name in ("parts", "holes")
        if is_count:
            bins = np.arange(-0.5, _MAX_COUNTED + 1)
        else:
            both = values if others is None else np.concatenate([values, others])
            low, high = (0.0, 1.0) if not len(both) else (min(0.0, float(both.min())), max(1.0, float(both.max())))
            bins = np.linspace(low, high, 41)
        for found, which, style in ((others, other_name, "stepfilled"), (values, name, "step")):
            if found is None or not len(found):
                continue
            shown = np.minimum(found, _MAX_COUNTED) if is_count else found
            share = np.full(len(shown), 1 / len(shown))
            color = "#c9ccd1" if style == "stepfilled" else "#b3312c"
            axes.hist(shown, bins, weights=share, histtype=style, color=color, linewidth=1.6, label=which)
        axes.set_xlabel(f"{label}; {_MAX_COUNTED} stands for more" if is_count else label)
        axes.set_ylabel("share of the masks")
        if other is not None and (found_difference := compare(one.metrics[figure_name], other.metrics[figure_name])):
            axes.set_title(
                f"KS {found_difference.ks_statistic:.2f}, Wasserstein {found_difference.wasserstein:.3g}", fontsize=10
            )
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.axes[0].legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
