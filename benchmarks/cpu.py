"""Measure `m2l bench` beside PyTorch, plain exports and the original's loop on CPUs, with networks of random weights.

    make test                                    # makes .venv
    .venv/bin/python benchmarks/cpu.py all       # the engine alone, files to files, the first image
    .venv/bin/python benchmarks/cpu.py page      # docs/benchmarks.md and its plots from the latest line of each part

Every side runs in a process of its own; sides take turns, and the rows of `m2l bench` in each round are among them.
Each part adds one line of JSON to benchmarks/results/cpu.jsonl, with what each round gave; only ratios within a run are
claims. `all --quick` rehearses it with a tiny network.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from harness import (
    RESULTS,
    Measure,
    Turn,
    as_columns,
    measure_side,
    print_progress,
    reasons,
    record,
    take_turns,
)
from tables import Side

from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.bench.benchmark import bench
from m2l_runtime.bench.report import as_json
from m2l_runtime.bench.rows import BenchOptions
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.output.encoding import Encoding

FIRST_IMAGE: Final = Path(__file__).with_name("first_image.py")
DOCS: Final = Path(__file__).parent.parent / "docs"
FILE: Final = RESULTS / "cpu.jsonl"
LOOP: Final = "original's loop: PyTorch eager, Pillow's default PNG"
LOOP_MASKS: Final = 20
ENGINE_METRICS: Final = ("images_per_s", "latency_p50_ms", "load_s", "peak_memory_megabytes")
SETTINGS: Final = ("engine", "streams", "threads")
TIMEOUT_S: Final = 900.0


@dataclass(frozen=True)
class Effort:
    """Hold how much is measured."""

    ngf: int = 64
    side: int = 256
    seconds: float = 1.5
    """Of a measurement, about."""
    batch_sizes: tuple[int, ...] = (1, 8)
    repeats: int = 3
    is_rehearsal: bool = False


QUICK: Final = Effort(ngf=4, side=32, seconds=0.02, batch_sizes=(1,), repeats=1, is_rehearsal=True)
app = typer.Typer(add_completion=False, help=(__doc__ or "").partition("\n")[0])


@app.command(name="all")
def everything(
    quick: Annotated[bool, typer.Option("--quick", help="Rehearse: a tiny network, few calls.")] = False,
    repeats: Annotated[int | None, typer.Option(help="Rounds.  [default: 3]", show_default=False)] = None,
    results: Annotated[Path, typer.Option(help="File of JSON lines.", show_default=False)] = FILE,
) -> None:
    """Measure every part: the engine alone, mask files to image files, the first image."""
    from models import cached_bundle, make_bundle

    effort = QUICK if quick else Effort(repeats=repeats or Effort.repeats)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(temporary, "inductor"))
        if quick:
            folder = Path(temporary, "network")
            make_bundle(folder, effort.ngf, effort.side, ("fp32",))
        else:
            print_progress(f"making the bundle of ngf {effort.ngf}, unless it is kept from before")
            folder = cached_bundle(effort.ngf)
        measure_speed(folder, effort, results)
        measure_first_image(Path(temporary), effort, results)


def measure_speed(folder: Path, effort: Effort, results: Path) -> None:
    """Measure the engine alone, and mask files to image files, of what `make_bundle` left in `folder`."""
    from torch_backend import CPU_MODES

    bundle = open_bundle(folder / "bundle")
    timed = ("--seconds", effort.seconds)
    measures = {LOOP: _side(LOOP, "original-loop", folder, LOOP_MASKS)}
    for place, title in enumerate(CPU_MODES):
        size = 1 if place == 0 else 8
        if place == 0 or not effort.is_rehearsal:
            name = f"{title}, batch {size}"
            measures[name] = _side(name, "pytorch", folder, title, "cpu", "--batch-size", size, *timed)
    for backend in ("onnxruntime", "openvino"):
        name = f"{BACKENDS[backend].title} fp32, plain export, batch 1"
        measures[name] = _side(name, "plain", folder, backend, *timed)
    measures["m2l bench"] = partial(bench_turns, bundle, effort.batch_sizes, effort.seconds)
    load = os.getloadavg()[0]
    sides = take_turns(measures, effort.repeats)
    engines = {name: side for name, side in sides.items() if name != LOOP}
    psnr = {
        f"{BACKENDS[model.engines[0]].title} {model.precision}": model.parity.mean_psnr_db
        for model in bundle.manifest.models
        if model.precision != "fp32" and model.parity.mean_psnr_db is not None
    }
    kept = {name: name for name in (*ENGINE_METRICS, *SETTINGS)}
    method = (
        "Masks in memory to images in memory, bytes to bytes: `m2l bench`, and beside it PyTorch, whose first row is "
        "the network of the original's loop, and plain exports, which are what PyTorch's exporter writes, one call at "
        "a time. m2l makes as many calls at once as `m2l synth` does. A single image is timed with one call at a time "
        "and all threads. Loading and peak memory are as `m2l bench` has them; of the others, loading goes to the "
        "first result, which compiles, and memory is without files."
    )
    columns = as_columns(engines, kept)
    for name, column in columns.items():
        if not is_single(engines[name]):  # a call's latency is not that of an image
            del column["latency_p50_ms"]
    _record(results, "engines", effort, load, engines, method, columns, ngf=effort.ngf, psnr_db=psnr)
    files = {name: side for name, side in sides.items() if name.startswith((LOOP, "m2l, ")) and is_single(side)}
    method = (
        f"Mask files of 256x256 to lossless files of {effort.side}x{effort.side}, by `m2l bench`, which writes "
        f"{Encoding().label}. Loading is not counted. The engine alone is measured in the same process; its share is "
        f"its time over that of all. The original's loop takes {LOOP_MASKS} masks a round."
    )
    names = {"images_per_s": "end_to_end_images_per_s", "engine_images_per_s": "images_per_s"}
    _record(results, "end-to-end", effort, load, files, method, as_columns(files, names), ngf=effort.ngf)


def measure_first_image(folder: Path, effort: Effort, results: Path) -> None:
    """Measure from a cold process to the first image, with the model inside the package."""
    import torch
    from models import CHECKPOINT

    from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec

    bundle = open_bundle(embedded.BUNDLE)
    appearance = bundle.manifest.appearance
    names, rows = (appearance.names, appearance.count) if appearance is not None else ((), 0)
    network = ModulatedGenerator(ModulatedSpec(names=tuple(names), appearance_rows=rows))
    parameter_count = sum(one.numel() for one in network.parameters())
    if parameter_count != bundle.manifest.network.parameter_count:
        raise SystemExit("the model inside the package is of another layout than ModulatedSpec: describe it here")
    torch.save(network.state_dict(), folder / CHECKPOINT)
    measures: dict[str, Measure] = {
        "PyTorch": measure_side("PyTorch", folder, script=FIRST_IMAGE, timeout_s=TIMEOUT_S),
        "m2l bench": partial(bench_turns, bundle, (1,), 0.02),
    }
    take_turns(measures, 1)  # to have files in memory
    load = os.getloadavg()[0]
    sides = take_turns(measures, effort.repeats)
    method = (
        f"From the start of Python to the bytes of one PNG, with the model inside the package ({parameter_count:,} "
        "parameters), by `m2l bench`, and in PyTorch with a checkpoint of the same network. Files are in the system's "
        "memory."
    )
    facts = {"bundle": bundle.manifest.name, "bundle_sha256": bundle.sha256, "ngf": bundle.manifest.network.ngf}
    columns = as_columns(sides, {"seconds": "first_image_s", "engine": "engine"})
    _record(results, "first-image", effort, load, sides, method, columns, **facts)


def bench_turns(bundle: Bundle, batch_sizes: tuple[int, ...], seconds: float) -> Iterator[Turn]:
    """Measure each row of `m2l bench` on CPUs once, and yield its metrics."""
    options = BenchOptions(
        backends=("onnxruntime", "openvino"), devices=("cpu",), batch_sizes=batch_sizes, repeats=1, seconds=seconds
    )
    for row in as_json(bench(bundle, options))["rows"]:
        name = f"m2l, {BACKENDS[row['backend']].title} {row['precision']}, batch {row['batch_size']}"
        if row["reason"] is not None:
            yield name, None, row["reason"]
        else:
            settings = {key: row["throughput_settings"][key] for key in (*SETTINGS, "batch_size")}
            yield name, row["rounds"][0] | settings, None


def is_single(side: Side) -> bool:
    """Return whether a call of a side is one image."""
    return all(one.get("batch_size", 1) == 1 for one in side.rounds.values())


def _side(name: str, *arguments: object) -> Measure:
    return measure_side(name, *arguments, timeout_s=TIMEOUT_S)


def _record(
    results: Path,
    part: str,
    effort: Effort,
    load: float,
    sides: Mapping[str, Side],
    method: str,
    columns: Mapping[str, Any],
    **facts: Any,
) -> None:
    if effort.is_rehearsal:
        facts["is_rehearsal"] = True
    facts |= {"load_average_before": round(load, 2), "repeats": effort.repeats, "seconds": effort.seconds}
    record(results, f"cpu {part}", **facts, method=method, sides=columns, reasons=reasons(sides))


@app.command()
def page(
    results: Annotated[Path, typer.Option(help="File of JSON lines.", show_default=False)] = FILE,
    docs: Annotated[Path, typer.Option(help="Folder to write into.", show_default=False)] = DOCS,
) -> None:
    """Write docs/benchmarks.md and its plots, from the latest line of each part."""
    from page import write_page

    for path in write_page(results, docs):
        print(path)


if __name__ == "__main__":
    app()
