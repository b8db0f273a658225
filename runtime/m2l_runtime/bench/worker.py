"""Measure one row in a process of its own: the request on standard input, the answer on standard output.

    python -P -m m2l_runtime.bench.worker

What is imported here is what any program needs for its first image, so that the time to it is an honest one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

import numpy as np

from m2l_runtime._utils.cpu import peak_memory_megabytes
from m2l_runtime.backends.base import BackendOptions, ReportsBuildTime
from m2l_runtime.backends.registry import backend_module, load_backend, read_device
from m2l_runtime.bench.messages import BenchConfig, Round, WorkerRequest, WorkerResponse, decode, encode
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.errors import M2LError
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.output.encoding import encode_png, self_description
from m2l_runtime.synthesizer import Synthesizer

COMMAND: Final = (sys.executable, "-P", "-m", "m2l_runtime.bench.worker")


def main() -> None:
    """Answer the request on standard input, and exit."""
    answers = _reserve_stdout()
    request = decode(json.loads(_read_line()), WorkerRequest)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.write(answers, encode(answer(request)))
    os._exit(0)  # an engine that fails while it is taken down does not take the answer with it


def answer(request: WorkerRequest) -> WorkerResponse:
    """Measure what is asked. Whatever goes wrong is the reason why there is nothing."""
    try:
        return measure(request)
    except M2LError as error:
        return WorkerResponse(reason=str(error))
    except MemoryError:
        return WorkerResponse(reason="there is too little memory: try a smaller batch size, or fewer streams")
    except Exception as error:  # noqa: BLE001 - one row's failure is told in its place and spoils no other
        return WorkerResponse(reason=f"unexpected {type(error).__name__}: {error}")


def measure(request: WorkerRequest) -> WorkerResponse:
    """Load, make a first image, time calls one by one, then images/s alone and end to end.

    Raises:
        BundleError, EngineError: the bundle cannot be used, or not in this way here.
    """
    config = request.config
    backend_module(config.backend)
    began = time.perf_counter()
    bundle = open_bundle(request.bundle)
    backend = load_backend(bundle, config.backend, _options(config, streams=1))
    load_s = time.perf_counter() - began
    with Synthesizer(bundle, backend) as synthesizer:
        make_one(synthesizer)
        first_image_s = time.monotonic() - request.started_at_s

        from m2l_runtime.bench import timing

        inputs = timing.batches(synthesizer.extra, timing.example_masks(synthesizer.image_size), config.batch_size)
        latencies_ms = timing.latencies_ms(backend, inputs, request.seconds)
        latency_settings = backend.settings
    build_s = backend.build_s if isinstance(backend, ReportsBuildTime) else None
    del backend, synthesizer  # what was loaded twice is not held twice
    used_before = _gpu_memory(latency_settings.device)
    backend = load_backend(bundle, config.backend, _options(config, streams=config.streams))
    with Synthesizer(bundle, backend) as synthesizer:
        rate = timing.images_per_s(backend, inputs, request.seconds)
        end_to_end_rate, count = timing.end_to_end(synthesizer, Path(request.folder), request.seconds)
        used_after = _gpu_memory(latency_settings.device)
    p50, p95, p99 = np.percentile(latencies_ms, [50, 95, 99]).tolist()
    measured = Round(
        load_s=load_s,
        first_image_s=first_image_s,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        latency_call_count=len(latencies_ms),
        images_per_s=rate,
        end_to_end_images_per_s=end_to_end_rate,
        end_to_end_image_count=count,
        peak_memory_megabytes=peak_memory_megabytes(),
        build_s=build_s,
        device_memory_megabytes=None
        if used_before is None or used_after is None
        else max(0, used_after - used_before) / 1e6,
    )
    return WorkerResponse(measured, latency_settings, backend.settings, backend.notes)


def make_one(synthesizer: Synthesizer) -> bytes:
    """Synthesize the image of an example mask's file as PNG bytes."""
    path = min(embedded.EXAMPLE_MASKS.glob("*.png"))
    mask = read_mask(path, synthesizer.image_size).mask
    image = synthesizer.synthesize_checked(mask[None])[0]
    return encode_png(image, self_description(synthesizer.bundle, synthesizer.settings))


def _gpu_memory(device: str) -> int | None:
    """Return bytes in use on the GPU; None on a CPU."""
    kind, index = read_device(device)
    if kind != "cuda":
        return None
    from m2l_runtime.backends.cuda.devices import memory_in_use_bytes

    return memory_in_use_bytes(index)


def _options(config: BenchConfig, streams: int | None) -> BackendOptions:
    return BackendOptions(
        device=config.device,
        precision=config.precision,
        batch_size=config.batch_size,
        threads=config.threads,
        streams=streams,
        trust_plans=config.trust_plans,
    )


def _reserve_stdout() -> int:
    """Reserve a file descriptor for the answer; what engines print goes to standard error from here on."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            raise SystemExit("this is the process of a row of `m2l bench`; it is asked on standard input")
        line += piece
    return line


def _exit_with_parent() -> None:
    """Exit when standard input ends, which it does with the process at its other end."""
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
