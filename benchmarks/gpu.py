"""Measure how fast, and how exactly, a network of random weights runs on an NVIDIA GPU with PyTorch and each engine.

    pip install -e '.[gpu,tensorrt-rtx,export]'      # with a PyTorch for CUDA; tensorrt-cu13 on data-center GPUs
    python benchmarks/gpu.py all                     # PyTorch, onnxruntime on CUDA, TensorRT: what is installed
    python benchmarks/gpu.py table                   # the last run as Markdown tables
    python benchmarks/gpu.py all --device cpu --ngf 4 --size 64 --batch 1,2 --seconds 0.1 --repeats 1   # a rehearsal

Every side runs in a process of its own; sides take turns. A side that cannot run gives its reason, and the others go
on. Each turn adds a line of JSON as soon as it is over, so that a run that is ended early leaves what it has. Beside
every speed stands how far the images are from those that PyTorch computes in fp32.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import models
import typer
from gpu_table import BASELINE, BENCHMARK, as_markdown
from harness import RESULTS, Measure, Turn, line_of, measure_side, print_progress, run_side, take_turns

from m2l_runtime.backends.engines import BACKENDS

FILE: Final = RESULTS / "gpu.jsonl"
TIMEOUT_S: Final = 1800.0
"""Of one side: plans of large batches take minutes to build."""
ENGINES: Final = (
    *(("onnxruntime", "fp32"), ("onnxruntime", "fp16")),
    *(("tensorrt", "fp32"), ("tensorrt", "fp16"), ("tensorrt", "int8")),
)
TO_FILES: Final = (("onnxruntime", "fp16"), ("tensorrt", "fp16"))
EXPECTED: Final = "the network as trained in PyTorch on the CPU, fp32, one mask at a time"
Side = tuple[Sequence[str], Sequence[object]]
"""The files without which it cannot run, and the arguments of sides.py."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=(__doc__ or "").partition("\n")[0])


@app.command(name="all")
def everything(
    device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal.")] = "cuda",
    ngf: Annotated[int, typer.Option(help="Width of the network.")] = 64,
    size: Annotated[int, typer.Option(help="Side of masks and images in pixels: a power of two from 32 on.")] = 256,
    batch: Annotated[str, typer.Option(help="Masks per call: 1,16,64.")] = "1,16,64",
    seconds: Annotated[float, typer.Option(help="Seconds of a measurement, about.")] = 2.0,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 3,
    out: Annotated[Path, typer.Option(help="File of JSON lines.", show_default=False)] = FILE,
    only: Annotated[
        str | None,
        typer.Option(help="Words with commas between: only sides that have one in their name, and the baseline."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which a side's process is ended.")] = TIMEOUT_S,
) -> None:
    """Measure every side, and print the table."""
    if device not in ("cuda", "cpu"):
        raise typer.BadParameter(f"--device is cuda or cpu, got {device}")
    sizes = _numbers(batch)
    try:
        models.depth_for(size)
    except ValueError as error:
        raise typer.BadParameter(f"--size: {error}") from error
    cuda = _require("looking for a GPU", "probe", timeout_s=timeout)
    if device == "cuda" and cuda["name"] is None:
        sys.exit(f"{cuda['reason']} (a rehearsal without a GPU: --device cpu)")
    with tempfile.TemporaryDirectory() as root:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(root, "inductor"))
        folder = Path(root, "files")
        folder.mkdir()
        sides = _chosen(_sides(folder, Path(root, "kept"), device, sizes, seconds), only)
        names = ",".join(sorted({name for needs, _ in sides.values() for name in needs}))
        print_progress(f"making the network and {names or 'no files'}")
        missing = _require("making the network", "make", folder, ngf, size, names, timeout_s=timeout)
        facts = {
            "run": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", *sys.argv]),
            "device": device,
            "ngf": ngf,
            "size": size,
            "seconds": seconds,
            "repeats": repeats,
            "expected": EXPECTED,
            "cuda": cuda,
            "sides": list(sides),
        }
        _measure(sides, missing, facts, out, timeout)
    print(as_markdown(out.read_text().splitlines()))


def _measure(
    sides: Mapping[str, Side], missing: Mapping[str, str], facts: Mapping[str, Any], out: Path, timeout_s: float
) -> None:
    """Measure every side by turns, a line each turn; of sides whose file is missing, tell the reason alone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as lines:

        def on_turn(number: int, turn: Turn) -> None:
            result = dict(zip(("side", "metrics", "reason"), turn, strict=True)) | {"round": number}
            lines.write(line_of(BENCHMARK, **facts, load_average=round(os.getloadavg()[0], 2), **result) + "\n")
            lines.flush()

        measures = dict[str, Measure]()
        for name, (needs, arguments) in sides.items():
            reasons = [f"{need} could not be made: {missing[need]}" for need in needs if need in missing]
            if reasons:
                measures[name] = partial(_fail, name, "; ".join(reasons))
            else:
                measures[name] = measure_side(name, *arguments, timeout_s=timeout_s)
        take_turns(measures, facts["repeats"], on_turn)


def _fail(name: str, reason: str) -> list[Turn]:
    return [(name, None, reason)]


def _sides(folder: Path, kept: Path, device: str, sizes: Sequence[int], seconds: float) -> dict[str, Side]:
    """Return all sides by name, the baseline first."""
    from torch_backend import GPU_MODES

    sides: dict[str, Side] = {}

    def add(name: str, needs: Sequence[str], size: int, *arguments: object) -> None:
        sides[f"{name}, batch {size}"] = needs, (*arguments, "--batch-size", size, "--seconds", seconds)

    for place, title in enumerate(GPU_MODES):
        for size in sorted({1, *sizes}) if place == 0 else sizes:
            add(title, (), size, "pytorch", folder, title, device)
    to_files = TO_FILES if device == "cuda" else (("onnxruntime", "fp32"), *TO_FILES)
    for command, candidates in (("engine", ENGINES), ("to-tars", to_files)):
        for backend, precision in candidates:
            name = f"{BACKENDS[backend].title} {precision}"
            needs = [models.onnx_file(folder, precision).name]
            if command == "to-tars":
                name, needs = f"mask files to JPEG in tars, {name}", [models.BUNDLE, *needs]
            for size in sizes if command == "engine" else (sizes[len(sizes) // 2],):
                # Each has a cache of its own, as what building takes is a metric.
                cache = ("--cache", kept / str(len(sides))) if backend == "tensorrt" else ()
                add(name, needs, size, command, folder, backend, precision, device, *cache)
    return sides


def _chosen(sides: dict[str, Side], only: str | None) -> dict[str, Side]:
    """Return those that `only` names, and what ratios are to."""
    if only is None:
        return sides
    words = [word.strip().lower() for word in only.split(",") if word.strip()]
    chosen = {name: side for name, side in sides.items() if any(word in name.lower() for word in words)}
    if not chosen:
        raise typer.BadParameter(f"--only names no side; they are: {'; '.join(sides)}")
    return {BASELINE: sides[BASELINE]} | chosen


@app.command()
def table(
    file: Annotated[Path, typer.Argument(help="File of JSON lines.", show_default=False)] = FILE,
) -> None:
    """Print the last run of a file as Markdown, with ratios to PyTorch eager fp32 at batch 1."""
    try:
        print(as_markdown(file.read_text().splitlines()))
    except FileNotFoundError:
        sys.exit(f"there is no {file} yet; run: python benchmarks/gpu.py all, or name another file")
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: {error}")


def _numbers(words: str) -> tuple[int, ...]:
    try:
        values = tuple(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise typer.BadParameter(f"--batch is numbers from 1 on with commas between, got {words}")
    return values


def _require(what: str, *arguments: object, timeout_s: float) -> dict[str, Any]:
    """Return what a process says without which nothing can be measured; its own, so that this one takes no GPU."""
    ending = run_side(*arguments, timeout_s=timeout_s)
    if ending.reason is not None:
        sys.exit(f"{what}: {ending.reason}")
    document: dict[str, Any] = ending.document
    return document


if __name__ == "__main__":
    app()
