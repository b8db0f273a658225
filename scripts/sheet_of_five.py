"""Draw the kinds of masks of the published sheet, each with its image.

    .venv/bin/python scripts/sheet_of_five.py sheet.png --masks MASKS --bundle BUNDLE

Rows: given masks, geometric shapes, elastic deformations of the given masks, and shapes along their first and third
principal components, from +3 standard deviations over the mean to -3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from m2l_runtime import Synthesizer
from m2l_runtime._utils.text import stem
from m2l_runtime.bundle import embedded
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources.deform import DeformOptions, open_deformations
from m2l_runtime.masks.sources.lesions import read_lesions
from m2l_runtime.masks.sources.mask_source import MaskSource
from m2l_runtime.masks.sources.pca import MAX_MASKS, READ_SIDE, AlongComponent, fit_shape_model
from m2l_runtime.masks.sources.shapes import Shapes
from m2l_runtime.output.contact_sheet import Cell, Row, draw_rows
from m2l_runtime.types import Masks

COLUMNS = 7
KINDS = ("circle", "ellipse", "triangle", "square", "hexagon", "octagon", "star")


def main(
    out: Path,
    masks: Annotated[Path, typer.Option(help="Folder of given masks.")] = embedded.EXAMPLE_MASKS,
    learn_from: Annotated[
        Path | None, typer.Option(help="Masks whose components are drawn.  [default: the given ones]")
    ] = None,
    bundle: Annotated[Path, typer.Option(help="Bundle of the generator.")] = embedded.BUNDLE,
    seed: Annotated[int, typer.Option(help="Seed of shapes and deformations.")] = 1,
) -> None:
    """Draw the sheet."""
    mask_folder = find_masks(masks)
    model = fit_shape_model(read_lesions(find_masks(learn_from or masks), READ_SIDE, max_count=MAX_MASKS))
    chosen = np.linspace(0, len(mask_folder.names) - 1, COLUMNS).astype(int)
    with Synthesizer.open(bundle, streams=None) as synth:
        height, width = synth.image_size
        deformed = open_deformations(masks, DeformOptions(size=height, seed=seed, range=0.9, modes=12))

        def drawn(source: MaskSource, numbers: list[int]) -> Masks:
            return np.stack([source.draw(number) for number in numbers])

        in_order = list(range(COLUMNS))
        given = [int(place) for place in chosen]
        parts: list[tuple[str, Masks, list[str]]] = [
            (
                "given masks",
                np.stack([mask_folder.read(mask_folder.names[place], (height, width)).mask for place in given]),
                [stem(mask_folder.names[place])[-22:] for place in given],
            ),
            ("geometric shapes", drawn(Shapes(KINDS, height, 0.22, 0.38, seed), in_order), list(KINDS)),
            ("elastic deformations of the given masks", drawn(deformed, given), [""] * COLUMNS),
        ]
        for component in (1, 3):
            along = AlongComponent(model, component, COLUMNS, size=height, radius=0.24)
            title = f"principal component {component} ({model.explained[component - 1] * 100:.0f} % of the variance)"
            parts.append((title, drawn(along, in_order), [_name(along.sigma(number)) for number in in_order]))
        rows = [
            Row(title, [Cell([m, i], label) for m, label, i in zip(these, labels, synth(these), strict=True)])
            for title, these, labels in parts
        ]
        footnote = f"{synth.bundle.manifest.name}. Synthetic images: they show no patient and are not for diagnosis."
    draw_rows(rows, footnote).save(out)


def _name(sigma: float) -> str:
    return f"{sigma:+g} SD" if sigma else "mean"


if __name__ == "__main__":
    typer.run(main)
