"""Measure one side of gpu.py in a process of its own; print metrics as a line of JSON, or one line that says why not.

What a side does not need it does not import. Everything but `make` and `probe` reads the folder that `make` filled.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, cast

import gpufiles
import numpy as np
import numpy.typing as npt
import typer

from m2l_runtime._utils.cpu import peak_memory_megabytes
from m2l_runtime.backends.base import Backend, BackendModule, BackendOptions, ModelSource
from m2l_runtime.backends.registry import BACKENDS, backend_module
from m2l_runtime.bench import timing
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import DeviceUnavailable, EngineError

STREAMS: Final = 2
"""Calls at once, beside one."""
COMPUTE_CAPABILITY: Final = "8.9"
"""Compute capability of plans that are built where there is no GPU to run them."""
_MIN_FILES: Final = 64
_MAX_FILES: Final = 50_000

app = typer.Typer(add_completion=False)
Seconds = Annotated[float, typer.Option(help="How long a measurement goes on, about.")]
BatchSize = Annotated[int, typer.Option(help="Masks per call.")]
Device = Annotated[str, typer.Argument(help="cuda or cpu.")]
Cache = Annotated[Path | None, typer.Option(help="Where the backend keeps what it compiled.")]


def say(**figures: Any) -> None:
    """Print the line."""
    print(json.dumps(figures), flush=True)


@app.command()
def probe() -> None:
    """Describe the GPU that sides would run on, or why there is none, and what PyTorch was built with."""
    import torch

    from m2l_runtime.backends.cuda.devices import find_gpu
    from m2l_runtime.errors import M2LError

    facts: dict[str, Any] = {"name": None, "compute_capability": None, "cuda": None, "reason": None}
    try:
        gpu = find_gpu(0)
        facts |= {"name": gpu.name, "compute_capability": gpu.compute_capability, "cuda": gpu.driver_version}
    except M2LError as error:
        facts["reason"] = gpufiles.one_line(error)
        if torch.cuda.is_available():  # cuda-bindings is not installed, then
            major, minor = torch.cuda.get_device_capability(0)
            facts |= {"name": torch.cuda.get_device_name(0), "compute_capability": f"{major}.{minor}"}
    cudnn: Any = torch.backends.cudnn
    say(
        **facts,
        torch_cuda=torch.version.cuda,
        torch_cudnn=cudnn.version(),
        system=f"{platform.system()} {platform.machine()}",
    )


@app.command()
def make(folder: Path, ngf: int, side: int, names: str) -> None:
    """Make the network, and the files of the names given with commas between; say why there is none, by file."""
    network = gpufiles.make_network(folder, ngf, side)
    say(**gpufiles.make_files(folder, network, side, names.split(",")))


# The engine alone.


@app.command()
def pytorch(folder: Path, mode: str, device: Device, batch_size: BatchSize = 1, seconds: Seconds = 2.0) -> None:
    """Measure the network as trained in PyTorch."""
    from torch_backend import GPU_MODES, TorchBackend, load_network

    network = load_network(folder / gpufiles.CHECKPOINT, gpufiles.read_spec(folder))
    masks, _ = gpufiles.read_expected(folder)
    began = time.perf_counter()
    backend = TorchBackend(network, GPU_MODES[mode], device, batch_size)
    inputs = _batches(masks, batch_size)
    backend.run(inputs[0])
    figures: dict[str, Any] = {"load_s": time.perf_counter() - began}
    figures |= _one_at_a_time(backend, inputs, seconds)
    figures["card_memory_megabytes"] = _gpu_memory_megabytes(device)
    rows = _rows(len(masks), batch_size)
    images = np.concatenate([backend.run_checked({"mask": masks[some]}) for some in rows])
    figures["parity"] = {**gpufiles.parity(folder, rows.ravel(), images), "is_finite": backend.is_finite}
    _print_result(figures, backend)


@app.command()
def engine(
    folder: Path,
    backend: str,
    precision: str,
    device: Device,
    batch_size: BatchSize = 1,
    seconds: Seconds = 2.0,
    cache: Cache = None,
) -> None:
    """Measure an ONNX file on one of m2l's backends: one call at a time, then two at once where it can."""
    source = gpufiles.model_source(folder, precision)
    if (backend, device) == ("tensorrt", "cpu"):
        _build_alone(source, batch_size)
    module = _module(backend, precision, device)
    masks, _ = gpufiles.read_expected(folder)
    inputs = _batches(masks, batch_size)

    def load(streams: int) -> Backend:
        options = BackendOptions(device, cast(Precision, precision), batch_size, None, streams, cache_dir=cache)
        return module.load(source, options)

    began = time.perf_counter()
    loaded = load(1)
    loaded.run(inputs[0])
    figures: dict[str, Any] = {"load_s": time.perf_counter() - began, "build_s": getattr(loaded, "build_s", None)}
    figures |= _one_at_a_time(loaded, inputs, seconds)
    figures["card_memory_megabytes"] = _gpu_memory_megabytes(device)
    figures["parity"] = _parity(folder, loaded, masks)
    loaded.close()
    try:
        several = load(STREAMS)
        if several.settings.streams == STREAMS:
            figures["images_per_s_two_at_once"] = timing.images_per_s(several, inputs, seconds)
            figures["card_memory_megabytes_two_at_once"] = _gpu_memory_megabytes(device)
            figures["parity"] = _worse(figures["parity"], _parity(folder, several, masks))
        several.close()
    except EngineError as error:  # such as too little memory for two: what was measured stays
        figures["reason_two_at_once"] = gpufiles.one_line(error)
    _print_result(figures, loaded)


def _module(backend: str, precision: str, device: str) -> BackendModule:
    """The backend's module.

    Raises:
        EngineError: this version of m2l has no such backend, or it is not measured so.
        EngineNotInstalled: its library is missing.
    """
    if backend not in BACKENDS:
        raise EngineError(f"this version of m2l has no backend '{backend}', only {', '.join(BACKENDS)}")
    if backend == "onnxruntime" and (precision, device) == ("fp16", "cpu"):
        raise DeviceUnavailable("onnxruntime computes half precision in single on a CPU: measured on GPUs alone")
    if (backend, device) == ("tensorrt", "cpu"):
        raise DeviceUnavailable("TensorRT runs on NVIDIA GPUs alone")
    return backend_module(backend)


def _build_alone(source: ModelSource, batch_size: int) -> NoReturn:
    """Build a plan, which takes no GPU.

    Raises:
        DeviceUnavailable: it was; with the seconds.
        EngineError: it could not be.
    """
    from m2l_runtime.backends.trt.build import BuildOptions, build_plan
    from m2l_runtime.backends.trt.inspect import LayerType

    options = BuildOptions("tensorrt_rtx", (batch_size, batch_size, batch_size), COMPUTE_CAPABILITY)
    plan = build_plan(source.content, source.inputs, cast(LayerType, source.precision), options)
    raise DeviceUnavailable(
        f"built by TensorRT for RTX {plan.version} for compute capability {COMPUTE_CAPABILITY} in "
        f"{plan.seconds:.1f} s, "
        "not run: there is no GPU"
    )


def _one_at_a_time(backend: Backend, inputs: Sequence[timing.Batch], seconds: float) -> dict[str, float]:
    calls_ms = timing.latencies_ms(backend, inputs, seconds)
    p50, p95 = np.percentile(calls_ms, [50, 95]).tolist()
    rate = backend.settings.batch_size * len(calls_ms) / sum(calls_ms) * 1e3
    return {"latency_p50_ms": p50, "latency_p95_ms": p95, "calls": len(calls_ms), "images_per_s": rate}


def _print_result(figures: dict[str, Any], backend: Backend) -> None:
    settings = backend.settings
    say(
        **figures,
        peak_memory_megabytes=peak_memory_megabytes(),
        engine=settings.engine,
        device=settings.device,
        threads=settings.threads,
        options=dict(settings.provider_options),
        notes=backend.notes,
    )


def _parity(folder: Path, backend: Backend, masks: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Of every mask, in full batches, as many at once as the backend has streams."""
    from m2l_runtime.synthesizer import run_in_batches

    settings = backend.settings
    rows = _rows(len(masks), settings.batch_size * settings.streams).ravel()
    return gpufiles.parity(folder, rows, run_in_batches(backend, {"mask": masks[rows]}))


def _worse(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return max(one, other, key=lambda found: (found["max_levels"], found["mean_levels"]))


def _rows(count: int, size: int) -> npt.NDArray[np.intp]:
    """Numbers of all of `count` masks, some twice, in rows of `size`."""
    row_count = math.ceil(count / size)
    return np.arange(row_count * size).reshape(row_count, size) % count


def _batches(masks: npt.NDArray[np.uint8], batch_size: int) -> list[timing.Batch]:
    return [{"mask": masks[row]} for row in _rows(len(masks), batch_size)]


def _gpu_memory_megabytes(device: str) -> float | None:
    """Return memory in use on the whole GPU, by whatever; None without a GPU."""
    if device == "cpu":
        return None
    from m2l_runtime.backends.cuda.devices import memory_in_use_bytes

    found = memory_in_use_bytes(0)
    return None if found is None else found / 1e6


# Mask files to files in tars.


@app.command()
def end_to_end(
    folder: Path,
    backend: str,
    precision: str,
    device: Device,
    batch_size: BatchSize = 16,
    seconds: Seconds = 2.0,
    cache: Cache = None,
) -> None:
    """Measure mask files to JPEG files in WebDataset tars as `m2l synth` makes them; then the backend alone."""
    from m2l_runtime import OutputOptions, Synthesizer, synthesize_folder
    from m2l_runtime.bundle.io import open_bundle
    from m2l_runtime.output.encoding import Encoding

    module = _module(backend, precision, device)
    opened = open_bundle(folder / gpufiles.BUNDLE)
    options = BackendOptions(device, cast(Precision, precision), batch_size, None, None, cache_dir=cache)
    written = OutputOptions(format="webdataset", image_encoding=Encoding("jpeg"))
    loaded = module.load(gpufiles.model_source(folder, precision), options)
    masks, _ = gpufiles.read_expected(folder)
    with Synthesizer(opened, loaded) as synthesizer, tempfile.TemporaryDirectory() as made:
        root = Path(made)

        def run(name: str, count: int) -> float:
            timing.lay_out_masks(root / f"{name}-masks", count)
            return synthesize_folder(root / f"{name}-masks", root / name, synthesizer, written).images_per_s

        at_once = batch_size * loaded.settings.streams
        rate = run("first", max(_MIN_FILES, 2 * at_once))
        wanted = min(_MAX_FILES, max(_MIN_FILES, rate * seconds, 2 * at_once))
        count = math.ceil(wanted / at_once) * at_once
        rate = run("timed", count)
        tar_bytes = sum(path.stat().st_size for path in (root / "timed").rglob("*.tar"))
        alone = timing.images_per_s(loaded, _batches(masks, batch_size), seconds)
    say(
        images_per_s=rate,
        engine_images_per_s=alone,
        images=count,
        tar_kilobytes_an_image=tar_bytes / count / 1e3,
        streams=loaded.settings.streams,
        engine=loaded.settings.engine,
        device=loaded.settings.device,
    )


def main() -> NoReturn:
    """Run one side; whatever goes wrong is told in one line."""
    try:
        app(standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - that is what this process was asked for
        print(gpufiles.one_line(error), file=sys.stderr)
        _leave(1)
    _leave(0)


def _leave(status: int) -> NoReturn:
    """Exit at once: an engine that fails while it is taken down does not take the answer with it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
