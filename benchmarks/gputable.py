"""Write the last run of a file of gpu.py's lines as Markdown tables, with ratios within its rounds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from harness import format_median, markdown_table

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.report import Statistic, summarize, summarize_ratio
from m2l_runtime.bench.table import number

Line = Mapping[str, Any]
BENCHMARK: Final = "gpu"
BASELINE: Final = "PyTorch eager fp32, batch 1"
"""What ratios are to."""
_VERSIONS: Final = (
    *("m2l", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13"),
    *("numpy", "pillow"),
)


@dataclass
class Side:
    """Hold what is known of a side."""

    rounds: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Its figures by round."""
    reason: str | None = None
    """Why it has none, or no more."""

    def values(self, name: str) -> dict[int, float]:
        """Return a metric by round, where it was measured."""
        return {n: found[name] for n, found in sorted(self.rounds.items()) if found.get(name) is not None}


def as_markdown(lines: Iterable[str]) -> str:
    """Write the last run: the engine alone, files to files, what did not run and why, and the conditions.

    Raises:
        ValueError: there is no line of gpu.py.
    """
    run = last_run(lines)
    sides_by_name = sides(run)
    parts = [
        _head(run[0]),
        _alone(sides_by_name),
        _end_to_end(sides_by_name),
        _reasons(sides_by_name),
        _conditions(run[0], sides_by_name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def last_run(lines: Iterable[str]) -> list[Line]:
    """Return the lines of the run that began last."""
    read: list[Line] = [line for text in lines if text.strip() if (line := json.loads(text))["benchmark"] == BENCHMARK]
    if not read:
        raise ValueError("there is no line of gpu.py in the file; run: python benchmarks/gpu.py all")
    return [line for line in read if line["run"] == read[-1]["run"]]


def sides(run: Sequence[Line]) -> dict[str, Side]:
    """Collect a run's lines by side, in the order of the matrix."""
    found = {name: Side() for name in run[0]["sides"]}
    for line in run:
        side = found[line["side"]]
        if line["reason"] is not None:
            where = f"in round {line['round'] + 1}: " if side.rounds else ""
            side.reason = where + line["reason"]
        else:
            side.rounds[line["round"]] = line["figures"]
    return found


def ratio(side: Side, baseline: Side | None, name: str) -> Statistic | None:
    """Compare with the baseline's images/s of the same round; None where no round has both."""
    ours, theirs = side.values(name), {} if baseline is None else baseline.values("images_per_s")
    both = [one for one in ours if one in theirs]
    return summarize_ratio([ours[one] for one in both], [theirs[one] for one in both]) if both else None


def _head(line: Line) -> str:
    shrunk = "" if line["device"] == "cuda" else " **On the CPU: a rehearsal of the command, no measurement of a GPU.**"
    return (
        f"Network of random weights, ngf {line['ngf']}, {line['size']}x{line['size']}; bytes in memory to bytes in "
        f"memory, copies to the GPU and back included.{shrunk}"
    )


def _alone(found: Mapping[str, Side]) -> str:
    baseline = found.get(BASELINE)
    headings = (
        *("way", "p50, ms", "p95, ms", "images/s", f"times {BASELINE}", "images/s, 2 calls at once", "times"),
        *("first load, s", "later loads, s", "GPU memory, MB", "levels off: most, mean", "PSNR, dB: all, worst"),
    )
    rows = []
    for name, side in found.items():
        if not side.values("latency_p50_ms"):
            continue
        loads = list(side.values("load_s").values())
        rows.append(
            (
                name,
                _format_median(side, "latency_p50_ms"),
                _format_median(side, "latency_p95_ms"),
                _format_median(side, "images_per_s"),
                format_median(ratio(side, baseline, "images_per_s"), is_short=True),
                _format_median(side, "images_per_s_two_at_once"),
                format_median(ratio(side, baseline, "images_per_s_two_at_once"), is_short=True),
                number(loads[0]) + _built(side),
                format_median(summarize(loads[1:]) if loads[1:] else None, is_short=True),
                _format_median(side, "card_memory_megabytes"),
                *_parity(side),
            )
        )
    return markdown_table(headings, rows) if rows else ""


def _built(side: Side) -> str:
    built = list(side.values("build_s").values())
    return f" ({number(built[0])} of them to build the plan)" if built else ""


def _parity(side: Side) -> tuple[str, str]:
    """Of the round that is farthest off: (levels, PSNR)."""
    worst = max((one["parity"] for one in side.rounds.values()), key=lambda p: (p["max_levels"], p["mean_levels"]))
    if not all(one["parity"].get("is_finite", True) for one in side.rounds.values()):
        return "**pixels that are not finite**", "-"
    levels = f"{worst['max_levels']}, {worst['mean_levels']:.3g}"
    if worst["max_levels"] == 0:
        return levels, "equal"
    return levels, f"{worst['psnr_db']:.1f}, {worst['worst_psnr_db']:.1f} ({worst['worst_mask']})"


def _end_to_end(found: Mapping[str, Side]) -> str:
    headings = ("way", "images/s", "the backend alone, images/s", "share", "images", "kB an image")
    rows = []
    for name, side in found.items():
        rates, alone = side.values("images_per_s"), side.values("engine_images_per_s")
        if not alone:
            continue
        share = summarize_ratio(list(rates.values()), list(alone.values()))
        rest = (f"{max(side.values('images').values()):,}", _format_median(side, "tar_kilobytes_an_image"))
        rows.append(
            (
                name,
                _format_median(side, "images_per_s"),
                _format_median(side, "engine_images_per_s"),
                format_median(share, is_short=True),
                *rest,
            )
        )
    return markdown_table(headings, rows) if rows else ""


def _reasons(sides_by_name: Mapping[str, Side]) -> str:
    told_of = [
        f"- not measured: {name}: {side.reason}" for name, side in sides_by_name.items() if side.reason is not None
    ]
    for name, side in sides_by_name.items():
        for reason in dict.fromkeys(one.get("reason_two_at_once") for one in side.rounds.values()):
            told_of += [] if reason is None else [f"- not measured: {name}, 2 calls at once: {reason}"]
    told_of += [
        f"- not reached: {name}" for name, side in sides_by_name.items() if not side.rounds and side.reason is None
    ]
    return "\n".join(told_of)


def _conditions(line: Line, found: Mapping[str, Side]) -> str:
    given, cuda = line["conditions"], line["cuda"]
    driver = "" if given["card"] is None else f"driver {given['card']['driver']}, "
    facts = [
        f"{cuda['name']} (compute capability {cuda['compute_capability']}), {driver}CUDA {cuda['cuda']}"
        if line["device"] == "cuda"
        else "no GPU",
        f"PyTorch for CUDA {cuda['torch_cuda']}, cuDNN {cuda['torch_cudnn']}"
        if cuda["torch_cuda"]
        else "PyTorch without CUDA",
        f"{given['cpu']}, {plural(given['cpus'], 'usable CPU')}, {cuda['system']}",
        f"{_max_rounds(found)} of {plural(line['repeats'], 'round')}, about {line['seconds']:g} s a measurement",
        f"Python {given['python']}, " + ", ".join(f"{name} {given[name]}" for name in _VERSIONS if given.get(name)),
        f"`{line['command']}`",
    ]
    return (
        "Values are medians over rounds (lowest..highest), ratios are taken within rounds. fp32 of PyTorch has TF32 "
        "off. First loads build, compile or tune what later ones find kept. Memory is what is in use on the whole "
        f"GPU. Parity is to {line['expected']}. Conditions: {'; '.join(facts)}."
    )


def _max_rounds(found: Mapping[str, Side]) -> int:
    return max((len(side.rounds) for side in found.values()), default=0)


def _format_median(side: Side, name: str) -> str:
    values = list(side.values(name).values())
    return format_median(summarize(values) if values else None, is_short=True)
