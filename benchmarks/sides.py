"""Measure one side of a benchmark in a process of its own; print metrics as JSON, or one line that says why not.

What a side does not need it does not import: memory is among the metrics. All but `probe` and `make` read a folder that
models.py filled.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar, cast

import models
import numpy as np
import numpy.typing as npt
import typer

from m2l_runtime._utils.cpu import peak_memory_megabytes, usable_cpus
from m2l_runtime.backends.base import Backend, BackendModule, BackendOptions, Inputs, ModelSource
from m2l_runtime.backends.registry import BACKENDS, backend_module
from m2l_runtime.bench import timing
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import DeviceUnavailable, EngineError

STREAMS: Final = 2
"""Calls at once, beside one."""
COMPUTE_CAPABILITY: Final = "8.9"
"""Compute capability of plans that are built where there is no GPU to run them."""
_WARM_UP: Final = 3
_B = TypeVar("_B", bound=Backend)

app = typer.Typer(add_completion=False)
Seconds = Annotated[float, typer.Option(help="How long a measurement goes on, about.")]
BatchSize = Annotated[int, typer.Option(help="Masks per call.")]
Device = Annotated[str, typer.Argument(help="cuda or cpu.")]
Cache = Annotated[Path | None, typer.Option(help="Where the backend keeps what it compiled.")]


def say(**metrics: Any) -> None:
    """Print the line."""
    print(json.dumps(metrics), flush=True)


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
        facts["reason"] = models.one_line(error)
        if torch.cuda.is_available():  # cuda-bindings is not installed, then
            major, minor = torch.cuda.get_device_capability(0)
            facts |= {"name": torch.cuda.get_device_name(0), "compute_capability": f"{major}.{minor}"}
    cudnn: Any = torch.backends.cudnn
    system = f"{platform.system()} {platform.machine()}"
    say(**facts, torch_cuda=torch.version.cuda, torch_cudnn=cudnn.version(), system=system)


@app.command()
def make(folder: Path, ngf: int, side: int, names: str) -> None:
    """Make the network, and the files of the names given with commas between; say why there is none, by file."""
    network = models.make_network(folder, ngf, side)
    say(**models.make_files(folder, network, side, names.split(",")))


# The engine alone.


@app.command()
def pytorch(folder: Path, title: str, device: Device, batch_size: BatchSize = 1, seconds: Seconds = 2.0) -> None:
    """Measure the network as trained in PyTorch, in the mode of a title."""
    from torch_backend import CPU_MODES, GPU_MODES, TorchBackend

    network, mode = models.load_network(folder), (CPU_MODES | GPU_MODES)[title]
    masks, _ = models.read_expected(folder)
    backend, metrics = _measure(lambda: TorchBackend(network, mode, device, batch_size), masks, batch_size, seconds)
    rows = _rows(len(masks), batch_size)
    images = np.concatenate([backend.run_checked({"mask": masks[some]}) for some in rows])
    metrics["parity"] = {**models.parity(folder, rows.ravel(), images), "is_finite": backend.is_finite}
    _print_result(metrics, backend)


@app.command()
def plain(folder: Path, backend: str, seconds: Seconds = 2.0) -> None:
    """Measure what PyTorch's exporter writes, on an engine on the CPU, one image and one call at a time."""
    module, source = backend_module(backend), models.plain_source(folder)
    masks, _ = models.read_expected(folder)
    loaded, metrics = _measure(lambda: PlainFile(module.load(source, BackendOptions(device="cpu"))), masks, 1, seconds)
    _print_result(metrics | {"parity": _parity(folder, loaded, masks)}, loaded)


class PlainFile:
    """Run a plain export as a backend, floats in and out, with what lies between floats and bytes done by NumPy."""

    def __init__(self, backend: Backend) -> None:
        self.settings: Final = backend.settings
        self.notes: Final = backend.notes
        self._backend = backend

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        x = inputs["mask"][:, None].astype(np.float32) * np.float32(2 / 255) - np.float32(1)
        y: npt.NDArray[Any] = self._backend.run({"input": np.repeat(x, 3, 1)})
        images = np.clip(np.rint((y + 1) * 127.5), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def close(self) -> None:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        self._backend.close()


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
    source = models.model_source(folder, precision)
    if (backend, device) == ("tensorrt", "cpu"):
        _build_alone(source, batch_size)
    module = _module(backend, precision, device)
    masks, _ = models.read_expected(folder)

    def load(streams: int) -> Backend:
        options = BackendOptions(device, cast(Precision, precision), batch_size, None, streams, cache_dir=cache)
        return module.load(source, options)

    loaded, metrics = _measure(lambda: load(1), masks, batch_size, seconds)
    metrics["parity"] = _parity(folder, loaded, masks)
    loaded.close()
    try:
        several = load(STREAMS)
        if several.settings.streams == STREAMS:
            metrics["images_per_s_two_at_once"] = timing.images_per_s(several, _batches(masks, batch_size), seconds)
            metrics["gpu_memory_megabytes_two_at_once"] = _gpu_memory_megabytes(device)
            both = (metrics["parity"], _parity(folder, several, masks))
            metrics["parity"] = max(both, key=lambda one: (one["max_levels"], one["mean_levels"]))
        several.close()
    except EngineError as error:  # such as too little memory for two: what was measured stays
        metrics["reason_two_at_once"] = models.one_line(error)
    _print_result(metrics, loaded)


def _module(backend: str, precision: str, device: str) -> BackendModule:
    """Return the backend's module.

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
        f"{plan.seconds:.1f} s, not run: there is no GPU"
    )


def _measure(
    load: Callable[[], _B], masks: npt.NDArray[np.uint8], batch_size: int, seconds: float
) -> tuple[_B, dict[str, Any]]:
    """Load a backend, and time its calls one at a time."""
    inputs = _batches(masks, batch_size)
    began = time.perf_counter()
    backend = load()
    backend.run(inputs[0])
    metrics: dict[str, Any] = {"load_s": time.perf_counter() - began, "build_s": getattr(backend, "build_s", None)}
    calls_ms = timing.latencies_ms(backend, inputs, seconds)
    metrics["latency_p50_ms"], metrics["latency_p95_ms"] = np.percentile(calls_ms, [50, 95]).tolist()
    metrics["images_per_s"] = batch_size * len(calls_ms) / sum(calls_ms) * 1e3
    metrics["gpu_memory_megabytes"] = _gpu_memory_megabytes(backend.settings.device)
    metrics["peak_memory_megabytes"] = peak_memory_megabytes()
    return backend, metrics


def _print_result(metrics: dict[str, Any], backend: Backend) -> None:
    settings = backend.settings
    say(
        **metrics,
        engine=settings.engine,
        device=settings.device,
        batch_size=settings.batch_size,
        streams=settings.streams,
        threads=settings.threads,
        options=dict(settings.provider_options),
        notes=backend.notes,
    )


def _parity(folder: Path, backend: Backend, masks: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Compare images of every mask, in full batches, as many at once as the backend has streams."""
    from m2l_runtime.synthesizer import run_in_batches

    settings = backend.settings
    rows = _rows(len(masks), settings.batch_size * settings.streams).ravel()
    return models.parity(folder, rows, run_in_batches(backend, {"mask": masks[rows]}))


def _rows(count: int, size: int) -> npt.NDArray[np.intp]:
    """Number all of `count` masks, some twice, in rows of `size`."""
    row_count = math.ceil(count / size)
    return np.arange(row_count * size).reshape(row_count, size) % count


def _batches(masks: npt.NDArray[np.uint8], batch_size: int) -> list[timing.Batch]:
    return [{"mask": masks[row]} for row in _rows(len(masks), batch_size)]


def _gpu_memory_megabytes(device: str) -> float | None:
    """Return memory in use on the whole GPU, by whatever; None without a GPU."""
    if device == "cpu":
        return None
    from m2l_runtime.backends.cuda.devices import memory_in_use_bytes

    in_use = memory_in_use_bytes(0)
    return None if in_use is None else in_use / 1e6


# Mask files to image files.


@app.command()
def to_tars(
    folder: Path,
    backend: str,
    precision: str,
    device: Device,
    batch_size: BatchSize = 16,
    seconds: Seconds = 2.0,
    cache: Cache = None,
) -> None:
    """Measure mask files to JPEG files in WebDataset tars as `m2l synth` makes them; then the backend alone."""
    from m2l_runtime import OutputOptions, Synthesizer
    from m2l_runtime.bundle.io import open_bundle
    from m2l_runtime.output.encoding import Encoding

    module = _module(backend, precision, device)
    opened = open_bundle(folder / models.BUNDLE)
    options = BackendOptions(device, cast(Precision, precision), batch_size, None, None, cache_dir=cache)
    output_options = OutputOptions(format="webdataset", image_encoding=Encoding("jpeg"))
    loaded = module.load(models.model_source(folder, precision), options)
    masks, _ = models.read_expected(folder)
    with Synthesizer(opened, loaded) as synthesizer, tempfile.TemporaryDirectory() as temporary:
        rate, count = timing.end_to_end(synthesizer, Path(temporary), seconds, output_options)
        tar_bytes = sum(path.stat().st_size for path in Path(temporary, "timed-images").rglob("*.tar"))
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


@app.command()
def original_loop(folder: Path, count: int) -> None:
    """Do as the original's test.py for each mask: read, squash, PyTorch eager, batch 1, PNG at Pillow's default."""
    import torch
    from PIL import Image

    torch.set_num_threads(usable_cpus())
    network = models.load_network(folder)
    side = models.read_expected(folder)[0].shape[1]

    def convert(path: Path, out: Path) -> None:
        with Image.open(path) as opened:
            mask = opened.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(mask)).permute(2, 0, 1)[None].float() / 127.5 - 1
        y = network(x)[0].permute(1, 2, 0)
        Image.fromarray(((y + 1) / 2 * 255).to(torch.uint8).numpy()).save(out / path.name)

    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        masks, out = Path(temporary, "masks"), Path(temporary, "images")
        timing.lay_out_masks(masks, count)
        out.mkdir()
        paths = sorted(masks.iterdir())
        for path in paths[:_WARM_UP]:
            convert(path, out)
        began = time.perf_counter()
        for path in paths:
            convert(path, out)
        say(end_to_end_images_per_s=len(paths) / (time.perf_counter() - began))


def main() -> NoReturn:
    """Run one side; whatever goes wrong is told in one line."""
    status = 0
    try:
        app(standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - that is what this process was asked for
        print(models.one_line(error), file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an engine that fails while it is taken down does not take the answer with it


if __name__ == "__main__":
    main()
