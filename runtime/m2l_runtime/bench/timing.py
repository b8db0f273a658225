"""Time calls of a backend, its images/s, and images/s from mask files to PNG files."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends.base import Backend
from m2l_runtime.bundle import embedded
from m2l_runtime.conditioning.conditions import ExtraInputs
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import synthesize_folder
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Masks

Batch = Mapping[str, npt.NDArray[Any]]
"""Inputs of one call by name, each of a backend's batch size."""

_WARM_UP: Final = 0.2
"""Of a measurement's seconds, spent ahead of it on calls that do not count: engines allocate in the first."""
_MIN_WARM_UP_CALLS: Final = 2
_MIN_CALLS: Final = 5
_MIN_CALLS_PER_STREAM: Final = 2
_MIN_ROUNDS_PER_STREAM: Final = 2
_MAX_FILES: Final = 50_000


def example_masks(image_size: tuple[int, int]) -> Masks:
    """Read the masks inside the package at a model's size: uint8 (12, H, W)."""
    return np.stack([read_mask(path, image_size).mask for path in _example_files()])


def batches(extra: ExtraInputs, masks: Masks, batch_size: int) -> list[Batch]:
    """Make inputs of as many calls as it takes to use every mask, with all that a generator takes beside them."""
    count = -(-len(masks) // batch_size)
    rows = np.arange(count * batch_size).reshape(count, batch_size) % len(masks)
    return [extra.arrays(masks[numbers]) for numbers in rows]


def latencies_ms(backend: Backend, inputs: Sequence[Batch], seconds: float) -> list[float]:
    """Time calls one at a time after a warm-up, for about `seconds`, and 5 calls at least."""
    _call(backend, inputs, _WARM_UP * seconds, _MIN_WARM_UP_CALLS)
    return _call(backend, inputs, seconds, _MIN_CALLS)


def images_per_s(backend: Backend, inputs: Sequence[Batch], seconds: float) -> float:
    """Measure images/s with as many calls at once as the backend has streams, after a warm-up.

    From the moment when all threads begin to the end of the last call; about `seconds`, and 2 calls a stream at least.
    """
    streams = backend.settings.streams
    begin = threading.Barrier(streams)

    def call_until_done() -> tuple[float, float, int]:
        try:
            _call(backend, inputs, _WARM_UP * seconds, _MIN_WARM_UP_CALLS)
        except BaseException:
            begin.abort()  # the others would wait for this thread
            raise
        begin.wait()
        began = time.perf_counter()
        count = len(_call(backend, inputs, seconds, _MIN_CALLS_PER_STREAM))
        return began, time.perf_counter(), count

    with ThreadPoolExecutor(streams, "m2l-bench") as pool:
        futures = [pool.submit(call_until_done) for _ in range(streams)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    spans = [future.result() for future in futures]
    elapsed = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return sum(count for _, _, count in spans) * backend.settings.batch_size / elapsed


def end_to_end(
    synthesizer: Synthesizer, folder: Path, seconds: float, options: OutputOptions | None = None
) -> tuple[float, int]:
    """Measure (images/s, images) from mask files to image files, as `m2l synth` makes them, after a warm-up.

    As many masks as take about `seconds`, and a whole number of batches in each stream.

    Args:
        synthesizer: what to synthesize with.
        folder: an empty folder; masks and images stay in it, the images that count in `timed-images`.
        seconds: how long it goes on.
        options: how images are written; None: as PNG files.
    """
    settings = synthesizer.settings
    at_once = settings.batch_size * settings.streams

    def count_for(images: float) -> int:
        whole = math.ceil(min(images, _MAX_FILES) / at_once)
        return at_once * max(_MIN_ROUNDS_PER_STREAM, whole)

    def make(name: str, count: int) -> float:
        lay_out_masks(folder / f"{name}-masks", count)
        return synthesize_folder(folder / f"{name}-masks", folder / f"{name}-images", synthesizer, options).images_per_s

    first = make("first", count_for(0))
    rate = make("warm", count_for(first * _WARM_UP * seconds))
    count = count_for(rate * seconds)
    return make("timed", count), count


def lay_out_masks(folder: Path, count: int) -> None:
    """Write `count` mask files into a new folder: copies of the example masks in turn, links where there are more.

    Raises:
        OSError: it exists, or cannot be written.
    """
    folder.mkdir()
    examples = _example_files()
    for number in range(count):
        example = examples[number % len(examples)]
        path, first = folder / f"{number:06}-{example.name}", folder / f"{number % len(examples):06}-{example.name}"
        if path == first:
            shutil.copyfile(example, path)
        else:
            try:
                os.link(first, path)
            except OSError:  # not every file system has links
                shutil.copyfile(example, path)


def _example_files() -> list[Path]:
    return sorted(embedded.EXAMPLE_MASKS.glob("*.png"))


def _call(backend: Backend, inputs: Sequence[Batch], seconds: float, min_calls: int) -> list[float]:
    """Return milliseconds of each call: until `seconds` have passed, and `min_calls` calls at least."""
    durations: list[float] = []
    began = end = time.perf_counter()
    while end - began < seconds or len(durations) < min_calls:
        start = time.perf_counter()
        backend.run(inputs[len(durations) % len(inputs)])
        end = time.perf_counter()
        durations.append((end - start) * 1e3)
    return durations
