"""Share among benchmarks: sides in processes of their own that take turns, conditions, lines of JSON."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from tables import Metrics, Side

from m2l_runtime._utils.cpu import cpu_model, instructions, usable_cpus
from m2l_runtime.bench.benchmark import shuffled_rounds
from m2l_runtime.bench.process import ProcessResult, run_for_json

PACKAGES: Final = (
    *("m2l", "numpy", "pillow", "onnxruntime", "openvino", "torch"),
    *("onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13"),
)
INSTRUCTIONS: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
"""Those of a processor that engines choose their kernels by."""
GPU: Final = {"name": "name", "compute_capability": "compute_cap", "driver": "driver_version"}
"""What is told of a GPU, by nvidia-smi's words."""
SIDES: Final = Path(__file__).with_name("sides.py")
RESULTS: Final = Path(__file__).with_name("results")
TIMEOUT_S: Final = 6 * 3600.0
"""Of one side: a hundred thousand masks take a while."""
_FAILED: Final = "its process ended with status 1: "
_BEGAN: Final = time.monotonic()

Turn = tuple[str, Metrics | None, str | None]
"""A side's name, its metrics of one round, or the reason why there are none."""
Measure = Callable[[], Iterable[Turn]]


def conditions() -> dict[str, Any]:
    """Describe the machine and the versions that a measurement holds for."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    available = instructions()
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "instructions": [name for name in INSTRUCTIONS if name in available],
        "python": platform.python_version(),
        "gpu": gpu(),
        **versions,
    }


@functools.cache
def gpu() -> dict[str, str] | None:
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


def run_side(*arguments: object, script: Path = SIDES, timeout_s: float = TIMEOUT_S) -> ProcessResult:
    """Run `script` with this Python for what it prints last, as JSON, or the reason why it does not.

    The moment, by `time.monotonic()`, is the first line of its standard input.
    """
    request = f"{time.monotonic()}\n".encode()
    ending = run_for_json([sys.executable, script, *map(str, arguments)], request=request, timeout_s=timeout_s)
    return ProcessResult(ending.document, ending.reason and ending.reason.removeprefix(_FAILED), ending.was_stopped)


def measure_side(name: str, *arguments: object, script: Path = SIDES, timeout_s: float = TIMEOUT_S) -> Measure:
    """Make what runs a side once in a process of its own."""

    def measure() -> Iterator[Turn]:
        ending = run_side(*arguments, script=script, timeout_s=timeout_s)
        yield name, ending.document, ending.reason

    return measure


def take_turns(
    measures: Mapping[str, Measure],
    repeats: int,
    on_turn: Callable[[int, Turn], None] = lambda _, __: None,
) -> dict[str, Side]:
    """Measure each side `repeats` times; by turns, so that a busy machine hits all alike.

    A side that fails is not measured again.

    Args:
        measures: what measures a side once, or several, by name.
        repeats: rounds.
        on_turn: called with the round, from 0, and each turn of it.

    Returns:
        Sides by the names of their turns.
    """
    names, sides = list(measures), dict[str, Side]()
    for number, index in shuffled_rounds(len(names), repeats):
        known = sides.get(names[index])
        if known is not None and known.reason is not None:
            continue
        print_progress(f"round {number + 1} of {repeats}: {names[index]}")
        for name, metrics, reason in measures[names[index]]():
            side = sides.setdefault(name, Side())
            if side.reason is not None:
                continue
            side.add(number, metrics, reason)
            if reason is not None:
                print_progress(f"{name}: {reason}")
            on_turn(number, (name, metrics, reason))
    return sides


def as_columns(sides: Mapping[str, Side], names: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Collect, of each side that did not fail, numbers (and lists of them) by round, to five digits, and words once.

    Args:
        sides: by name.
        names: what metrics are to be called, and are called in a side; None: all, by their own names.
    """
    columns: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        if side.reason is not None:
            continue
        first = next(iter(side.rounds.values()))
        wanted = {key: key for key in first} if names is None else names
        columns[name] = {
            new: [_short(one[old]) for one in side.rounds.values()]
            if isinstance(first[old], float | list)
            else first[old]
            for new, old in wanted.items()
            if first.get(old) is not None
        }
    return columns


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def reasons(sides: Mapping[str, Side]) -> dict[str, str]:
    """Return why sides failed, by name."""
    return {name: side.reason for name, side in sides.items() if side.reason is not None}


def record(results: Path | None, benchmark: str, **facts: Any) -> None:
    """Print a line of JSON with the conditions that it holds for, and add it to a file."""
    line = line_of(benchmark, **facts)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a") as file:
            file.write(line + "\n")
    print(line, flush=True)


def line_of(benchmark: str, **facts: Any) -> str:
    """Write a line of JSON with the conditions that it holds for."""
    return json.dumps({"benchmark": benchmark, **facts, "conditions": conditions()})


def print_progress(text: str) -> None:
    """Print a line with the seconds since the start to standard error."""
    print(f"{time.monotonic() - _BEGAN:7.1f} s  {text}", file=sys.stderr, flush=True)
