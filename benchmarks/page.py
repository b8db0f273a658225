"""Lines of JSON of benchmarks/cpu.py to docs/benchmarks.md and its plots: the latest line of each part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import plots

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
    """The last line of each part; of `engines` the last of each width, the widest first."""
    found: dict[str, dict[int, Line]] = {}
    for text in lines:
        line = json.loads(text)
        kind, _, part = line["benchmark"].partition(" ")
        if kind == "cpu":
            key = line["ngf"] if part == "engines" else 0
            found.setdefault(part, {})[key] = line
    return {part: [by_key[key] for key in sorted(by_key, reverse=True)] for part, by_key in found.items()}


def conditions(line: Line, *more: str) -> str:
    """A paragraph: what the figures of a line hold for."""
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


def format_median(figure: Statistic) -> str:
    """Median (lowest..highest)."""
    return f"{number(figure.median)} ({number(figure.lowest)}..{number(figure.highest)})"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"\n## {title}", *(part for part in parts if part)]) + "\n"


def _picture(name: str, title: str) -> str:
    return f"![{title}]({name})"


def _reasons(line: Line) -> str:
    return "\n".join(f"- not measured: {name}: {reason}" for name, reason in line["reasons"].items())


def _cell(side: Mapping[str, Any], name: str) -> str:
    """A figure of a side; a dash where it was not measured."""
    values = side.get(name)
    return format_median(summarize(values)) if values and None not in values else "-"


def _ratio(line: Line, side: str) -> str:
    median, lowest, highest = line["over_the_first"][side]
    return format_median(Statistic(median, lowest, highest))


def _first(sides: Mapping[str, Any]) -> str:
    return next(iter(sides), "nothing")


def _engines(line: Line, picture: str) -> str:
    sides = line["sides"]
    rows = [
        (
            name,
            _cell(side, "images_per_s"),
            _ratio(line, name),
            _cell(side, "latency_p50_ms"),
            _cell(side, "load_s"),
            _cell(side, "peak_memory_megabytes"),
            f"{side['streams']} x {side['threads']}",
        )
        for name, side in sides.items()
    ]
    headings = (
        "way",
        "images/s",
        f"times {_first(sides)}",
        "one image, p50, ms",
        "load, s",
        "peak memory, MB",
        "calls x threads",
    )
    psnr = ", ".join(f"{name} {value:.1f} dB" for name, value in line["psnr_db"].items())
    return _section(
        f"The engine alone, ngf {line['ngf']}",
        "Masks in memory to images in memory, bytes to bytes, `benchmarks/cpu.py engines`. The first row is the "
        "network of today's "
        "loop. Plain exports are what PyTorch's exporter writes, transposed convolutions and all, one call at a time; "
        "m2l's ways make as many calls at once as `m2l synth` does. A single image is timed with one call at a time "
        "and all "
        "threads. Loading goes from the file to the first result, imports not counted, compilation counted.",
        _table(headings, rows),
        _reasons(line),
        f"Fidelity to fp32 of these files: {psnr}." if psnr else "",
        conditions(line, f"{plural(line['repeats'], 'round')}, about {line['seconds']:g} s a measurement"),
        _picture(picture, "Images/s of each way"),
    )


def _end_to_end(line: Line, picture: str) -> str:
    sides = line["sides"]
    rows = []
    for name, side in sides.items():
        alone = side.get("engine_images_per_s")
        share = format_median(summarize_ratio(side["images_per_s"], alone)) if alone else "-"
        cells = (_cell(side, key) for key in ("images_per_s", "engine_images_per_s", "file_kilobytes"))
        rate, engine, size = cells
        rows.append((name, rate, _ratio(line, name), engine, share, size))
    headings = (
        "way",
        "images/s",
        f"times {_first(sides)}",
        "its engine alone, images/s",
        "engine's share of the time",
        "kB a file",
    )
    return _section(
        f"Mask files to image files, ngf {line['ngf']}",
        f"Drawn masks of {line['mask_side']}x{line['mask_side']} to lossless files of 256x256, `benchmarks/cpu.py "
        "end-to-end`; "
        f"`m2l synth` writes {line['encoding']} unless the row says otherwise. Loading is not counted. The engine "
        "alone is "
        "measured in the same process, on the same masks in memory; its share is its time over that of all.",
        _table(headings, rows),
        _reasons(line),
        conditions(
            line,
            f"{plural(line['repeats'], 'round')} of {line['masks']} masks, {line['masks_of_todays_loop']} in today's "
            "loop",
        ),
        _picture(picture, "Images/s from files to files"),
    )


def _first_image(line: Line, picture: str) -> str:
    sides = line["sides"]
    rows = [(name, _cell(side, "seconds"), _ratio(line, name), side["engine"]) for name, side in sides.items()]
    return _section(
        "From a cold process to the first image",
        f"From the start of Python to the bytes of one PNG, with the model inside the package (ngf {line['ngf']}) "
        "and, for PyTorch, a "
        "checkpoint of the same network, `benchmarks/cpu.py first-image`. Files are in the system's memory. "
        "`compiled model "
        "kept` is OpenVINO with a folder that it keeps compiled models in (CACHE_DIR), which m2l does not use.",
        _table(("way", "s", f"times as soon as {_first(sides)}", "engine"), rows),
        _reasons(line),
        conditions(line, plural(line["repeats"], "round")),
        _picture(picture, "Seconds to the first image"),
    )


def _growth(line: Line, picture: str) -> str:
    def series(name: str, heading: str) -> str:
        found = line[name]
        places = sorted({int(place) for candidate in found.values() for place in candidate})
        rows = [
            (
                candidate,
                *(format_median(summarize(values[str(place)])) if str(place) in values else "-" for place in places),
            )
            for candidate, values in found.items()
        ]
        return _table((heading, *map(str, places)), rows)

    return _section(
        "How cost grows",
        "`benchmarks/cpu.py growth`; few rounds, so read trends.",
        f"Images/s of the engine alone by batch size, ngf {line['ngf']}:",
        series("images_per_s_by_batch_size", "batch size"),
        "Images/s of the engine alone by width, batch 1:",
        series("images_per_s_by_ngf", "ngf"),
        f"Seconds from the start of a process until so many mask files are image files, ngf {line['ngf_of_counts']}:",
        series("seconds_by_image_count", "images"),
        _reasons(line),
        conditions(line, plural(line["repeats"], "round")),
        _picture(picture, "Growth by batch size, width and number of images"),
    )


def _forms(line: Line, picture: str) -> str:
    candidates = list(line["layers"][0]["ms"])
    headings = ["layer"]
    for candidate in candidates:
        headings += [f"{candidate}: deconvolution, ms", "sub-pixel, ms", "deconvolution / sub-pixel"]
    rows = []
    for layer in line["layers"]:
        cells = [layer["layer"]]
        for candidate in candidates:
            given = layer["ms"][candidate]
            both = [given.get(form) for form in ("deconvolution", "sub-pixel")]
            cells += [number(summarize(ms).median) if ms else "-" for ms in both]
            cells.append(format_median(summarize_ratio(both[0], both[1])) if both[0] and both[1] else "-")
        rows.append(cells)
    whole = line["networks"]
    variants = list(dict.fromkeys(name for candidate in whole.values() for name in candidate))
    base = variants[0] if variants else ""
    networks = []
    for variant in variants:
        cells = [variant]
        for given in whole.values():
            has_both = variant in given and base in given
            cells += [
                format_median(summarize(given[variant])) if variant in given else "-",
                format_median(summarize_ratio(given[variant], given[base])) if has_both else "-",
            ]
        networks.append(cells)
    return _section(
        f"Transposed convolutions or their sub-pixel form, ngf {line['ngf']}",
        "The same layer in two forms (m2l_export/deploy.py), `benchmarks/cpu.py forms`. Each upsampling layer alone, "
        "with the ReLU before and "
        "the norm after it; milliseconds an image, as many calls at once as `m2l synth` makes. Above 1, the "
        "sub-pixel form "
        "is faster. int8 has no choice: engines have no integer kernel for transposed convolutions.",
        _table(headings, rows),
        f"Whole networks, images/s, and times those of `{base}`:",
        _table(["form", *(text for candidate in whole for text in (f"{candidate}, images/s", "times"))], networks),
        _reasons(line),
        conditions(line, plural(line["repeats"], "round")),
        _picture(picture, "Deconvolution against sub-pixel form, by layer and in whole networks"),
    )


def _encoders(line: Line, picture: str) -> str:
    words = {True: "yes", False: "no", None: "another reader's"}
    rows = [
        (
            name,
            format_median(summarize(candidate["cpu_ms"])),
            format_median(Statistic(*candidate["over_the_first"])),
            f"{candidate['bytes'] / 1e3:.1f}",
            words[candidate["is_lossless"]],
        )
        for name, candidate in line["ways"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    return _section(
        "Encoders",
        f"CPU time of one thread an image of {line['image_side']}x{line['image_side']}, {line['images']} images of "
        "the model inside the package, `benchmarks/cpu.py encoders`. Libraries that m2l does not need are measured "
        "with `--codecs PYTHON`, the Python of an environment of their own: `pip install numpy pillow msgspec "
        "imagecodecs opencv-python-headless fpng simplejpeg`. "
        "`runs alone` and `Huffman alone` are zlib's Z_RLE and Z_HUFFMAN_ONLY; `NumPy and zlib` filters all rows "
        "alike, by the pixel above or "
        "by the mean of it and the one on the left.",
        _table(("way", "CPU ms", f"times as fast as {_first(line['ways'])}", "kB", "lossless"), rows),
        _reasons(line),
        conditions(line, plural(line["repeats"], "round"), versions),
        _picture(picture, "CPU time of lossless encoders"),
    )


def _profile(line: Line, picture: str) -> str:
    giga = line["giga_multiplications"]
    summary, kinds = [], []
    for candidate, found in line["ways"].items():
        medians = {kind: summarize(ms).median for kind, ms in found["ms_by_kind"].items()}
        convolution_ms = sum(ms for kind, ms in medians.items() if plots.group_of(kind) == plots.CONVOLUTIONS)
        latency = summarize(found["latency_p50_ms"])
        peak = summarize(found["peak_giga_multiplications_per_s"])
        rate = giga / convolution_ms * 1e3 if convolution_ms else 0.0
        summary.append(
            (
                candidate,
                format_median(latency),
                number(convolution_ms),
                number(rate),
                format_median(peak),
                f"{rate / peak.median:.0%}",
                f"{giga / latency.median * 1e3 / peak.median:.0%}",
            )
        )
        total = sum(medians.values())
        kinds += [
            (candidate, kind, number(ms), f"{ms / total:.0%}")
            for kind, ms in medians.items()
            if ms >= _SHOWN_SHARE * total
        ]
    threads = next(iter(line["ways"].values()))["threads"] if line["ways"] else 0
    return _section(
        f"Where the time goes, ngf {line['ngf']}",
        f"One image and one call at a time on {plural(threads, 'thread')}, `benchmarks/cpu.py profile`: what the "
        "engines' own profilers say of the quickest of some calls, and the peak that the same engine reaches in the "
        "same precision with large 1x1 convolutions, which are matrix products and nothing else. An image takes "
        f"{giga:.2f} x 10^9 multiplications in its fp32 file.",
        _table(
            (
                "way",
                "one image, p50, ms",
                "convolutions, ms",
                "10^9 multiplications/s in them",
                "measured peak",
                "convolutions reach",
                "the whole call reaches",
            ),
            summary,
        ),
        _table(("way", "kind of operator", "ms", "share"), kinds),
        _reasons(line),
        conditions(line, plural(line["repeats"], "round")),
        _picture(picture, "Milliseconds by kind of operator"),
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
