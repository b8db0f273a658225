"""Plot the curves of what a run of `m2l train` has logged.

    .venv/bin/python scripts/plot_run.py RUN curves.png [--evaluations FOLDER]

Losses are means over windows of steps. FOLDER holds results of `m2l evaluate bundle --out`, named EPOCH.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import typer

mpl.use("Agg")
from matplotlib import pyplot as plt

WINDOWS = 150
METRICS = {
    "dice": "Dice",
    "checkerboard": "checkerboard artefacts",
    "swd": "sliced Wasserstein",
    "variety_ratio": "variety, of real",
}


def main(
    run: Path,
    out: Path,
    evaluations: Annotated[Path | None, typer.Option(help="Folder of evaluations by epoch.")] = None,
) -> None:
    """Draw the curves."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps, epochs = [r for r in rows if "G_L1" in r], [r for r in rows if "val_l1_levels" in r]
    results = {}
    if evaluations is not None:
        files = sorted(evaluations.glob("*.json"), key=lambda path: int(path.stem))
        results = {int(path.stem): json.loads(path.read_text())["figures"] for path in files}
    panels = 3 + (len(METRICS) if results else 0)
    grid, axes = plt.subplots(-(-panels // 3), 3, figsize=(12, 3.2 * -(-panels // 3)), layout="constrained")
    places = iter(axes.ravel())
    _losses(next(places), steps, ("D_real", "D_fake", "G_GAN"), "GAN losses")
    _losses(next(places), steps, ("G_L1",), "L1 loss, weighted")
    axis = next(places)
    axis.plot([r["epoch"] for r in epochs], [r["val_l1_levels"] for r in epochs], "k.-", lw=1)
    axis.set(title="mean difference on validation, levels", xlabel="epoch", ylim=(0, None))
    if results:
        for name, title in METRICS.items():
            axis = next(places)
            axis.plot(list(results), [found[name]["value"] for found in results.values()], "k.-", lw=1)
            real = [found[name]["real"]["value"] for found in results.values() if found[name].get("real")]
            if real:
                axis.axhline(float(np.median(real)), color="tab:green", lw=1, label="real images")
                axis.legend(frameon=False)
            axis.set(title=title, xlabel="epoch", ylim=(0, None))
    for axis in places:
        axis.set_axis_off()
    grid.savefig(out, dpi=80)


def _losses(axis: Any, steps: list[dict[str, Any]], names: tuple[str, ...], title: str) -> None:
    size = max(1, len(steps) // WINDOWS)
    usable = len(steps) // size * size
    at = np.array([r["step"] for r in steps[:usable]]).reshape(-1, size).mean(1)
    for name in names:
        axis.plot(at, np.array([r[name] for r in steps[:usable]]).reshape(-1, size).mean(1), lw=1, label=name)
    axis.set(title=title, xlabel="step", ylim=(0, None))
    axis.legend(frameon=False)


if __name__ == "__main__":
    typer.run(main)
