"""Measure how fast, and in how much memory, a folder of masks becomes images.

    make test                                            # makes .venv
    .venv/bin/python benchmarks/bulk.py memory           # 100,000 masks of the fake backend, 10,000 of the model inside
    .venv/bin/python benchmarks/bulk.py appearance       # what an appearance costs, and weights stored in fp16

Speed from files to files, and against the engine alone: `benchmarks/cpu.py end-to-end`, and `m2l bench --streams 1,2`
for the worth of streams.

Every side runs in a process of its own; sides take turns. One line of JSON each. What is made lies in a folder that is
removed in the end.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from harness import draw_masks, in_own_process, interleave, rates, report

from m2l_runtime import OutputOptions, Result, RunCallbacks, Synthesizer, synthesize_folder
from m2l_runtime.bundle import embedded

HERE = Path(__file__)
SIDES: Final = HERE.with_name("sides.py")
app = typer.Typer(add_completion=False)


@app.command()
def appearance(
    ngf: Annotated[int, typer.Option(help="Width of the network; its weights are random.")] = 24,
    count: Annotated[int, typer.Option(help="Masks a run.")] = 200,
    repeats: Annotated[int, typer.Option(help="Runs of each side.")] = 5,
) -> None:
    """Measure networks without and with an appearance, with fp16 weights, with dropout bits, masks in memory."""
    from models import random_bundle

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_masks(root / "masks", count)
        sides = {
            "mask alone": random_bundle(root / "plain", ngf)[1],
            "appearance": random_bundle(root / "appearance", ngf, rows=1000)[1],
            "appearance, fp16 weights": random_bundle(root / "half", ngf, rows=1000, weights="fp16")[1],
            "dropout bits": random_bundle(root / "bits", ngf, stochastic=True)[1],
        }
        results = interleave(
            {name: ("engine", bundle, root / "masks") for name, bundle in sides.items()}, SIDES, repeats
        )
    median = rates(results)
    report(
        "appearance",
        ngf=ngf,
        masks=count,
        repeats=repeats,
        images_per_s={name: [round(run["images_per_s"], 2) for run in runs] for name, runs in results.items()},
        over_mask_alone={name: round(value / median["mask alone"], 3) for name, value in median.items()},
    )


@app.command()
def memory(
    fake: Annotated[int, typer.Option(help="Masks through the fake backend; 0: leave out.")] = 100_000,
    model: Annotated[int, typer.Option(help="Masks through the model inside the package; 0: leave out.")] = 10_000,
    few: Annotated[int, typer.Option(help="Masks of the small run that growth is counted from.")] = 2000,
    repeats: Annotated[int, typer.Option(help="Runs of each; the median counts.")] = 1,
) -> None:
    """Measure peak memory against the number of masks; the rest of what a process holds cancels out."""
    for backend, many in (("fake", fake), ("onnxruntime", model)):
        if many:
            _memory(backend, few, many, repeats)


def _memory(backend: str, few: int, many: int, repeats: int) -> None:
    runs: dict[tuple[int, bool], list[dict[str, Any]]] = {(c, r): [] for c in (few, many) for r in (False, True)}
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, many):
            draw_masks(Path(folder, f"masks-{count}"), count, 256)
        for repeat in range(repeats):
            for count, resumed in runs:
                place = (Path(folder, f"masks-{count}"), Path(folder, f"out-{count}-{repeat}"))
                more = ("--resume",) if resumed else ()
                runs[count, resumed].append(in_own_process(HERE, "watched", *place, backend, *more))
    for resumed in (False, True):
        small, large = (statistics.median(run["peak_bytes"] for run in runs[c, resumed]) for c in (few, many))
        report(
            "bulk memory",
            backend=backend,
            masks=many,
            few=few,
            repeats=repeats,
            resumed=resumed,
            peak_megabytes=[round(run["peak_bytes"] / 1e6, 1) for run in runs[many, resumed]],
            peak_megabytes_of_few=[round(run["peak_bytes"] / 1e6, 1) for run in runs[few, resumed]],
            bytes_a_mask=round((large - small) / (many - few), 1),
            megabytes_at_tenths=[run["megabytes_at_tenths"] for run in runs[many, resumed]],
            images_per_s=[round(run["images_per_s"], 1) for run in runs[many, resumed]],
        )


@app.command(hidden=True)
def watched(masks: Path, out: Path, backend: str, resume: bool = False) -> None:
    """Run once and watch the memory of this process."""
    page, done, seen = os.sysconf("SC_PAGE_SIZE"), 0, []
    total = 1

    def start(count: int) -> None:
        nonlocal total
        total = count

    def look(_: Result) -> None:
        nonlocal done
        done += 1
        if done % max(1, total // 10) == 0:
            seen.append(round(int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6, 1))

    options, callbacks = OutputOptions(pairs=True), RunCallbacks(on_start=start, on_result=look)
    with Synthesizer.open(embedded.BUNDLE, backend=backend, streams=None) as synthesizer:
        summary = synthesize_folder(masks, out, synthesizer, options, resume=resume, callbacks=callbacks)
    count = summary.kept_count if resume else summary.image_count
    assert count == total  # noqa: S101 - a run that made less has nothing to say about memory
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    facts = {"peak_bytes": peak, "megabytes_at_tenths": seen, "images_per_s": count / summary.seconds}
    print(json.dumps(facts))


if __name__ == "__main__":
    app()
