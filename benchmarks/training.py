"""Measure how fast networks are trained on pairs of masks and photographs.

    make test                                                       # makes .venv
    .venv/bin/python benchmarks/training.py steps                   # a plain loop, the preset fast, and what is between
    .venv/bin/python benchmarks/training.py data                    # the data path alone
    .venv/bin/python benchmarks/training.py steps --device cuda --batch-size 32

Every side runs in a process of its own; sides take turns. One line of JSON each. Pairs are drawn: JPEG photographs and
PNG masks of 1022x767 pixels, as those of ISIC 2017 are at most.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from harness import as_columns, measure_side, reasons, record, take_turns
from PIL import Image
from tables import compare

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
CONFIGS: Final = {
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
    sides: Annotated[str, typer.Option(help="Some of the sides, with | between: 'plain|fast'.")] = "|".join(CONFIGS),
    device: Device = "cpu",
) -> None:
    """Measure images/s of whole training steps, data and all."""
    runs = {name: ("train", name, ngf, ndf, batch_size, images, device) for name in sides.split("|")}
    _measure("training steps", runs, 4 * batch_size, repeats, ngf=ngf, ndf=ndf, batch_size=batch_size)


@app.command()
def data(
    batch_size: Annotated[int, typer.Option(help="Pairs of a batch.")] = FAST.batch_size,
    pairs: Annotated[int, typer.Option(help="Pairs of the data folder.")] = 128,
    seconds: Annotated[float, typer.Option(help="Seconds of a run, about.")] = 5.0,
    repeats: Annotated[int, typer.Option(help="Runs of each side.")] = 3,
    device: Device = "cpu",
) -> None:
    """Measure images/s of batches without training: read each epoch, and decoded once (decoding not counted)."""
    names = ("read each epoch", "decoded once")
    runs = {name: ("batches", name == "decoded once", batch_size, seconds, device) for name in names}
    _measure("training data", runs, pairs, repeats, batch_size=batch_size)


def _measure(benchmark: str, runs: Mapping[str, Sequence[object]], pairs: int, repeats: int, **facts: Any) -> None:
    """Run a command of this file on a new data folder for each side, by turns, and print a line."""
    with tempfile.TemporaryDirectory() as temporary:
        root = draw_pairs(Path(temporary, "data"), pairs)
        measures = {
            name: measure_side(name, command, root, *more, script=HERE) for name, (command, *more) in runs.items()
        }
        sides = take_turns(measures, repeats)
    first = next(iter(sides.values())).values("images_per_s")
    ratios = {name: compare(side.values("images_per_s"), first) for name, side in sides.items()}
    times = {name: dataclasses.asdict(found) for name, found in ratios.items() if found is not None}
    facts |= {"pairs": pairs, "repeats": repeats}
    record(None, benchmark, **facts, sides=as_columns(sides), over_the_first=times, reasons=reasons(sides))


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
def train(root: Path, name: str, ngf: int, ndf: int, batch_size: int, images: int, device: str) -> None:
    """Measure one side of `steps`."""
    given = CONFIGS[name]
    config = dataclasses.replace(given, ngf=ngf, ndf=ndf, batch_size=1 if name == "plain" else batch_size)
    place = torch.device(device)
    torch.set_num_threads(usable_cpus())
    torch.manual_seed(0)
    networks = Pix2Pix(config, place, appearance_rows=1)
    if config.compile:
        networks.compile(config.batch_size)
    title = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    with _endless(root, config, place) as source:
        for batch in itertools.islice(source, WARM_UP):
            networks.step(batch.masks, batch.images)
        count, began = 0, time.perf_counter()
        while count < images:
            batch = next(source)
            networks.step(batch.masks, batch.images)
            count += len(batch.names)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        print(json.dumps({"images_per_s": count / (time.perf_counter() - began), "device": title}))


@app.command(hidden=True)
def batches(root: Path, decode_once: bool, batch_size: int, seconds: float, device: str) -> None:
    """Measure one side of `data`."""
    config = dataclasses.replace(FAST, batch_size=batch_size, decode_once=decode_once)
    with _endless(root, config, torch.device(device)) as source:
        for _ in itertools.islice(source, WARM_UP):
            pass
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            count += len(next(source).names)
        print(json.dumps({"images_per_s": count / (time.perf_counter() - began)}))


@contextlib.contextmanager
def _endless(root: Path, config: TrainConfig, device: torch.device) -> Iterator[Iterator[Batch]]:
    """Give whole batches, epoch after epoch, as training takes them."""
    pairs = open_data(root).train
    with ThreadPoolExecutor(min(usable_cpus(), 8)) as pool, tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "pixels")
        if config.decode_once:
            decoded_cache.decode_pairs(pairs, config, path, pool, None)
            pixels = decoded_cache.map_pixels(path, len(pairs), config.crop_from)

        def epoch_of(epoch: int) -> Iterator[Batch]:
            if config.decode_once:
                return decoded_cache.decoded_batches(pairs, pixels, set(), config, epoch, pool, device)
            return epoch_batches(pairs, config, epoch, pool)

        yield itertools.chain.from_iterable(map(epoch_of, itertools.count(1)))


if __name__ == "__main__":
    app()
