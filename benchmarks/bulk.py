"""Measure how fast, and in how much memory, folders of very many masks become images.

    make test                                            # makes .venv
    .venv/bin/python benchmarks/bulk.py memory           # 100,000 masks of the fake backend, 10,000 of the model inside

Runs are those of `m2l synth --pairs`, in processes of their own, each then resumed with everything kept. Growth of peak
memory is from a small run to the large one: the rest of what a process holds cancels out. Prints lines of JSON. Speed
against PyTorch: `benchmarks/cpu.py`; worth of streams: `m2l bench --streams 1,2`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from harness import as_columns, measure_side, reasons, record, take_turns

from m2l_runtime import OutputOptions, Result, RunCallbacks, Synthesizer, synthesize_folder
from m2l_runtime._utils.cpu import peak_memory_megabytes
from m2l_runtime.bench.timing import lay_out_masks
from m2l_runtime.bundle import embedded

HERE = Path(__file__)
app = typer.Typer(add_completion=False)


@app.command()
def memory(
    fake: Annotated[int, typer.Option(help="Masks through the fake backend; 0: leave out.")] = 100_000,
    model: Annotated[int, typer.Option(help="Masks through the model inside the package; 0: leave out.")] = 10_000,
    few: Annotated[int, typer.Option(help="Masks of the small run that growth is counted from.")] = 2000,
    repeats: Annotated[int, typer.Option(help="Runs of each.")] = 1,
) -> None:
    """Measure images/s, and peak memory against the number of masks."""
    for backend, many in (("fake", fake), ("onnxruntime", model)):
        if many:
            _measure(backend, few, many, repeats)


def _measure(backend: str, few: int, many: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        for count in (few, many):
            lay_out_masks(Path(temporary, f"masks-{count}"), count)
        runs = {
            f"{count} masks{suffix}": ("run", Path(temporary, f"masks-{count}"), Path(temporary, f"out-{count}"), *more)
            for count in (few, many)
            for suffix, more in (("", ("--overwrite",)), (", resumed", ("--resume",)))
        }
        sides = take_turns(
            {name: measure_side(name, *words, "--backend", backend, script=HERE) for name, words in runs.items()},
            repeats,
        )
    growth = {}
    for suffix in ("", ", resumed"):
        small, large = (sides[f"{count} masks{suffix}"].statistic("peak_megabytes") for count in (few, many))
        if small is not None and large is not None:
            growth[f"{many} masks{suffix}"] = round((large.median - small.median) * 1e6 / (many - few), 1)
    facts = {"backend": backend, "masks": many, "few": few, "repeats": repeats, "bytes_a_mask": growth}
    record(None, "bulk memory", **facts, sides=as_columns(sides), reasons=reasons(sides))


@app.command(hidden=True)
def run(masks: Path, out: Path, backend: str = "fake", resume: bool = False, overwrite: bool = False) -> None:
    """Run once, and watch the memory of this process."""
    page, total, megabytes, done = os.sysconf("SC_PAGE_SIZE"), len(list(masks.iterdir())), list[float](), 0

    def look(_: Result) -> None:
        nonlocal done
        done += 1
        if done % max(1, total // 10) == 0:
            megabytes.append(round(int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6, 1))

    options, callbacks = OutputOptions(pairs=True), RunCallbacks(on_result=look)
    with Synthesizer.open(embedded.BUNDLE, backend=backend, streams=None) as synthesizer:
        summary = synthesize_folder(
            masks, out, synthesizer, options, resume=resume, overwrite=overwrite, callbacks=callbacks
        )
    count = summary.kept_count if resume else summary.image_count
    if count != total:
        sys.exit(f"{count} images of {total} masks: a run that wrote less has nothing to say about memory")
    facts = {"peak_megabytes": peak_memory_megabytes(), "megabytes_at_tenths": megabytes}
    print(json.dumps(facts | {"images_per_s": count / summary.seconds}))


if __name__ == "__main__":
    app()
