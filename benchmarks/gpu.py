"""Measure how fast, and how exactly, a network of random weights runs on an NVIDIA GPU in every way it can.

    pip install -e '.[gpu,tensorrt-rtx,export]'      # with a PyTorch for CUDA; tensorrt-cu13 on data-center GPUs
    python benchmarks/gpu.py all                     # PyTorch, onnxruntime on CUDA, TensorRT: what is installed
    python benchmarks/gpu.py table                   # the last run as a Markdown table
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
from pathlib import Path
from typing import Annotated, Any, Final

import gpufiles
import typer
from gputable import BASELINE, BENCHMARK, as_markdown
from harness import ask, environment, interleave, line_of, print_progress

from m2l_runtime._utils.text import plural
from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.bench.process import ProcessResult

HERE: Final = Path(__file__)
SIDES: Final = HERE.with_name("gpusides.py")
RESULTS: Final = HERE.parent / "results" / "gpu.jsonl"
TIMEOUT_S: Final = 1800.0
"""Of one side: plans of large batches take minutes to build."""
PYTORCH: Final = ("fp32", "tf32", "fp16", "bf16", "compiled")
ENGINES: Final = (
    *(("onnxruntime", "fp32"), ("onnxruntime", "fp16")),
    *(("tensorrt", "fp32"), ("tensorrt", "fp16"), ("tensorrt", "int8")),
)
TO_FILES: Final = (("onnxruntime", "fp16"), ("tensorrt", "fp16"))
EXPECTED: Final = "the network as trained in PyTorch on the CPU, fp32, one mask at a time"
Side = tuple[Sequence[str], Sequence[object]]
"""The files without which it cannot run, and the arguments of gpusides.py."""
_FAILED: Final = "its process ended with status 1: "

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=(__doc__ or "").partition("\n")[0])


@app.command(name="all")
def everything(
    device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal.")] = "cuda",
    ngf: Annotated[int, typer.Option(help="Width of the network.")] = 64,
    size: Annotated[int, typer.Option(help="Side of masks and images in pixels: a power of two from 32 on.")] = 256,
    batch: Annotated[str, typer.Option(help="Masks per call: 1,16,64.")] = "1,16,64",
    seconds: Annotated[float, typer.Option(help="Seconds of a measurement, about.")] = 2.0,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 3,
    out: Annotated[Path, typer.Option(help="File of JSON lines.", show_default=False)] = RESULTS,
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
        gpufiles.levels(size)
    except ValueError as error:
        raise typer.BadParameter(f"--size: {error}") from error
    cuda = _ask("looking for a GPU", "probe", timeout_s=timeout)
    if device == "cuda" and cuda["name"] is None:
        sys.exit(f"{cuda['reason']} (a rehearsal without a GPU: --device cpu)")
    with tempfile.TemporaryDirectory() as made, environment("TORCHINDUCTOR_CACHE_DIR", str(Path(made, "inductor"))):
        folder = Path(made, "files")
        folder.mkdir()
        sides = _chosen(_sides(folder, Path(made, "kept"), device, sizes, seconds), only)
        names = ",".join(sorted({name for needs, _ in sides.values() for name in needs}))
        print_progress(f"making the network and {names or 'no files'}")
        reasons = _ask("making the network", "make", folder, ngf, size, names, timeout_s=timeout)
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
        _measure(sides, reasons, facts, out, timeout)
    print(as_markdown(out.read_text().splitlines()))


def _measure(
    sides: Mapping[str, Side],
    missing: Mapping[str, str],
    facts: Mapping[str, Any],
    out: Path,
    timeout_s: float,
) -> None:
    """Every side by turns, a line each turn; none for sides whose file is missing but the reason."""
    out.parent.mkdir(parents=True, exist_ok=True)
    ready: dict[str, Sequence[object]] = {}
    with out.open("a") as lines:

        def record(number: int, name: str, figures: object, reason: str | None) -> None:
            turn = {"side": name, "round": number, "figures": figures, "reason": reason}
            line = line_of(BENCHMARK, **facts, load_average=round(os.getloadavg()[0], 2), **turn)
            lines.write(line + "\n")
            lines.flush()
            if reason is not None:
                print_progress(f"{name}: {reason}")

        def on_round(number: int, name: str) -> None:
            print_progress(f"round {number + 1} of {facts['repeats']}: {name}")

        def on_answer(number: int, name: str, ending: ProcessResult) -> None:
            reason = None if ending.reason is None else ending.reason.removeprefix(_FAILED)
            record(number, name, ending.document, reason)

        for name, (needs, arguments) in sides.items():
            reasons = [f"{need} could not be made: {missing[need]}" for need in needs if need in missing]
            if reasons:
                record(0, name, None, "; ".join(reasons))
            else:
                ready[name] = arguments
        print_progress(f"{plural(len(ready), 'side')} in {plural(facts['repeats'], 'round')}")
        interleave(ready, SIDES, facts["repeats"], {}, timeout_s, on_round, on_answer)


def _sides(folder: Path, kept: Path, device: str, sizes: Sequence[int], seconds: float) -> dict[str, Side]:
    """By name, the baseline first."""
    from torch_backend import GPU_MODES

    sides_by_name: dict[str, Side] = {}
    of_all = ("--seconds", seconds)
    for candidate in PYTORCH:
        for size in sorted({1, *sizes}) if candidate == "fp32" else sizes:
            arguments = ("pytorch", folder, candidate, device, "--batch-size", size, *of_all)
            sides_by_name[f"{GPU_MODES[candidate].title}, batch {size}"] = ((), arguments)
    for command, candidates in (("engine", ENGINES), ("end-to-end", _to_files(device))):
        for backend, precision in candidates:
            for size in sizes if command == "engine" else (sizes[len(sizes) // 2],):
                name = f"{BACKENDS[backend].title} {precision}, batch {size}"
                more: tuple[object, ...] = ()
                if backend == "tensorrt":
                    more = ("--cache", kept / str(len(sides_by_name)))  # each its own: what building takes is a figure
                words = (command, folder, backend, precision, device, "--batch-size", size, *of_all, *more)
                file = gpufiles.onnx_file(folder, precision).name
                if command == "engine":
                    sides_by_name[name] = (file,), words
                else:
                    sides_by_name[f"mask files to JPEG in tars, {name}"] = (gpufiles.BUNDLE, file), words
    return sides_by_name


def _to_files(device: str) -> tuple[tuple[str, str], ...]:
    return TO_FILES if device == "cuda" else (("onnxruntime", "fp32"), *TO_FILES)


def _chosen(sides: dict[str, Side], only: str | None) -> dict[str, Side]:
    """Those that `only` names, and what ratios are to."""
    if only is None:
        return sides
    words = [word.strip().lower() for word in only.split(",") if word.strip()]
    found = {name: side for name, side in sides.items() if any(word in name.lower() for word in words)}
    if not found:
        raise typer.BadParameter(f"--only names no side; they are: {'; '.join(sides)}")
    return {BASELINE: sides[BASELINE]} | found


@app.command()
def table(
    file: Annotated[Path, typer.Argument(help="File of JSON lines.", show_default=False)] = RESULTS,
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


def _ask(what: str, *arguments: object, timeout_s: float) -> dict[str, Any]:
    """What a process says without which nothing can be measured; its own, so that this one takes no GPU."""
    ending = ask(SIDES, *arguments, timeout_s=timeout_s)
    if ending.reason is not None:
        sys.exit(f"{what}: {ending.reason.removeprefix(_FAILED)}")
    found: dict[str, Any] = ending.document
    return found


if __name__ == "__main__":
    app()
