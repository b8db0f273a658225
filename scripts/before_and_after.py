"""Make what docs/model.md shows of the model inside the package, beside the one before it.

    .venv/bin/python scripts/before_and_after.py docs --before BUNDLE --data isic2017-256
    ... --losses run/losses.jsonl --segmenter segmenter.pt --evaluation before.json --evaluation now.json

Sheets and curves are files of OUT. Tables are printed, and written into OUT/model.md between the comments
``<!-- NAME -->`` and ``<!-- end of NAME -->`` where it has them. ``--parts`` makes some of it alone; ``speed`` is made
only if it is asked for by name, on a machine that does nothing else.
"""

from __future__ import annotations

import functools
import io
import json
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import typer
from PIL import Image as PillowImage

from m2l_runtime import Synthesizer
from m2l_runtime.bench.benchmark import bench
from m2l_runtime.bundle import embedded
from m2l_runtime.conditioning import skin_tone
from m2l_runtime.conditioning.conditions import (
    RANDOM_APPEARANCE,
    AppearanceChoice,
    Appearances,
    item_seed,
    sampled_appearances,
)
from m2l_runtime.conditioning.numbers import MEASURED_NAMES, NUMBERS, measure_numbers
from m2l_runtime.masks.mask_folder import MaskFolder, find_masks
from m2l_runtime.masks.sources.shapes import KINDS, Shapes
from m2l_runtime.output.contact_sheet import Cell, Row, SheetLayout, draw_rows
from m2l_runtime.types import Appearance, Images, Masks

mpl.use("Agg")
from matplotlib import pyplot as plt

FOOTNOTE: Final = "Synthetic images, where nothing else is said: they show no patient and are not for diagnosis."
FULL_SIZE: Final = SheetLayout(tile=256)
SMALL: Final = SheetLayout(tile=148)
COLUMNS: Final = 8
VALIDATION_MASKS: Final = 24
SWEEP_MASKS: Final = 32
SHAPES: Final = 198
SPEED_ROUNDS: Final = 5

SWEEPS: Final = {
    "hair": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5),
    "vignette": (0.0, 5.0, 10.0, 20.0, 30.0, 45.0),
    "sharpness": (0.2, 0.6, 1.0, 1.4, 1.8, 2.2),
    skin_tone.ITA: tuple(skin_tone.CLASSES.values()),
}
"""Numbers that are asked for alone, as by ``--appearance hair=2``, from least to most."""
SWITCHES: Final = {
    "hair": (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.3, 2.6),
    "vignette": (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    "ink": (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8),
    "sharpness": (0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1),
}
"""Numbers that are changed with all others left as they are, and the same seed."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """Hold what all parts are made of."""

    out: Path
    before: Path
    now: Path
    data: Path
    losses: Path | None
    half_images: int
    segmenter: Path | None
    evaluations: Sequence[Path]
    seed: int

    @functools.cached_property
    def masks(self) -> MaskFolder:
        """The masks to validate on."""
        return find_masks(self.data / "val" / "masks")

    def read(self, size: tuple[int, int], count: int) -> tuple[list[str], Masks]:
        """Read names and masks, evenly over the folder: as many as there are at most."""
        names = self.masks.names
        places = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))
        chosen = [names[place] for place in places]
        masks = np.stack([self.masks.read(name, size).mask for name in chosen])
        return [Path(name).stem for name in chosen], masks

    def seeds(self, names: Sequence[str]) -> list[int]:
        """Derive the seeds that `m2l synth` gives these masks."""
        return [item_seed(self.seed, name) for name in names]

    def put(self, name: str, table: str) -> None:
        """Print a table, and write it into the page where it has a place for it."""
        print(f"\n{name}\n{table}")
        page, begin, end = self.out / "model.md", f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        text = page.read_text() if page.exists() else ""
        if begin in text and end in text:
            head, _, rest = text.partition(begin)
            page.write_text(f"{head}{begin}{table}\n{end}{rest.partition(end)[2]}")


def open_bundle(bundle: Path) -> Synthesizer:
    """Open a bundle in fp32, with one thread."""
    return Synthesizer.open(bundle, threads=1)


# Sheets


def draw_validation(inputs: Inputs) -> None:
    """Draw masks to validate on, their photographs, and what both models make of them."""
    with open_bundle(inputs.before) as first, open_bundle(inputs.now) as second:
        names, masks = inputs.read(second.image_size, VALIDATION_MASKS)
        before, now = (synth(masks, seeds=inputs.seeds(names)) for synth in (first, second))
    real = [
        np.asarray(PillowImage.open(inputs.data / "val" / "images" / f"{name}.jpg").convert("RGB")) for name in names
    ]
    columns = [Cell(pictures, name) for name, *pictures in zip(names, masks, real, before, now, strict=True)]
    rows = [Row("mask, photograph, before, now", columns[at : at + COLUMNS]) for at in range(0, len(columns), COLUMNS)]
    draw_rows(rows, FOOTNOTE, FULL_SIZE).save(inputs.out / "model-validation.jpg", quality=85, optimize=True)


def draw_shapes(inputs: Inputs) -> None:
    """Draw geometric shapes, before and now."""
    with open_bundle(inputs.before) as first, open_bundle(inputs.now) as second:
        source = Shapes(kinds=KINDS, size=min(second.image_size), seed=inputs.seed)
        masks = np.stack([source.draw(number) for number in range(VALIDATION_MASKS)])
        seeds = inputs.seeds([str(number) for number in range(len(masks))])
        before, now = (synth(masks, seeds=seeds) for synth in (first, second))
    columns = [Cell(pictures) for pictures in zip(masks, before, now, strict=True)]
    rows = [Row("mask, before, now", columns[at : at + COLUMNS]) for at in range(0, len(columns), COLUMNS)]
    draw_rows(rows, FOOTNOTE, SMALL).save(inputs.out / "model-shapes.jpg", quality=88, optimize=True)


def draw_appearances(inputs: Inputs) -> None:
    """Draw one mask with many appearances, one appearance with many masks, and numbers that change alone."""
    with open_bundle(inputs.now) as synth:
        table, columns = sampled_appearances(synth.bundle), synth.extra.names
        names, many = inputs.read(synth.image_size, COLUMNS)
        seeds = inputs.seeds(names)
        one, seed = many[3], seeds[3]
        sampler = synth.extra.sampler_for(RANDOM_APPEARANCE)
        drawn = np.stack([sampler.sample(seed) for seed in seeds])
        usual = typical(table)

        def alone(appearances: Sequence[Appearance], labels: Sequence[str]) -> list[Cell]:
            images = synth(np.stack([one] * len(labels)), seeds=[seed] * len(labels), appearances=np.stack(appearances))
            return [Cell([one], "mask"), *(Cell([i], text) for i, text in zip(images, labels, strict=True))]

        rows = [
            Row("one mask and seed, appearances of eight training images", alone(list(drawn), [""] * len(drawn))),
            Row(
                "eight masks and seeds, one appearance",
                [
                    Cell([mask, image])
                    for mask, image in zip(many, synth(many, seeds=seeds, appearances=usual), strict=True)
                ],
            ),
        ]
        for name, values in SWITCHES.items():
            if name in columns:
                asked = [changed(usual, columns, {name: value}) for value in values]
                rows.append(Row(f"{name} alone", alone(asked, [f"{value:g}" for value in values])))
        angles = {f"{name}, {angle:g} degrees": angle for name, angle in skin_tone.CLASSES.items()}
        asked = [turned(usual, columns, angle) for angle in angles.values()]
        rows.append(Row("angle of the skin (ita) alone", alone(asked, list(angles))))
    draw_rows(rows, FOOTNOTE, FULL_SIZE).save(inputs.out / "model-appearance.jpg", quality=85, optimize=True)


def typical(table: Appearances) -> Appearance:
    """Return the row that is nearest the median of all numbers, each over its deviation."""
    distances = (((table - np.median(table, 0)) / table.std(0).clip(1e-6)) ** 2).sum(1)
    row: Appearance = table[int(distances.argmin())]
    return row


def changed(appearance: Appearance, names: Sequence[str], values: dict[str, float]) -> Appearance:
    """Return a copy with some numbers changed."""
    copy = appearance.copy()
    for name, value in values.items():
        copy[names.index(name)] = value
    return copy


def turned(appearance: Appearance, names: Sequence[str], angle: float) -> Appearance:
    """Return a copy whose skin is turned onto an angle, in degrees."""
    lightness, yellow = (float(appearance[names.index(name)]) for name in skin_tone.COLUMNS)
    return changed(
        appearance, names, dict(zip(skin_tone.COLUMNS, skin_tone.turn_to(angle, lightness, yellow), strict=True))
    )


# Asked and found


def encode(images: Images) -> Images:
    """Encode images as the photographs are, whose numbers the network was told: JPEG of quality 75, 4:2:0."""
    again = []
    for image in images:
        file = io.BytesIO()
        PillowImage.fromarray(image).save(file, "JPEG", quality=75, subsampling="4:2:0")
        again.append(np.asarray(PillowImage.open(file)))
    return np.stack(again)


def measure_all(images: Images, masks: Masks, names: Sequence[str]) -> Floats:
    """Measure numbers of images: (N, len(names))."""
    measure = functools.partial(measure_numbers, names=tuple(names))
    with ProcessPoolExecutor() as pool:
        return np.stack(list(pool.map(measure, images, masks, chunksize=8))).astype(np.float64)


@dataclass(frozen=True)
class Asked:
    """Hold numbers that were asked for, and those found in the images: (N, k) of `names`."""

    names: tuple[str, ...]
    asked: Floats
    found: Floats
    """In images encoded as the photographs are."""
    as_made: Floats

    def correlation(self, name: str, is_as_made: bool = False) -> float:
        """Correlate asked and found of a number."""
        at, found = self.names.index(name), self.as_made if is_as_made else self.found
        return float(np.corrcoef(self.asked[:, at], found[:, at])[0, 1])

    def delta_e(self, region: str, is_by_chance: bool = False) -> float:
        """Average Delta E*ab of a region's mean color, asked and found; or of two images that were asked for."""
        at = self.names.index(f"{region}_L")
        other = np.roll(self.asked, 1, 0) if is_by_chance else self.found
        return float(np.linalg.norm(other[:, at : at + 3] - self.asked[:, at : at + 3], axis=1).mean())


def ask_drawn(inputs: Inputs, bundle: Path) -> Asked:
    """Ask for an appearance of the table for each mask, as `m2l synth` does."""
    with open_bundle(bundle) as synth:
        names, masks = inputs.read(synth.image_size, len(inputs.masks.names))
        columns = synth.extra.names
        sampler = synth.extra.sampler_for(RANDOM_APPEARANCE)
        asked = np.stack([sampler.sample(seed) for seed in inputs.seeds(names)])
        images = synth(masks, seeds=inputs.seeds(names), appearances=asked)
    known = tuple(name for name in MEASURED_NAMES if name in columns)
    found, as_made = (measure_all(each, masks, known) for each in (encode(images), images))
    return Asked(known, asked[:, [columns.index(name) for name in known]].astype(np.float64), found, as_made)


def write_asked(inputs: Inputs) -> None:
    """Compare what is asked for with what is found, appearances drawn, and number by number."""
    before, now = ask_drawn(inputs, inputs.before), ask_drawn(inputs, inputs.now)
    head = (
        "number",
        "deviation of what is asked",
        "correlation",
        "as made",
        "found less asked, mean",
        "mean absolute difference",
        "before: correlation",
        "found less asked, mean",
    )
    rows = []
    for at, name in enumerate(now.names):
        difference = now.found[:, at] - now.asked[:, at]
        then = ("", "")
        if name in before.names:
            other = before.names.index(name)
            off = (before.found - before.asked)[:, other].mean()
            then = (f"{before.correlation(name):.2f}", f"{off:+.2f}")
        rows.append(
            (
                f"`{name}`, {NUMBERS[name].unit}".replace("*", "\\*"),
                f"{now.asked[:, at].std():.2f}",
                f"{now.correlation(name):.2f}",
                f"{now.correlation(name, is_as_made=True):.2f}",
                f"{difference.mean():+.2f}",
                f"{np.abs(difference).mean():.2f}",
                *then,
            )
        )
    inputs.put("asked and found", as_table(head, rows))
    inputs.put(
        "colors asked and found",
        as_table(
            ("mean Delta E\\*ab of mean colors", "now", "before", "between two that were asked for"),
            [
                (
                    region,
                    f"{now.delta_e(region):.2f}",
                    f"{before.delta_e(region):.2f}",
                    f"{now.delta_e(region, is_by_chance=True):.2f}",
                )
                for region in ("lesion", "skin")
            ],
        ),
    )
    write_sweeps(inputs)


def write_sweeps(inputs: Inputs) -> None:
    """Ask for one number at a time, as ``--appearance NAME=NUMBER`` does, and measure it."""
    lines: list[Sequence[str]] = []
    with open_bundle(inputs.now) as synth:
        names, masks = inputs.read(synth.image_size, SWEEP_MASKS)
        columns = synth.extra.names
        for name, values in SWEEPS.items():
            if name not in (*columns, skin_tone.ITA):
                continue
            found = []
            for value in values:
                sampler = synth.extra.sampler_for(AppearanceChoice.from_values({name: value}))
                asked = np.stack([sampler.sample(seed) for seed in inputs.seeds(names)])
                images = synth(masks, seeds=inputs.seeds(names), appearances=asked)
                found.append(find_number(name, encode(images), masks))
            lines.append((f"`{name}` asked for", *(f"{value:g}" for value in values)))
            lines.append(
                ("found", *(_quartiles(one, 0 if name in ("vignette", skin_tone.ITA) else 2) for one in found))
            )
    inputs.put("numbers alone", as_table(("", "1", "2", "3", "4", "5", "6"), lines))


def _quartiles(values: Floats, digits: int) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def find_number(name: str, images: Images, masks: Masks) -> Floats:
    """Measure a number, or the angle of the skin, of images: (N,)."""
    if name == skin_tone.ITA:
        return skin_tone.ita(*measure_all(images, masks, skin_tone.COLUMNS).T)
    column: Floats = measure_all(images, masks, (name,))[:, 0]
    return column


def write_shapes(inputs: Inputs) -> None:
    """Measure how well the segmenter finds geometric shapes again: Dice of each kind, and of all."""
    from m2l_train.evaluate.metrics.mask_fidelity import compare
    from m2l_train.evaluate.segmenter import load_segmenter

    if inputs.segmenter is None:
        return
    source = Shapes(seed=inputs.seed)
    masks = np.stack([source.draw(number) for number in range(SHAPES)])
    kinds = np.array([source.label(number) for number in range(SHAPES)])
    segment, rows = load_segmenter(inputs.segmenter), []
    for title, bundle in (("before", inputs.before), ("now", inputs.now)):
        with open_bundle(bundle) as synth:
            images = synth(masks, seeds=inputs.seeds([str(number) for number in range(SHAPES)]))
        dice = compare(masks, segment(images)[0]).dice
        by_kind = (dice[kinds == kind].mean() for kind in source.kinds)
        rows.append((title, f"{dice.mean():.3f}", *(f"{value:.2f}" for value in by_kind)))
    inputs.put("shapes", as_table(("", "all", *source.kinds), rows))


# Figures, curves, speed


def write_figures(inputs: Inputs) -> None:
    """Set results of `m2l evaluate bundle --out` side by side: before, now, and real images."""
    if not inputs.evaluations:
        return
    before, now = (json.loads(inputs.evaluations[place].read_text())["figures"] for place in (0, -1))
    before = before if len(inputs.evaluations) > 1 else {}
    rows = [
        (
            f"`{name}`" + (f", {one['unit']}" if one["unit"] else ""),
            _interval(before.get(name)),
            _interval(one),
            _interval(one.get("as_made")).partition(" [")[0],
            _interval(one.get("real")),
        )
        for name, one in now.items()
        if one.get("value") is not None
    ]
    inputs.put("figures", as_table(("metric", "before [95 %]", "now [95 %]", "as made", "real [95 %]"), rows))


def _interval(one: dict[str, Any] | None) -> str:
    if one is None or one.get("value") is None:
        return ""
    value, low, high = (one.get(name) for name in ("value", "low", "high"))
    return f"{value:.3g}" + ("" if low is None or high is None else f" [{low:.3g}, {high:.3g}]")


PANELS: Final = (
    ("discriminators", {"features_d": "on features", "pixels_d": "on pixels"}),
    ("generator, what they give it", {"features_g": "on features", "pixels_g": "on pixels"}),
    ("statistics of regions, in deviations", {"statistics": ""}),
    ("L1 of 8x8 means, levels", {"l1_levels": ""}),
)


def draw_curves(inputs: Inputs) -> None:
    """Draw the losses that scripts/train_shipped_model.py has logged."""
    if inputs.losses is None:
        return
    lines = [json.loads(line) for line in inputs.losses.read_text().splitlines()]
    images = [line["images"] / 1000 for line in lines]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 3.2), layout="constrained")
    for axis, (title, curves) in zip(axes, PANELS, strict=True):
        for name, label in curves.items():
            axis.plot(images, [line[name] for line in lines], lw=1, label=label)
        axis.axvline(inputs.half_images / 1000, color="grey", lw=1, ls=":")
        axis.set(title=title, xlabel="thousands of images seen")
        if len(curves) > 1:
            axis.legend(frameon=False)
    axes[3].set_ylim(0, None)
    figure.savefig(inputs.out / "model-curves.png", dpi=80)


def write_speed(inputs: Inputs) -> None:
    """Measure both models with `m2l bench`, by turns: ratios are of the same round."""
    values: dict[str, dict[str, list[float]]] = {}
    for number in range(SPEED_ROUNDS):
        bundles = {"before": inputs.before, "now": inputs.now}
        for title in sorted(bundles, reverse=bool(number % 2)):
            report = bench(bundles[title], backends=["onnxruntime", "openvino"], batch_sizes=(1,), repeats=1)
            for row in report.measured:
                values.setdefault(row.label, {}).setdefault(title, []).extend(row.values("images_per_s"))
    rows = []
    for label, sides in values.items():
        median = {title: f"{statistics.median(found):.1f}" for title, found in sides.items()}
        ratio = ""
        if len(sides) == 2 and len(sides["before"]) == len(sides["now"]):
            ratios = [b / a for a, b in zip(sides["before"], sides["now"], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append((label, median.get("before", ""), median.get("now", ""), ratio))
    inputs.put("speed", as_table(("images/s", "before", "now", "ratio of a round"), rows))


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


PARTS: Final[dict[str, Callable[[Inputs], None]]] = {
    "validation": draw_validation,
    "appearance": draw_appearances,
    "shapes": draw_shapes,
    "curves": draw_curves,
    "figures": write_figures,
    "dice": write_shapes,
    "asked": write_asked,
    "speed": write_speed,
}


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the page, its sheets and curves.")],
    before: Annotated[Path, typer.Option(help="Bundle of the model before.")],
    data: Annotated[Path, typer.Option(help="Folder of m2l prepare, with val/images and val/masks.")],
    now: Annotated[Path, typer.Option(help="Bundle of the model that the page is of.")] = embedded.BUNDLE,
    losses: Annotated[Path | None, typer.Option(help="losses.jsonl of its training: curves.")] = None,
    half_images: Annotated[int, typer.Option(help="Images seen at half their side, as it was trained.")] = 14_000,
    segmenter: Annotated[Path | None, typer.Option(help="File of m2l evaluate segmenter: Dice of shapes.")] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="Results of m2l evaluate bundle --out: before and now, or now alone.")
    ] = None,
    parts: Annotated[
        str, typer.Option(help=f"Some of {', '.join(PARTS)}, with commas between.")
    ] = "validation,appearance,shapes,curves,figures,dice,asked",
    seed: Annotated[int, typer.Option(help="Seed of shapes and appearances.")] = 0,
) -> None:
    """Make sheets, curves and tables."""
    inputs = Inputs(out, before, now, data, losses, half_images, segmenter, evaluation or [], seed)
    for part in parts.split(","):
        PARTS[part](inputs)


if __name__ == "__main__":
    typer.run(main)
