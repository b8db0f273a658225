"""Share among benchmarks: masks, a process of its own for each side, rounds, lines of JSON, Markdown tables."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from m2l_runtime._utils.cpu import cpu_model, instructions, usable_cpus
from m2l_runtime.bench.benchmark import shuffled_rounds
from m2l_runtime.bench.process import ProcessResult, run_for_json
from m2l_runtime.bench.report import Statistic
from m2l_runtime.bench.table import number as short

PACKAGES = (
    *("m2l", "numpy", "pillow", "onnxruntime", "openvino", "torch"),
    *("onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13"),
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
"""Those of a processor that engines choose their kernels by."""
GPU = {"name": "name", "compute_capability": "compute_cap", "driver": "driver_version", "memory_mib": "memory.total"}
"""What is told of a GPU, by nvidia-smi's words."""
TIMEOUT_S = 6 * 3600.0
"""Of one side: a hundred thousand masks take a while."""


def conditions() -> dict[str, Any]:
    """Describe the machine and the versions that a measurement holds for."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    found = instructions()
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "instructions": [name for name in INSTRUCTIONS if name in found],
        "python": platform.python_version(),
        "card": card(),
        **versions,
    }


@functools.cache
def card() -> dict[str, str] | None:
    """Describe the first NVIDIA GPU that processes may use, as nvidia-smi tells; None without either."""
    command, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if command is None or visible == "":
        return None
    which = [] if visible is None else [f"--id={visible.split(',')[0]}"]
    query = [f"--query-gpu={','.join(GPU.values())}", "--format=csv,noheader,nounits"]
    try:
        ending = subprocess.run([command, *which, *query], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    words = [word.strip() for word in ending.stdout.partition("\n")[0].split(",")]
    return dict(zip(GPU, words, strict=True)) if len(words) == len(GPU) else None


def draw_masks(folder: Path, count: int, side: int = 512) -> None:
    """Draw `count` mask files of ellipses in `folder`: at most 200 pictures, the others are links to them."""
    folder.mkdir(parents=True)
    rows, columns = np.ogrid[:side, :side]
    for number in range(count):
        path = folder / f"mask-{number:06}.png"
        if number >= 200:
            os.link(folder / f"mask-{number % 200:06}.png", path)
            continue
        generator = np.random.default_rng(number)
        y, x = generator.uniform(0.35, 0.65, 2) * side
        b, a = generator.uniform(0.08, 0.35, 2) * side
        Image.fromarray(((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 < 1).save(path)


def ask(script: Path, *arguments: object, timeout_s: float = TIMEOUT_S) -> ProcessResult:
    """Run `script` with this Python for what it prints last, as JSON, or the reason why it does not.

    The moment, by `time.monotonic()`, is the first line of its standard input.
    """
    request = f"{time.monotonic()}\n".encode()
    return run_for_json([sys.executable, script, *map(str, arguments)], request=request, timeout_s=timeout_s)


def in_own_process(script: Path, *arguments: object) -> dict[str, Any]:
    """Run `script` for the JSON that it prints last; the benchmark ends where it fails."""
    ending = ask(script, *arguments)
    if ending.reason is not None:
        sys.exit(f"{script.name} {' '.join(map(str, arguments))}: {ending.reason}")
    result: dict[str, Any] = ending.document
    return result


def interleave(
    sides: Mapping[str, Sequence[object]],
    script: Path,
    repeats: int,
    reasons: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    on_round: Callable[[int, str], None] = lambda _, __: None,
    on_answer: Callable[[int, str, ProcessResult], None] = lambda _, __, ___: None,
) -> dict[str, list[dict[str, Any]]]:
    """Run each side `repeats` times, in a process of its own; by turns, so that a busy machine hits all alike.

    Args:
        sides: arguments of `script`, by name.
        script: what runs a side.
        repeats: rounds.
        reasons: filled with why a side has no results; None: the benchmark ends where one fails.
        timeout_s: seconds after which a side has failed.
        on_round: called before each turn with the round, from 0, and the side.
        on_answer: called after each turn with these and what came of it, where there are `reasons`.
    """
    names = list(sides)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number, index in shuffled_rounds(len(names), repeats):
        name = names[index]
        if name not in results:
            continue
        on_round(number, name)
        if reasons is None:
            results[name].append(in_own_process(script, *sides[name]))
            continue
        ending = ask(script, *sides[name], timeout_s=timeout_s)
        on_answer(number, name, ending)
        if ending.reason is None:
            results[name].append(ending.document)
        else:
            reasons[name] = ending.reason
            del results[name]
    return results


def rates(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Compute median images/s of each side."""
    return {name: statistics.median(run["images_per_s"] for run in runs) for name, runs in results.items()}


def report(benchmark: str, **facts: Any) -> None:
    """Print one line of JSON."""
    print(line_of(benchmark, **facts), flush=True)


def line_of(benchmark: str, **facts: Any) -> str:
    """Write a line of JSON with the conditions that it holds for."""
    return json.dumps({"benchmark": benchmark, **facts, "conditions": conditions()})


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def format_median(figure: Statistic | None, *, is_short: bool = False) -> str:
    """Write a median (lowest..highest), a dash for None; the median alone where `is_short` and all are the same."""
    if figure is None:
        return "-"
    if is_short and figure.lowest == figure.highest:
        return short(figure.median)
    return f"{short(figure.median)} ({short(figure.lowest)}..{short(figure.highest)})"


_BEGAN: Final = time.monotonic()


def print_progress(text: str) -> None:
    """Print a line with the seconds since the start to standard error."""
    print(f"{time.monotonic() - _BEGAN:7.1f} s  {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
