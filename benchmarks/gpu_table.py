"""Write the last run of a file of gpu.py's lines as Markdown tables, with ratios within its rounds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tables import Side, format_statistic, metric, ratio, table

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.report import summarize
from m2l_runtime.bench.table import number

Line = Mapping[str, Any]
BENCHMARK: Final = "gpu"
BASELINE: Final = "PyTorch eager fp32, batch 1"
"""What ratios are to."""
_VERSIONS: Final = (
    *("m2l", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13"),
    *("numpy", "pillow"),
)


def as_markdown(lines: Iterable[str]) -> str:
    """Write the last run: the engine alone, files to files, what did not run and why, and the conditions.

    Raises:
        ValueError: there is no line of gpu.py.
    """
    run = last_run(lines)
    sides = read_sides(run)
    baseline = sides.get(BASELINE, Side())
    alone = {
        "p50, ms": metric("latency_p50_ms", is_short=True),
        "p95, ms": metric("latency_p95_ms", is_short=True),
        "images/s": metric("images_per_s", is_short=True),
        f"times {BASELINE}": ratio("images_per_s", "images_per_s", baseline, is_short=True),
        "images/s, 2 calls at once": metric("images_per_s_two_at_once", is_short=True),
        "times": ratio("images_per_s_two_at_once", "images_per_s", baseline, is_short=True),
        "first load, s": _first_load,
        "later loads, s": _later_loads,
        "GPU memory, MB": metric("gpu_memory_megabytes", is_short=True),
        "levels off: most, mean": _levels,
        "PSNR, dB: all, worst": _psnr,
    }
    to_files = {
        "images/s": metric("images_per_s", is_short=True),
        "the backend alone, images/s": metric("engine_images_per_s", is_short=True),
        "share": ratio("images_per_s", "engine_images_per_s", is_short=True),
        "images": lambda side: f"{max(side.values('images').values()):,}",
        "kB an image": metric("tar_kilobytes_an_image", is_short=True),
    }
    parts = [_head(run[0])]
    for columns, key in ((alone, "latency_p50_ms"), (to_files, "engine_images_per_s")):
        shown = {name: side for name, side in sides.items() if side.values(key)}
        parts.append(table(columns, shown) if shown else "")
    parts += [_reasons(sides), _conditions(run[0], max(len(side.rounds) for side in sides.values()))]
    return "\n\n".join(part for part in parts if part) + "\n"


def last_run(lines: Iterable[str]) -> list[Line]:
    """Return the lines of the run that began last."""
    read: list[Line] = [line for text in lines if text.strip() if (line := json.loads(text))["benchmark"] == BENCHMARK]
    if not read:
        raise ValueError("there is no line of gpu.py in the file; run: python benchmarks/gpu.py all")
    return [line for line in read if line["run"] == read[-1]["run"]]


def read_sides(run: Sequence[Line]) -> dict[str, Side]:
    """Collect a run's lines by side, in the order of the matrix."""
    sides = {name: Side() for name in run[0]["sides"]}
    for line in run:
        sides[line["side"]].add(line["round"], line["metrics"], line["reason"])
    return sides


def _head(line: Line) -> str:
    shrunk = "" if line["device"] == "cuda" else " **On the CPU: a rehearsal of the command, no measurement of a GPU.**"
    return (
        f"Network of random weights, ngf {line['ngf']}, {line['size']}x{line['size']}; bytes in memory to bytes in "
        f"memory, copies to the GPU and back included.{shrunk}"
    )


def _first_load(side: Side) -> str:
    loads, built = (list(side.values(name).values()) for name in ("load_s", "build_s"))
    return number(loads[0]) + (f" ({number(built[0])} of them to build the plan)" if built else "")


def _later_loads(side: Side) -> str:
    later = list(side.values("load_s").values())[1:]
    return format_statistic(summarize(later) if later else None, is_short=True)


def _parity(side: Side) -> Mapping[str, Any]:
    """Return parity of the round that is farthest off."""
    return max((one["parity"] for one in side.rounds.values()), key=lambda p: (p["max_levels"], p["mean_levels"]))


def _levels(side: Side) -> str:
    if not all(one["parity"].get("is_finite", True) for one in side.rounds.values()):
        return "**pixels that are not finite**"
    worst = _parity(side)
    return f"{worst['max_levels']}, {worst['mean_levels']:.3g}"


def _psnr(side: Side) -> str:
    worst = _parity(side)
    if worst["max_levels"] == 0:
        return "equal"
    return f"{worst['psnr_db']:.1f}, {worst['worst_psnr_db']:.1f} ({worst['worst_mask']})"


def _reasons(sides: Mapping[str, Side]) -> str:
    lines = [f"- not measured: {name}: {side.reason}" for name, side in sides.items() if side.reason is not None]
    for name, side in sides.items():
        for reason in dict.fromkeys(one.get("reason_two_at_once") for one in side.rounds.values()):
            lines += [] if reason is None else [f"- not measured: {name}, 2 calls at once: {reason}"]
    lines += [f"- not reached: {name}" for name, side in sides.items() if not side.rounds and side.reason is None]
    return "\n".join(lines)


def _conditions(line: Line, round_count: int) -> str:
    given, cuda = line["conditions"], line["cuda"]
    driver = "" if given["gpu"] is None else f"driver {given['gpu']['driver']}, "
    facts = [
        f"{cuda['name']} (compute capability {cuda['compute_capability']}), {driver}CUDA {cuda['cuda']}"
        if line["device"] == "cuda"
        else "no GPU",
        f"PyTorch for CUDA {cuda['torch_cuda']}, cuDNN {cuda['torch_cudnn']}"
        if cuda["torch_cuda"]
        else "PyTorch without CUDA",
        f"{given['cpu']}, {plural(given['cpus'], 'usable CPU')}, {cuda['system']}",
        f"{round_count} of {plural(line['repeats'], 'round')}, about {line['seconds']:g} s a measurement",
        f"Python {given['python']}, " + ", ".join(f"{name} {given[name]}" for name in _VERSIONS if given.get(name)),
        f"`{line['command']}`",
    ]
    return (
        "Values are medians over rounds (lowest..highest), ratios are taken within rounds. fp32 of PyTorch has TF32 "
        "off. First loads build, compile or tune what later ones find kept. Memory is what is in use on the whole "
        f"GPU. Parity is to {line['expected']}. Conditions: {'; '.join(facts)}."
    )
