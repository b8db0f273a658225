"""Draw and measure how well a bundle's generator follows the appearance that it is given.

.venv/bin/python scripts/steering.py sheet sheet.png --masks MASKS
.venv/bin/python scripts/steering.py figures --masks MASKS          # a line of JSON
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from m2l_runtime import Synthesizer
from m2l_runtime.bundle import embedded
from m2l_runtime.conditioning.appearance import measure
from m2l_runtime.conditioning.conditions import AppearanceSampler, item_seed
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources.shapes import Shapes
from m2l_runtime.output.contact_sheet import Cell, Row, draw_rows
from m2l_runtime.types import NAMES, Appearance, Masks
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER

COLUMNS = 8
LIGHTNESSES = np.linspace(20, 62, COLUMNS)
REDNESSES = np.linspace(4, 34, COLUMNS)

app = typer.Typer(add_completion=False)
MaskFolder = Annotated[Path, typer.Option(help="Folder of masks.")]
Generator = Annotated[Path, typer.Option(help="Bundle of the generator.")]


@app.command()
def sheet(
    out: Path,
    masks: MaskFolder = embedded.EXAMPLE_MASKS,
    bundle: Generator = embedded.BUNDLE,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 1,
) -> None:
    """Draw one mask with eight appearances, one appearance with eight masks, lightness and redness as asked for."""
    with Synthesizer.open(bundle, streams=None) as synth:
        table = synth.bundle.read_appearances()
        many = _masks(masks, synth.image_size, COLUMNS)
        same = np.repeat(many[len(many) // 2][None], COLUMNS, 0)
        seeds = [item_seed(seed, str(number)) for number in range(COLUMNS)]
        drawn = np.stack([AppearanceSampler(table).sample(s) for s in seeds])
        one = np.median(table, 0).astype(np.float32)
        lighter, redder = np.repeat(one[None], COLUMNS, 0), np.repeat(one[None], COLUMNS, 0)
        lighter[:, NAMES.index("lesion_L")] = LIGHTNESSES
        redder[:, NAMES.index("skin_a")] = REDNESSES
        rows = [
            _row("one mask, eight appearances of training images", synth, same, drawn, seeds, [""] * COLUMNS),
            _row("eight masks, one appearance", synth, many, np.repeat(one[None], len(many), 0), seeds, [""] * COLUMNS),
            _row("lesion_L asked for", synth, same, lighter, seeds[:1] * COLUMNS, [f"{v:.0f}" for v in LIGHTNESSES]),
            _row("skin_a asked for", synth, same, redder, seeds[:1] * COLUMNS, [f"{v:.0f}" for v in REDNESSES]),
        ]
        footnote = f"{synth.bundle.manifest.name}. Synthetic images: they show no patient and are not for diagnosis."
    draw_rows(rows, footnote).save(out)


def _row(title: str, synth: Synthesizer, masks: Masks, asked: Appearance, seeds: list[int], labels: list[str]) -> Row:
    images = synth(masks, seeds=seeds[: len(masks)], appearances=asked)
    return Row(title, [Cell([m, i], t) for m, t, i in zip(masks, labels, images, strict=False)])


@app.command()
def figures(
    masks: MaskFolder = embedded.EXAMPLE_MASKS,
    bundle: Generator = embedded.BUNDLE,
    count: Annotated[int, typer.Option(help="Number of masks, at most.")] = 149,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
) -> None:
    """Compare what is asked for with what is measured in the image, an appearance sampled for each mask."""
    with Synthesizer.open(bundle, streams=None) as synth:
        table = synth.bundle.read_appearances()
        chosen = _masks(masks, synth.image_size, count)
        seeds = [item_seed(seed, str(number)) for number in range(len(chosen))]
        asked = np.stack([AppearanceSampler(table).sample(s) for s in seeds])
        images = synth(chosen, seeds=seeds, appearances=asked)
    measured = np.stack([measure(image, mask) for image, mask in zip(images, chosen, strict=True)])
    distance = {
        region: round(float(np.linalg.norm(measured[:, at : at + 3] - asked[:, at : at + 3], axis=1).mean()), 2)
        for region, at in (("lesion", 0), ("skin", 6))
    }
    by_chance = {
        region: round(
            float(np.linalg.norm(np.roll(asked, 1, 0)[:, at : at + 3] - asked[:, at : at + 3], axis=1).mean()), 2
        )
        for region, at in (("lesion", 0), ("skin", 6))
    }
    print(
        json.dumps(
            {
                "bundle": synth.bundle.sha256,
                "masks": len(chosen),
                "delta_e": distance,
                "delta_e_between_two_drawn": by_chance,
                "mean_absolute_difference": dict(
                    zip(NAMES, np.abs(measured - asked).mean(0).round(2).tolist(), strict=True)
                ),
                "correlation": {
                    name: round(float(np.corrcoef(measured[:, i], asked[:, i])[0, 1]), 3)
                    for i, name in enumerate(NAMES)
                },
            }
        )
    )


@app.command()
def shapes(
    bundle: Generator = embedded.BUNDLE,
    segmenter: Annotated[Path, typer.Option(help="File of m2l evaluate segmenter.")] = SHIPPED_SEGMENTER,
    count: Annotated[int, typer.Option(help="Shapes of all kinds together.")] = 198,
    seed: Annotated[int, typer.Option(help="Seed of shapes and appearances.")] = 0,
) -> None:
    """Measure how well the segmenter finds geometric shapes again: Dice of each kind, and of all."""
    from m2l_train.evaluate.metrics.mask_fidelity import compare
    from m2l_train.evaluate.segmenter import load_segmenter

    source = Shapes(seed=seed)
    masks = np.stack([source.draw(number) for number in range(count)])
    with Synthesizer.open(bundle, streams=None) as synth:
        images = synth(masks, seeds=[item_seed(seed, str(number)) for number in range(count)])
    probabilities, _ = load_segmenter(segmenter)(images)
    dice = compare(masks, probabilities).dice
    kinds = np.array([source.label(number) for number in range(count)])
    by_kind = {kind: round(float(dice[kinds == kind].mean()), 3) for kind in source.kinds}
    print(json.dumps({"bundle": synth.bundle.sha256, "count": count, "dice": round(float(dice.mean()), 4), **by_kind}))


def _masks(folder: Path, size: tuple[int, int], max_count: int) -> Masks:
    """Read at most so many masks, evenly spaced."""
    mask_folder = find_masks(folder)
    places = np.unique(np.linspace(0, len(mask_folder.names) - 1, min(max_count, len(mask_folder.names))).astype(int))
    return np.stack([mask_folder.read(mask_folder.names[place], size).mask for place in places])


if __name__ == "__main__":
    app()
