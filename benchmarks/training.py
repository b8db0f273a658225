"""Measure how fast networks are trained on pairs of masks and photographs.

    make test                                                       # makes .venv
    .venv/bin/python benchmarks/training.py steps                   # a plain loop, the preset fast, and what is between
    .venv/bin/python benchmarks/training.py data                    # the data path alone
    .venv/bin/python benchmarks/training.py steps --device cuda --batch-size 32

Every side runs in a process of its own; sides take turns. One line of JSON each. Pairs are drawn: JPEG photographs and
PNG masks of 1022x767 pixels, as those of ISIC 2017 are at most.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from harness import interleave, rates, report
from PIL import Image

from m2l_runtime._utils.cpu import usable_cpus
from m2l_train.config import PRESETS, TrainConfig
from m2l_train.data import decoded_cache
from m2l_train.data.batches import Batch, epoch_batches
from m2l_train.data.data_folder import open_data
from m2l_train.models.pix2pix import Pix2Pix

HERE = Path(__file__)
WARM_UP: Final = 3
"""Steps that are not counted: compilation, first allocations."""

# The original's loop; the preset; and the preset less one thing at a time.
PLAIN: Final = PRESETS["paper"]
FAST: Final = PRESETS["fast"]
SIDES: Final = {
    "plain": PLAIN,
    "fast": FAST,
    "fast, not compiled": dataclasses.replace(FAST, compile=False),
    "fast, fp32": dataclasses.replace(FAST, bf16=False),
    "fast, channels first": dataclasses.replace(FAST, channels_last=False),
    "fast, read each epoch": dataclasses.replace(FAST, decode_once=False),
    "fast, no appearance": dataclasses.replace(FAST, appearance=False),
}
app = typer.Typer(add_completion=False)

Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]


@app.command()
def steps(
    ngf: Annotated[int, typer.Option(help="Width of the generator.")] = 64,
    ndf: Annotated[int, typer.Option(help="Width of the discriminator.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Pairs per step of the fast sides.")] = FAST.batch_size,
    images: Annotated[int, typer.Option(help="Images trained on in a run, after the warm-up; about.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs of each side.")] = 3,
    sides: Annotated[str, typer.Option(help="Some of the sides, with commas and | between: 'plain|fast'.")] = "",
    device: Device = "cpu",
) -> None:
    """Measure images/s of whole training steps, data and all."""
    chosen = sides.split("|") if sides else list(SIDES)
    with tempfile.TemporaryDirectory() as folder:
        data = draw_pairs(Path(folder, "data"), 4 * batch_size)
        results = interleave(
            {name: ("side", data, name, ngf, ndf, batch_size, images, device) for name in chosen}, HERE, repeats
        )
    median = rates(results)
    report(
        "training steps",
        ngf=ngf,
        ndf=ndf,
        batch_size=batch_size,
        device=results[chosen[0]][0]["device"],
        repeats=repeats,
        images_per_s={name: [round(run["images_per_s"], 3) for run in runs] for name, runs in results.items()},
        over_the_first={name: round(value / median[chosen[0]], 3) for name, value in median.items()},
        least_over_the_first={
            name: round(
                min(a["images_per_s"] / b["images_per_s"] for a, b in zip(runs, results[chosen[0]], strict=True)), 3
            )
            for name, runs in results.items()
        },
    )


@app.command()
def data(
    batch_size: Annotated[int, typer.Option(help="Pairs of a batch.")] = FAST.batch_size,
    pairs: Annotated[int, typer.Option(help="Pairs of the data folder.")] = 128,
    repeats: Annotated[int, typer.Option(help="Runs of each side.")] = 3,
    device: Device = "cpu",
) -> None:
    """Measure images/s of batches without training: read each epoch, and decoded once (decoding not counted)."""
    with tempfile.TemporaryDirectory() as folder:
        root = draw_pairs(Path(folder, "data"), pairs)
        sides = {name: ("batches", root, name, batch_size, device) for name in ("read each epoch", "decoded once")}
        results = interleave(sides, HERE, repeats)
    report(
        "training data",
        batch_size=batch_size,
        pairs=pairs,
        repeats=repeats,
        images_per_s={name: [round(run["images_per_s"], 1) for run in runs] for name, runs in results.items()},
    )


def draw_pairs(root: Path, count: int) -> Path:
    """Draw a data folder of `count` pairs to train on."""
    width, height = 1022, 767
    rows, columns = np.ogrid[:height, :width]
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    for number in range(count):
        generator = np.random.default_rng(number)
        y, x = generator.uniform(0.35, 0.65, 2) * (height, width)
        b, a = generator.uniform(0.1, 0.35, 2) * height
        mask = ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 < 1
        noise = Image.fromarray(generator.integers(0, 60, (height // 4, width // 4, 3), np.uint8)).resize(
            (width, height)
        )
        colors = np.where(mask[:, :, None], (100, 60, 50), (190, 150, 130)) + np.asarray(noise)
        Image.fromarray(colors.astype(np.uint8)).save(root / "train" / "images" / f"p{number:04}.jpg", quality=95)
        Image.fromarray(mask).save(root / "train" / "masks" / f"p{number:04}.png")
    return root


@app.command(hidden=True)
def side(root: Path, name: str, ngf: int, ndf: int, batch_size: int, images: int, device: str) -> None:
    """Measure one side of `steps`."""
    given = SIDES[name]
    config = dataclasses.replace(given, ngf=ngf, ndf=ndf, batch_size=1 if name == "plain" else batch_size)
    place = torch.device(device)
    torch.set_num_threads(usable_cpus())
    torch.manual_seed(0)
    networks = Pix2Pix(config, place, appearance_rows=1)
    with ThreadPoolExecutor(min(usable_cpus(), 8)) as pool, tempfile.TemporaryDirectory() as folder:
        batches = _endless(root, config, pool, Path(folder), place)
        for batch in itertools.islice(batches, WARM_UP):
            networks.step(batch.masks, batch.images)
        count, began = 0, time.perf_counter()
        for batch in batches:
            networks.step(batch.masks, batch.images)
            count += len(batch.names)
            if count >= images:
                break
        seconds = time.perf_counter() - began
    print(json.dumps({"images_per_s": count / seconds, "device": _device_name(place)}))


@app.command(hidden=True)
def batches(root: Path, name: str, batch_size: int, device: str) -> None:
    """Measure one side of `data`."""
    config = dataclasses.replace(FAST, batch_size=batch_size, decode_once=name == "decoded once")
    with ThreadPoolExecutor(min(usable_cpus(), 8)) as pool, tempfile.TemporaryDirectory() as folder:
        source = _endless(root, config, pool, Path(folder), torch.device(device))
        for _ in itertools.islice(source, WARM_UP):
            pass
        count, began = 0, time.perf_counter()
        for batch in source:
            count += len(batch.names)
            if time.perf_counter() - began > 5:
                break
        seconds = time.perf_counter() - began
    print(json.dumps({"images_per_s": count / seconds}))


def _endless(
    root: Path, config: TrainConfig, pool: ThreadPoolExecutor, folder: Path, device: torch.device
) -> Iterator[Batch]:
    """Yield whole batches, epoch after epoch, as training takes them."""
    pairs = open_data(root).train
    if config.decode_once:
        decoded_cache.decode_pairs(pairs, config, folder / "pixels", pool, None)
        pixels = decoded_cache.map_pixels(folder / "pixels", len(pairs), config.crop_from)
    for epoch in itertools.count(1):
        if config.decode_once:
            yield from decoded_cache.decoded_batches(pairs, pixels, set(), config, epoch, pool, device)
        else:
            yield from epoch_batches(pairs, config, epoch, pool)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    app()
