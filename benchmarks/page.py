"""Write docs/benchmarks.md and its plots from lines of JSON of benchmarks/cpu.py: the latest line of each part."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from tables import Column, Side, compare, format_statistic, metric, ratio, table

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.report import Statistic

Line = Mapping[str, Any]
NAME: Final = "benchmarks"
WIDTH: Final = 118
"""Characters of a line of prose."""
_VERSIONS: Final = ("m2l", "torch", "onnxruntime", "openvino", "numpy", "pillow")

_HEAD: Final = """# Benchmarks

How fast m2l is on CPUs, from the engine alone to files on disk, and against the loop of the original's test. To measure
again, on a machine that does nothing else (`make test` makes the environment):

```
.venv/bin/python benchmarks/cpu.py all
.venv/bin/python benchmarks/cpu.py page
```

`all` runs `m2l bench` beside PyTorch and others, and adds a line for each part to `benchmarks/results/cpu.jsonl`, with
the values of every round. `page` writes this page and its plots from the latest line of each part.

**How to read it.**

- In each round every side runs once, in a process of its own, in another order each round.
- A value is the median over rounds (lowest..highest). A ratio is taken within each round, then the median of those.
- Only ratios are claims, and for the machine and versions named.
- The networks are unet_256 at 256x256 with random weights (seed 0): speed does not depend on their values.
- int8 and bf16 files come of `m2l export --precision fp32,bf16,int8 --calibrate shapes:200` with limits low enough that
  every convolution is in int8. A trained network may need some left in float, which costs speed
  ([engines.md](engines.md)).

`m2l bench` measures any bundle likewise ([bench.md](bench.md)), `benchmarks/gpu.py` NVIDIA GPUs ([gpu.md](gpu.md)).
Transposed convolutions, encoders, profiles and growth were measured once, for decisions
([measurements.md](measurements.md)).
"""


@dataclass(frozen=True)
class Part:
    """Describe a section of the page."""

    title: str
    """With `{ngf}`."""
    picture_title: str
    values: str
    """What is drawn, and its ratio to the first side."""
    axis: str
    columns: Mapping[str, Column]
    """By heading; the ratio comes after the first."""
    ratio_heading: str = "times {first}"
    is_inverse: bool = False
    """Whether less is better."""


def _calls(side: Side) -> str:
    last = side.rounds[0]
    return f"{last['streams']} x {last['threads']}"


PARTS: Final[Mapping[str, Part]] = {
    "engines": Part(
        "The engine alone, ngf {ngf}",
        "Images/s of each configuration",
        "images_per_s",
        "images/s (more is better)",
        {
            "images/s": metric("images_per_s"),
            "one image, p50, ms": metric("latency_p50_ms"),
            "load, s": metric("load_s"),
            "peak memory, MB": metric("peak_memory_megabytes"),
            "calls x threads": _calls,
        },
    ),
    "end-to-end": Part(
        "Mask files to image files, ngf {ngf}",
        "Images/s from files to files",
        "images_per_s",
        "images/s (more is better); pale: its engine alone",
        {
            "images/s": metric("images_per_s"),
            "its engine alone, images/s": metric("engine_images_per_s"),
            "engine's share of the time": ratio("images_per_s", "engine_images_per_s"),
            "kB a file": metric("file_kilobytes"),
        },
    ),
    "first-image": Part(
        "From a cold process to the first image",
        "Seconds to the first image",
        "seconds",
        "seconds (less is better)",
        {"s": metric("seconds"), "engine": lambda side: str(side.rounds[0]["engine"])},
        "times as soon as {first}",
        is_inverse=True,
    ),
}
"""In the order of the page."""


def write_page(results: Path, docs: Path) -> list[Path]:
    """Write the page and a plot for each part that has a line.

    Args:
        results: lines of JSON.
        docs: folder.

    Returns:
        What was written.
    """
    from plots import plot_sides

    lines = read_latest(results.read_text().splitlines())
    page = docs / f"{NAME}.md"
    page.write_text(as_markdown(lines))
    pictures = {part: docs / picture_name(part) for part in lines}
    for part, path in pictures.items():
        path.write_bytes(plot_sides(lines[part], PARTS[part], read_sides(lines[part])))
    return [page, *pictures.values()]


def read_latest(lines: Iterable[str]) -> dict[str, Line]:
    """Return the last line of each part, in the order of the page."""
    latest: dict[str, Line] = {}
    for text in lines:
        line = json.loads(text)
        latest[line["benchmark"].removeprefix("cpu ")] = line
    return {part: latest[part] for part in PARTS if part in latest}


def read_sides(line: Line) -> dict[str, Side]:
    """Return the sides of a line, by name."""
    return {
        name: Side(
            {
                number: {key: value[number] if isinstance(value, list) else value for key, value in columns.items()}
                for number in range(line["repeats"])
            }
        )
        for name, columns in line["sides"].items()
    }


def as_markdown(lines: Mapping[str, Line]) -> str:
    """Write the page of a line for each part."""
    return "\n".join([_HEAD, *(_section(line, part) for part, line in lines.items())])


def picture_name(part: str) -> str:
    """Return the name of a part's plot."""
    return f"{NAME}-{part}.png"


def _section(line: Line, part: str) -> str:
    shown, sides = PARTS[part], read_sides(line)
    first, (heading, column), *others = next(iter(sides)), *shown.columns.items()
    baseline = sides[first].values(shown.values)

    def times(side: Side) -> str:
        statistic = compare(side.values(shown.values), baseline, is_inverse=shown.is_inverse)
        return format_statistic(statistic and Statistic(*(round(value, 3) for value in astuple(statistic))))

    columns = {heading: column, shown.ratio_heading.format(first=first): times, **dict(others)}
    psnr = ", ".join(f"{name} {value:.1f} dB" for name, value in line.get("psnr_db", {}).items())
    paragraphs = (
        f"\n## {shown.title.format(ngf=line['ngf'])}",
        _wrap(line["method"]),
        table(columns, sides),
        "\n".join(f"- not measured: {name}: {reason}" for name, reason in line["reasons"].items()),
        _wrap(f"Fidelity to fp32 of these files: {psnr}.") if psnr else "",
        _wrap(_conditions(line)),
        f"![{shown.picture_title}]({picture_name(part)})",
    )
    return "\n\n".join(text for text in paragraphs if text) + "\n"


def _conditions(line: Line) -> str:
    """Write what the values of a line hold for."""
    given = line["conditions"]
    words = ", ".join(name.replace("_", " ").upper() for name in given["instructions"])
    rehearsal = "**A rehearsal (`--quick`), not a measurement.** " if line.get("is_rehearsal") else ""
    seconds = f", about {line['seconds']:g} s a measurement" if "seconds" in line else ""
    versions = ", ".join(f"{name} {given[name]}" for name in _VERSIONS if given.get(name))
    return (
        f"{rehearsal}Conditions: {given['cpu']} ({words}), {plural(given['cpus'], 'usable CPU')}; load average "
        f"{line['load_average_before']:g} before; {plural(line['repeats'], 'round')}{seconds}; "
        f"Python {given['python']}, {versions}."
    )


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
