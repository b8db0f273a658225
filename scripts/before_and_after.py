"""Draw what two bundles synthesize from the same masks.

    .venv/bin/python scripts/before_and_after.py sheet.jpg --before BUNDLE --now BUNDLE --masks MASKS

Appearances and dropout bits are sampled as `m2l synth` does. Without masks: geometric shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from m2l_runtime import Synthesizer, read_mask
from m2l_runtime.bundle import embedded
from m2l_runtime.conditioning.conditions import item_seed
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources.shapes import KINDS, Shapes
from m2l_runtime.output.contact_sheet import Cell, Row, draw_rows
from m2l_runtime.types import Masks

COLUMNS = 8


def main(
    out: Path,
    before: Annotated[Path, typer.Option(help="First bundle.")],
    now: Annotated[Path, typer.Option(help="Second bundle.")] = embedded.BUNDLE,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks.  [default: shapes]")] = None,
    count: Annotated[int, typer.Option(help="Number of masks, evenly over the folder.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of shapes and samples.")] = 0,
) -> None:
    """Draw the sheet."""
    rows = []
    with Synthesizer.open(before, streams=None) as first, Synthesizer.open(now, streams=None) as second:
        given = _masks(masks, count, second.image_size, seed)
        seeds = [item_seed(seed, str(number)) for number in range(len(given))]
        images = [(title, synth(given, seeds)) for title, synth in (("before", first), ("now", second))]
    for begin in range(0, len(given), COLUMNS):
        places = range(begin, min(begin + COLUMNS, len(given)))
        rows += [Row(title, [Cell([given[p], made[p]]) for p in places]) for title, made in images]
    footnote = "Synthetic images: they show no patient and are not for diagnosis."
    draw_rows(rows, footnote).save(out, quality=88)


def _masks(folder: Path | None, count: int, size: tuple[int, int], seed: int) -> Masks:
    if folder is None:
        source = Shapes(kinds=KINDS, size=min(size), seed=seed)
        return np.stack([source.draw(number) for number in range(count)])
    files = find_masks(folder).paths
    return np.stack([read_mask(files[place * len(files) // count], size).mask for place in range(count)])


if __name__ == "__main__":
    typer.run(main)
