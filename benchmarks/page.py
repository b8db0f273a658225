"""Write docs/benchmarks.md and its plots from lines of JSON of benchmarks/cpu.py: the latest line of each part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import plots
from harness import format_median, markdown_table

from m2l_runtime._utils.text import plural
from m2l_runtime.bench.report import Statistic, summarize, summarize_ratio
from m2l_runtime.bench.table import number

Line = Mapping[str, Any]
NAME: Final = "benchmarks"
_VERSIONS: Final = ("m2l", "torch", "onnxruntime", "openvino", "numpy", "pillow")
_SHOWN_SHARE: Final = 0.01
"""Of a call's time, below which a kind of operator is not listed by itself."""

_HEAD: Final = """# Benchmarks

How fast m2l is on CPUs, from the engine alone to files on disk, and against the loop of the original's test. This page
and its plots are written by

```
.venv/bin/python benchmarks/cpu.py page
```

from the latest line of each part in `benchmarks/results/cpu.jsonl`, where every round's figures are. To measure again,
on a machine that does nothing else (`make test` makes the environment):

```
.venv/bin/python benchmarks/cpu.py all
.venv/bin/python benchmarks/cpu.py page
```

A part alone: its name in place of `all`. `m2l bench` measures any bundle likewise ([bench.md](bench.md)).

**How to read it.** In each round every side runs once, in a process of its own, in another order each round. A figure
is the median over rounds (lowest..highest); a ratio is taken within each round, then the median of those. Only ratios
are claims, and for the machine and versions named. The networks are unet_256 at 256x256 with random weights (seed 0):
speed does not depend on their values. int8 and bf16 files come of
`m2l export --precision fp32,bf16,int8 --calibrate shapes:200` with limits low enough that every convolution is in int8;
a trained network may need some left in float, which costs speed ([engines.md](engines.md)).
"""


def write_page(results: Path, docs: Path) -> list[Path]:
    """Write the page and a plot for each part that has a line.

    Args:
        results: lines of JSON.
        docs: folder.

    Returns:
        What was written.
    """
    lines = latest(results.read_text().splitlines())
    text, written = [_HEAD], []
    for part, (tell, draw) in PARTS.items():
        for line in lines.get(part, ()):
            suffix = f"-ngf{line['ngf']}" if len(lines[part]) > 1 else ""
            picture = docs / f"{NAME}-{part}{suffix}.png"
            picture.write_bytes(draw(line))
            written.append(picture)
            text.append(tell(line, picture.name))
    page = docs / f"{NAME}.md"
    page.write_text("\n".join(text))
    return [page, *written]


def latest(lines: Iterable[str]) -> dict[str, list[Line]]:
    """Return the last line of each part; of `engines` the last of each width, the widest first."""
    found: dict[str, dict[int, Line]] = {}
    for text in lines:
        line = json.loads(text)
        kind, _, part = line["benchmark"].partition(" ")
        if kind == "cpu":
            key = line["ngf"] if part == "engines" else 0
            found.setdefault(part, {})[key] = line
    return {part: [by_key[key] for key in sorted(by_key, reverse=True)] for part, by_key in found.items()}


def conditions(line: Line, *more: str) -> str:
    """Write the paragraph of what the values of a line hold for."""
    given = line["conditions"]
    words = ", ".join(name.replace("_", " ").upper() for name in given["instructions"])
    versions = ", ".join(f"{name} {given[name]}" for name in _VERSIONS if given.get(name))
    rehearsal = "**A rehearsal (`--quick`), not a measurement.** " if line.get("is_rehearsal") else ""
    facts = "; ".join(
        [
            f"{given['cpu']} ({words}), {plural(given['cpus'], 'usable CPU')}",
            f"load average {line['load_average_before']:g} before",
            *more,
            f"Python {given['python']}, {versions}",
        ]
    )
    return f"{rehearsal}Conditions: {facts}."


def _section(line: Line, title: str, picture: tuple[str, str], *parts: str, note: str = "", more: Sequence[str]) -> str:
    """Put a section together: its parts, what was not measured, a note, the conditions, the picture (name, title)."""
    reasons = "\n".join(f"- not measured: {name}: {reason}" for name, reason in line["reasons"].items())
    parts = (f"\n## {title}", *parts, reasons, note, conditions(line, *more), f"![{picture[1]}]({picture[0]})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _values(values: Sequence[float] | None) -> str:
    """Write the median of what rounds gave; a dash where they gave nothing."""
    return format_median(summarize(values) if values and None not in values else None)


def _ratio(line: Line, side: str) -> str:
    return format_median(Statistic(*line["over_the_first"][side]))


def _ratio_of(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> str:
    return format_median(summarize_ratio(ours, theirs) if ours and theirs else None)


def _rounds(line: Line) -> str:
    return plural(line["repeats"], "round")


def _engines(line: Line, picture: str) -> str:
    sides = line["sides"]
    headings = ("way", "images/s", f"times {next(iter(sides))}", "one image, p50, ms", "load, s", "peak memory, MB")
    columns = ("latency_p50_ms", "load_s", "peak_memory_megabytes")
    rows = [
        (
            *(name, _values(side["images_per_s"]), _ratio(line, name), *(_values(side.get(key)) for key in columns)),
            f"{side['streams']} x {side['threads']}",
        )
        for name, side in sides.items()
    ]
    psnr = ", ".join(f"{name} {value:.1f} dB" for name, value in line["psnr_db"].items())
    return _section(
        line,
        f"The engine alone, ngf {line['ngf']}",
        (picture, "Images/s of each way"),
        "Masks in memory to images in memory, bytes to bytes, `benchmarks/cpu.py engines`. The first row is the "
        "network of today's loop. Plain exports are what PyTorch's exporter writes, transposed convolutions and all, "
        "one call at a time; m2l's ways make as many calls at once as `m2l synth` does. A single image is timed with "
        "one call at a time and all threads. Loading goes from the file to the first result, imports not counted, "
        "compilation counted.",
        markdown_table((*headings, "calls x threads"), rows),
        note=f"Fidelity to fp32 of these files: {psnr}." if psnr else "",
        more=(f"{_rounds(line)}, about {line['seconds']:g} s a measurement",),
    )


def _end_to_end(line: Line, picture: str) -> str:
    sides = line["sides"]
    rows = [
        (
            *(name, _values(side["images_per_s"]), _ratio(line, name), _values(side.get("engine_images_per_s"))),
            *(_ratio_of(side["images_per_s"], side.get("engine_images_per_s")), _values(side.get("file_kilobytes"))),
        )
        for name, side in sides.items()
    ]
    headings = ("way", "images/s", f"times {next(iter(sides))}", "its engine alone, images/s")
    masks = f"{_rounds(line)} of {line['masks']} masks, {line['masks_of_todays_loop']} in today's loop"
    return _section(
        line,
        f"Mask files to image files, ngf {line['ngf']}",
        (picture, "Images/s from files to files"),
        f"Drawn masks of {line['mask_side']}x{line['mask_side']} to lossless files of 256x256, `benchmarks/cpu.py "
        f"end-to-end`; `m2l synth` writes {line['encoding']} unless the row says otherwise. Loading is not counted. "
        "The engine alone is measured in the same process, on the same masks in memory; its share is its time over "
        "that of all.",
        markdown_table((*headings, "engine's share of the time", "kB a file"), rows),
        more=(masks,),
    )


def _first_image(line: Line, picture: str) -> str:
    sides = line["sides"]
    rows = [(name, _values(side["seconds"]), _ratio(line, name), side["engine"]) for name, side in sides.items()]
    return _section(
        line,
        "From a cold process to the first image",
        (picture, "Seconds to the first image"),
        f"From the start of Python to the bytes of one PNG, with the model inside the package (ngf {line['ngf']}) "
        "and, for PyTorch, a checkpoint of the same network, `benchmarks/cpu.py first-image`. Files are in the "
        "system's memory. `compiled model kept` is OpenVINO with a folder that it keeps compiled models in "
        "(CACHE_DIR), which m2l does not use.",
        markdown_table(("way", "s", f"times as soon as {next(iter(sides))}", "engine"), rows),
        more=(_rounds(line),),
    )


def _growth(line: Line, picture: str) -> str:
    def series(name: str, heading: str) -> str:
        found = line[name]
        places = sorted({int(place) for values in found.values() for place in values})
        rows = [(side, *(_values(values.get(str(place))) for place in places)) for side, values in found.items()]
        return markdown_table((heading, *map(str, places)), rows)

    return _section(
        line,
        "How cost grows",
        (picture, "Growth by batch size, width and number of images"),
        "`benchmarks/cpu.py growth`; few rounds, so read trends.",
        f"Images/s of the engine alone by batch size, ngf {line['ngf']}:",
        series("images_per_s_by_batch_size", "batch size"),
        "Images/s of the engine alone by width, batch 1:",
        series("images_per_s_by_ngf", "ngf"),
        f"Seconds from the start of a process until so many mask files are image files, ngf {line['ngf_of_counts']}:",
        series("seconds_by_image_count", "images"),
        more=(_rounds(line),),
    )


def _forms(line: Line, picture: str) -> str:
    headings, rows = ["layer"], []
    for name in line["layers"][0]["ms"]:
        headings += [f"{name}: deconvolution, ms", "sub-pixel, ms", "deconvolution / sub-pixel"]
    for layer in line["layers"]:
        rows.append([layer["layer"]])
        for given in layer["ms"].values():
            both = [given.get(form) for form in ("deconvolution", "sub-pixel")]
            rows[-1] += [number(summarize(ms).median) if ms else "-" for ms in both] + [_ratio_of(*both)]
    whole = line["networks"]
    variants = list(dict.fromkeys(name for given in whole.values() for name in given))
    base = variants[0] if variants else ""
    networks = [[name] for name in variants]
    for row in networks:
        for given in whole.values():
            row += [_values(given.get(row[0])), _ratio_of(given.get(row[0]), given.get(base))]
    columns = ["form", *(text for name in whole for text in (f"{name}, images/s", "times"))]
    return _section(
        line,
        f"Transposed convolutions or their sub-pixel form, ngf {line['ngf']}",
        (picture, "Deconvolution against sub-pixel form, by layer and in whole networks"),
        "The same layer in two forms (m2l_export/deploy.py), `benchmarks/cpu.py forms`. Each upsampling layer alone, "
        "with the ReLU before and the norm after it; milliseconds an image, as many calls at once as `m2l synth` "
        "makes. Above 1, the sub-pixel form is faster. int8 has no choice: engines have no integer kernel for "
        "transposed convolutions.",
        markdown_table(headings, rows),
        f"Whole networks, images/s, and times those of `{base}`:",
        markdown_table(columns, networks),
        more=(_rounds(line),),
    )


def _encoders(line: Line, picture: str) -> str:
    words = {True: "yes", False: "no", None: "another reader's"}
    ways = line["ways"]
    rows = [
        (
            *(name, _values(one["cpu_ms"]), format_median(Statistic(*one["over_the_first"]))),
            *(f"{one['bytes'] / 1e3:.1f}", words[one["is_lossless"]]),
        )
        for name, one in ways.items()
    ]
    return _section(
        line,
        "Encoders",
        (picture, "CPU time of lossless encoders"),
        f"CPU time of one thread an image of {line['image_side']}x{line['image_side']}, {line['images']} images of "
        "the model inside the package, `benchmarks/cpu.py encoders`. Libraries that m2l does not need are measured "
        "with `--codecs PYTHON`, the Python of an environment of their own: `pip install numpy pillow msgspec "
        "imagecodecs opencv-python-headless fpng simplejpeg`. `runs alone` and `Huffman alone` are zlib's Z_RLE and "
        "Z_HUFFMAN_ONLY; `NumPy and zlib` filters all rows alike, by the pixel above or by the mean of it and the one "
        "on the left.",
        markdown_table(("way", "CPU ms", f"times as fast as {next(iter(ways))}", "kB", "lossless"), rows),
        more=(_rounds(line), ", ".join(f"{name} {version}" for name, version in line["versions"].items())),
    )


def _profile(line: Line, picture: str) -> str:
    giga = line["giga_multiplications"]
    summary, kinds = [], []
    for name, found in line["ways"].items():
        medians = {kind: summarize(ms).median for kind, ms in found["ms_by_kind"].items()}
        total = sum(medians.values())
        convolution_ms = sum(ms for kind, ms in medians.items() if plots.group_of(kind) == plots.CONVOLUTIONS)
        rate = giga / convolution_ms * 1e3 if convolution_ms else 0.0
        whole = giga / summarize(found["latency_p50_ms"]).median * 1e3
        peak = summarize(found["peak_giga_multiplications_per_s"])
        shares = (f"{rate / peak.median:.0%}", f"{whole / peak.median:.0%}")
        cells = (number(convolution_ms), number(rate), format_median(peak), *shares)
        summary.append((name, _values(found["latency_p50_ms"]), *cells))
        shown = {kind: ms for kind, ms in medians.items() if ms >= _SHOWN_SHARE * total}
        kinds += [(name, kind, number(ms), f"{ms / total:.0%}") for kind, ms in shown.items()]
    headings = ("way", "one image, p50, ms", "convolutions, ms", "10^9 multiplications/s in them", "measured peak")
    threads = next(iter(line["ways"].values()))["threads"] if line["ways"] else 0
    return _section(
        line,
        f"Where the time goes, ngf {line['ngf']}",
        (picture, "Milliseconds by kind of operator"),
        f"One image and one call at a time on {plural(threads, 'thread')}, `benchmarks/cpu.py profile`: what the "
        "engines' own profilers say of the quickest of some calls, and the peak that the same engine reaches in the "
        "same precision with large 1x1 convolutions, which are matrix products and nothing else. An image takes "
        f"{giga:.2f} x 10^9 multiplications in its fp32 file.",
        markdown_table((*headings, "convolutions reach", "the whole call reaches"), summary),
        markdown_table(("way", "kind of operator", "ms", "share"), kinds),
        more=(_rounds(line),),
    )


PARTS: Final[Mapping[str, tuple[Callable[[Line, str], str], Callable[[Line], bytes]]]] = {
    "engines": (_engines, plots.engines),
    "end-to-end": (_end_to_end, plots.end_to_end),
    "first-image": (_first_image, plots.first_image),
    "growth": (_growth, plots.growth),
    "forms": (_forms, plots.forms),
    "encoders": (_encoders, plots.encoders),
    "profile": (_profile, plots.profile),
}
"""In the order of the page: a line and its picture's name to a section, and a line to that picture."""
