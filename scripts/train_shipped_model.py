"""Train the model inside the package, in sessions of any length.

    .venv/bin/python scripts/train_shipped_model.py pack isic2017-256 pairs.npz
    .venv/bin/python scripts/train_shipped_model.py train pairs.npz run --minutes 60    # again and again: it goes on
    .venv/bin/python scripts/train_shipped_model.py sheet pairs.npz run sheet.png
    .venv/bin/python scripts/train_shipped_model.py average earlier.pth run/latest_net_G.pth averaged.pth --share 0.3
    .venv/bin/python scripts/train_shipped_model.py filter averaged.pth filtered/latest_net_G.pth
    .venv/bin/m2l export filtered/latest_net_G.pth bundle --weights fp16 --min-contrast 15

A run is trained once at a time. Ctrl-C, and a kill of the command where several processes train, save and end.

`pack` decodes all pairs, measures their appearances, and adds styles: what ImageNet features of an image tell beside
its numbers. `train` saves the state every five minutes and at its end, and writes a line of losses to losses.jsonl
every 50 steps. Where the state is gone, `train pairs.npz run --start CHECKPOINT` begins from the weights of a
checkpoint, which `scripts/checkpoint_of_bundle.py` makes of a bundle. Weights of EfficientNet-Lite0 come from the extra
`photo`. docs/model.md says what came of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
import torch.multiprocessing
import typer
from PIL import Image as PillowImage
from torch import Tensor

from m2l_runtime._utils import file_lock, signals
from m2l_runtime.conditioning.numbers import MEASURED_NAMES, measure_numbers
from m2l_runtime.types import STYLE_NAMES, Images, Masks
from m2l_train.models.efficientnet_lite import EfficientNetLite, fold_norms, load_network
from m2l_train.models.modulated import ModulatedGenerator, infer_modulated_spec, scale_noise
from m2l_train.models.modulated_gan import GanConfig, ModulatedGan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SPLITS: Final = ("train", "val")
NEAR_DUPLICATES: Final = ("ISIC_0014596",)
"""Training images that are nearly the same picture as one to validate on."""
SAVE_SECONDS: Final = 300
STEPS_A_LINE: Final = 50
MAX_DEVIATIONS: Final = 4.0
STATE: Final = "state.pt"
LOSSES: Final = "losses.jsonl"
LOCK: Final = "train.lock"
GENERATOR: Final = "latest_net_G.pth"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Hold the pairs of a split."""

    masks: Masks
    images: Images
    appearances: npt.NDArray[np.float32]
    """Measured numbers, then styles."""


@app.command()
def pack(data: Path, out: Path, side: int = 256) -> None:
    """Decode the pairs of DATA/{train,val}/{images,masks}, and measure appearances, into one file."""
    network = fold_norms(load_network(0)[0]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    arrays: dict[str, npt.NDArray[Any]] = {"names": np.array([*MEASURED_NAMES, *STYLE_NAMES])}
    numbers, features = {}, {}
    for split in SPLITS:
        names = sorted(p.stem for p in (data / split / "images").iterdir() if p.stem not in NEAR_DUPLICATES)
        masks = np.stack([_read(data / split / "masks" / f"{name}.png", "L", side) for name in names])
        images = np.stack([_read(data / split / "images" / f"{name}.jpg", "RGB", side) for name in names])
        with ProcessPoolExecutor() as pool:
            numbers[split] = np.stack(list(pool.map(measure_numbers, images, masks, chunksize=16)))
        features[split] = pooled_features(network, images)
        arrays |= {f"{split}_masks": masks, f"{split}_images": images}
        typer.echo(f"{split}: {len(names)} pairs")
    styles = fit_styles(numbers["train"], features["train"], network.channels)
    for split in SPLITS:
        style = styles(numbers[split], features[split])
        arrays[f"{split}_appearances"] = np.hstack([numbers[split], style]).astype(np.float32)
    np.savez(out, allow_pickle=False, **arrays)


def _read(path: Path, mode: str, side: int) -> npt.NDArray[np.uint8]:
    picture = PillowImage.open(path).convert(mode)
    return np.asarray(
        picture.resize((side, side), PillowImage.Resampling.BICUBIC) if picture.width != side else picture
    )


@torch.no_grad()
def pooled_features(network: EfficientNetLite, images: Images) -> Floats:
    """Compute mean and deviation of the features of each depth: (N, 2 * channels of all depths)."""
    rows = []
    for start in range(0, len(images), 16):
        levels = torch.from_numpy(images[start : start + 16]).permute(0, 3, 1, 2).float()
        maps = network.pyramid(levels.contiguous(memory_format=torch.channels_last))
        rows.append(torch.cat([part for one in maps for part in (one.mean((2, 3)), one.std((2, 3)))], 1))
    return torch.cat(rows).numpy().astype(np.float64)


@dataclass(frozen=True)
class Styles:
    """Compute styles: principal components of what features tell beside the numbers, each of deviation 1."""

    mean: Floats
    deviation: Floats
    feature_mean: Floats
    feature_scale: Floats
    told: Floats
    """Least-squares coefficients of the features by the numbers and their squares."""
    axes: Floats
    scale: Floats

    def __call__(self, numbers: npt.NDArray[np.float32], features: Floats) -> Floats:
        """Compute (N, 16) from numbers (N, n) and pooled features (N, m)."""
        left = (features - self.feature_mean) * self.feature_scale - _squares(self, numbers) @ self.told
        styles: Floats = left @ self.axes / self.scale
        return styles


def _squares(styles: Styles, numbers: npt.NDArray[np.float32]) -> Floats:
    z = np.clip((numbers - styles.mean) / styles.deviation, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    return np.hstack([np.ones((len(z), 1)), z, z**2])


def fit_styles(numbers: npt.NDArray[np.float32], features: Floats, channels: tuple[int, ...]) -> Styles:
    """Fit styles to the images to train on; features of each depth weigh alike."""
    weights = np.concatenate([np.full(2 * count, (2 * count) ** -0.5) for count in channels])
    mean, deviation = numbers.mean(0, np.float64), numbers.std(0, np.float64).clip(1e-6)
    scale = weights / (features.std(0) + 1e-6)
    bare = Styles(mean, deviation, features.mean(0), scale, np.zeros(0), np.zeros(0), np.zeros(0))
    target, known = (features - bare.feature_mean) * scale, _squares(bare, numbers)
    told = np.linalg.lstsq(known, target, rcond=None)[0]
    left = target - known @ told
    _, singular, axes = np.linalg.svd(left, full_matrices=False)
    count = len(STYLE_NAMES)
    return dataclasses.replace(
        bare, told=told, axes=axes[:count].T, scale=(singular[:count] / np.sqrt(len(left))).clip(1e-9)
    )


def read_split(packed: Path, split: str) -> tuple[Split, tuple[str, ...]]:
    """Read a split of a packed file, and the names of its numbers."""
    with np.load(packed, allow_pickle=False) as arrays:
        pairs = Split(*(arrays[f"{split}_{part}"] for part in ("masks", "images", "appearances")))
        return pairs, tuple(map(str, arrays["names"]))


@app.command()
def train(
    packed: Path,
    run: Path,
    minutes: Annotated[float, typer.Option(help="Minutes of this session.")] = 60.0,
    threads: int = 1,
    device: str = "cpu",
    half_images: Annotated[int, typer.Option(help="Images seen at half their side first.")] = 14_000,
    learning_rate: Annotated[float, typer.Option(help="Of the generator; the discriminators' is 3/4 of it.")] = 4e-4,
    ema: Annotated[float, typer.Option(help="Decay of the average of weights.")] = 0.999,
    batch_size: int = 8,
    max_steps: Annotated[int, typer.Option(help="Steps after which it ends, earlier sessions counted.")] = 1 << 40,
    seed: int = 0,
    processes: Annotated[int, typer.Option(help="That train together, each with a batch of its own.")] = 1,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint without filters to begin from, of as many appearances as there are pairs.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    start_images: Annotated[int, typer.Option(help="Images that it has seen.")] = 0,
    start_steps: Annotated[int, typer.Option(help="Steps of the discriminators alone, before it goes on.")] = 240,
) -> None:
    """Begin a training, or go on with it: in two sessions it comes to the same, bit for bit."""
    session = Session(
        packed=packed,
        run=run,
        seconds=60 * minutes,
        threads=threads,
        device=device,
        config=GanConfig(
            learning_rate_g=learning_rate,
            learning_rate_d=0.75 * learning_rate,
            batch_size=batch_size,
            half_images=half_images,
            ema=ema,
        ),
        max_steps=max_steps,
        seed=seed,
        processes=processes,
        start=start,
        start_images=start_images,
        start_steps=start_steps,
    )
    if start is not None:
        check_start(torch.load(start, weights_only=True), packed)
    run.mkdir(parents=True, exist_ok=True)
    if file_lock.is_held(run / LOCK) is not None:
        raise typer.BadParameter(f"{run} is being trained by another command, or what is left of it; wait for its end")
    if processes == 1:
        run_session(0, session)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
            run_session, (session, f"file://{folder}/store"), processes
        )


@dataclass(frozen=True, kw_only=True)
class Session:
    """Hold what a session of training is told."""

    packed: Path
    run: Path
    seconds: float
    threads: int
    device: str
    config: GanConfig
    max_steps: int
    seed: int
    processes: int
    start: Path | None
    start_images: int
    start_steps: int


def run_session(rank: int, session: Session, store: str = "") -> None:
    """Train for a session, as process `rank` of those that meet at `store`; the first one writes."""
    lock = contextlib.nullcontext() if rank else file_lock.hold(session.run / LOCK, timeout_s=0, on_note=typer.echo)
    with lock, signals.StopSignals("saving") as stop:
        command = os.getppid()
        _run_session(rank, session, store, lambda: stop.is_set() or os.getppid() != command)


def _run_session(rank: int, session: Session, store: str, is_stopped: Callable[[], bool]) -> None:
    torch.set_num_threads(session.threads)
    torch.manual_seed(session.seed)
    processes, config, run = session.processes, session.config, session.run
    if processes > 1:
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    pairs, names = read_split(session.packed, "train")
    table = torch.from_numpy(pairs.appearances)
    features = fold_norms(load_network(0)[0])
    share = functools.partial(share_means, processes)
    gan = ModulatedGan(table, names, config, features, torch.device(session.device), share, processes)
    cpu_seconds = 0.0
    if (run / STATE).exists():
        state = torch.load(run / STATE, map_location=session.device, weights_only=True)
        gan.load_state(state)
        table, cpu_seconds = gan.generator.table.cpu(), state["cpu"]
        if not rank:
            typer.echo(f"on from step {gan.step_count}, {gan.images_seen} images seen")
    masks, images = torch.from_numpy(pairs.masks), torch.from_numpy(pairs.images)
    begin = saved = time.monotonic()
    begin_cpu, counted = time.process_time(), 0
    if session.start is not None and not (run / STATE).exists():
        table = start_from(gan, torch.load(session.start, map_location=session.device, weights_only=True))
        gan.images_seen = session.start_images
        for step in range(session.start_steps):
            place = step * processes + rank
            random = np.random.default_rng((session.seed, place, 2))
            rows = rows_of_step(place, len(masks), config.batch_size, session.seed + 1)
            found = gan.step_discriminators(*turned_batch(masks, images, table, rows, random), random)
            if (step + 1) % STEPS_A_LINE == 0 and not rank:
                typer.echo(f"discriminators alone, step {step + 1}: losses {found[0]:.3f} and {found[1]:.3f}")
    sums: dict[str, float] = {}

    def save() -> None:
        total = cpu_seconds + processes * (time.process_time() - begin_cpu)
        _write(run / STATE, gan.state() | {"cpu": total})
        _write(run / GENERATOR, gan.average.state_dict())

    while gan.step_count < session.max_steps:
        place = gan.step_count * processes + rank
        rows = rows_of_step(place, len(masks), config.batch_size, session.seed)
        random = np.random.default_rng((session.seed, place, 1))
        losses = gan.step(*turned_batch(masks, images, table, rows, random), random)
        counted += 1
        for name, value in dataclasses.asdict(losses).items():
            sums[name] = sums.get(name, 0.0) + value
        if gan.step_count % STEPS_A_LINE == 0 and not rank:
            means = {name: round(value / counted, 4) for name, value in sums.items()}
            seconds = round(time.monotonic() - begin)
            line = {"step": gan.step_count, "images": gan.images_seen, "seconds": seconds} | means
            sums, counted = {}, 0
            with (run / LOSSES).open("a") as file:
                file.write(json.dumps(line) + "\n")
            typer.echo(json.dumps(line))
        if time.monotonic() - saved > SAVE_SECONDS and not rank:
            save()
            saved = time.monotonic()
        is_over = torch.tensor(float(is_stopped() or time.monotonic() - begin > session.seconds))
        share([is_over])  # all end at the same step
        if is_over > 0:
            break
    if not rank:
        save()
    if processes > 1:
        torch.distributed.destroy_process_group()


def check_start(state: dict[str, Tensor], packed: Path) -> None:
    """Check that a training on packed pairs can begin from a checkpoint.

    Raises:
        typer.BadParameter: it has another number of appearances than there are pairs, or filters at its end.
    """
    with np.load(packed, allow_pickle=False) as arrays:
        pairs = len(arrays["train_appearances"])
    if len(state["table"]) != pairs:
        raise typer.BadParameter(
            f"--start takes a checkpoint with an appearance for each of {pairs} pairs, got {len(state['table'])}"
        )
    if "filters" in state:
        raise typer.BadParameter("--start takes a checkpoint without filters: filter --sharpening 0 --chroma-passes 1")


def start_from(gan: ModulatedGan, state: dict[str, Tensor]) -> Tensor:
    """Give a training the weights of a checkpoint, and return the appearances (rows, numbers) that it goes with."""
    for network in (gan.generator, gan.average):
        network.load_state_dict(state)
    return state["table"].cpu()


def turned_batch(
    masks: Tensor, images: Tensor, table: Tensor, rows: Tensor, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the pairs of a batch, turned and mirrored at random, and their appearances."""
    times = int(random.integers(8))
    return turn(masks[rows], times), turn(images[rows], times), table[rows]


def share_means(processes: int, tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the processes that train together."""
    if processes == 1 or not tensors:
        return
    flat = torch.cat([one.reshape(-1) for one in tensors])
    torch.distributed.all_reduce(flat)
    flat /= processes
    for one, part in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
        one.copy_(part.view_as(one))


def rows_of_step(step: int, count: int, size: int, seed: int) -> Tensor:
    """Return the rows (size,) of a step's batch, of `count` pairs; each epoch has another order.

    Example:
        >>> sorted(torch.cat([rows_of_step(step, 6, 2, 0) for step in range(3)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    places = range(step * size, (step + 1) * size)
    return torch.tensor([_order(place // count, count, seed)[place % count] for place in places])


@functools.lru_cache(maxsize=2)
def _order(epoch: int, count: int, seed: int) -> list[int]:
    order: list[int] = np.random.default_rng((seed, epoch, 0)).permutation(count).tolist()
    return order


def turn(pixels: Tensor, times: int) -> Tensor:
    """Turn (B, S, S, ...) by quarters, and mirror it from 4 on."""
    pixels = pixels.flip(2) if times & 4 else pixels
    return torch.rot90(pixels, times & 3, (1, 2))


def _write(path: Path, content: Any) -> None:
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


@app.command("filter")
def add_filters(
    checkpoint: Path,
    out: Path,
    sharpening: Annotated[float, typer.Option(help="Of luma, by an unsharp mask.")] = 0.3,
    chroma_passes: Annotated[int, typer.Option(help="How many times chroma is smoothed; 1: as it is trained.")] = 2,
) -> None:
    """Write a checkpoint with other filters at the network's end."""
    state = torch.load(checkpoint, weights_only=True)
    spec = dataclasses.replace(infer_modulated_spec(state), sharpening=sharpening, chroma_passes=chroma_passes)
    network = ModulatedGenerator(spec)  # with its filters, where it has some
    out.parent.mkdir(parents=True, exist_ok=True)
    own = {name: one for name, one in network.state_dict().items() if name == "filters"}
    _write(out, {name: one for name, one in state.items() if name != "filters"} | own)


@app.command()
def average(
    checkpoint: Path,
    later: Path,
    out: Path,
    share: Annotated[float, typer.Option(help="Of LATER's weights, 0 to 1.", min=0, max=1)] = 0.3,
) -> None:
    """Average the weights of a checkpoint and of a later one of the same training.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018 (arXiv:1803.05407).
    """
    one, other = (torch.load(path, weights_only=True) for path in (checkpoint, later))
    fixed = ("table", "mean", "std", "names", "filters")
    differing = one.keys() ^ other.keys()
    for name in one.keys() & other.keys():
        if not one[name].equal(other[name]) if name in fixed else one[name].shape != other[name].shape:
            differing.add(name)
    if differing:
        raise typer.BadParameter(f"LATER is of another network, appearances or filters: {', '.join(sorted(differing))}")
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, {name: value if name in fixed else value.lerp(other[name], share) for name, value in one.items()})


@app.command()
def sheet(packed: Path, run: Path, out: Path, count: int = 24, columns: int = 8, seed: int = 0) -> None:
    """Draw masks to validate on, their photographs, and two synthesized images of each."""
    torch.set_num_threads(1)
    pairs, _ = read_split(packed, "val")
    state = torch.load(run / GENERATOR, weights_only=True)
    network = ModulatedGenerator(infer_modulated_spec(state)).eval()
    network.load_state_dict(state)
    random = np.random.default_rng(seed)
    chosen = np.linspace(0, len(pairs.masks) - 1, count).astype(int)
    masks = pairs.masks[chosen]
    rows = [np.repeat(masks[..., None], 3, 3), pairs.images[chosen]]
    for _ in range(2):
        appearances = network.table[torch.from_numpy(random.integers(0, len(network.table), count))]
        rows.append(synthesize(network, masks, appearances, random))
    lines = [np.hstack(list(row[start : start + columns])) for start in range(0, count, columns) for row in rows]
    PillowImage.fromarray(np.vstack(lines)).save(out)


@torch.no_grad()
def synthesize(network: ModulatedGenerator, masks: Masks, appearances: Tensor, random: np.random.Generator) -> Images:
    """Synthesize an image of each mask, as the exported graph does."""
    images = []
    noise_count = network.spec.noise_count((masks.shape[1], masks.shape[2]))
    for mask, appearance in zip(masks, appearances, strict=True):
        noise = torch.from_numpy(random.integers(0, 256, (1, noise_count), dtype=np.uint8))
        x = torch.from_numpy(mask)[None, None].float() / 127.5 - 1
        pixels = network(x, appearance[None], scale_noise(noise))
        images.append(((pixels + 1) * 127.5).round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy())
    return np.stack(images)


if __name__ == "__main__":
    app()
