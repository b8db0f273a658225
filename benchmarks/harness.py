"""What benchmarks share: drawn masks, a process of its own for each side, repeats by turns, a line of JSON a run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2l_runtime.cpu import usable_cpus

PACKAGES = ("m2l", "numpy", "pillow", "onnxruntime", "torch")


def conditions() -> dict[str, Any]:
    """The machine and the versions that a figure holds for."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {"cpu": cpu_model(), "cpus": usable_cpus(), "python": platform.python_version(), **versions}


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def draw_masks(folder: Path, count: int, side: int = 512) -> None:
    """`count` mask files of drawn ellipses in `folder`: at most 200 pictures, the others are links to them."""
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


def in_own_process(script: Path, *arguments: object) -> dict[str, Any]:
    """The JSON that `script` prints last, run by this Python."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], check=True, capture_output=True, text=True, env=os.environ
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def by_turns(sides: Mapping[str, Sequence[object]], script: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Each side run `repeats` times, in a process of its own; by turns, so that a busy machine hits all alike."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, arguments in sides.items():
            results[name].append(in_own_process(script, *arguments))
    return results


def rates(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Median images/s of each side."""
    return {name: statistics.median(run["images_per_s"] for run in runs) for name, runs in results.items()}


def report(benchmark: str, **facts: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps({"benchmark": benchmark, **facts, "conditions": conditions()}), flush=True)
