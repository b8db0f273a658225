"""Measure one side of a benchmark in a process of its own, and print a line of JSON.

What a side does not need it does not import: memory and the time to a first image are among the metrics. What starts a
side writes the moment, by `time.monotonic()`, to its standard input (`harness.ask`).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, cast

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image as PillowImage

from m2l_runtime import OutputOptions, Synthesizer, read_mask, synthesize_folder
from m2l_runtime._utils.cpu import peak_memory_megabytes, usable_cpus
from m2l_runtime.backends.base import Backend, BackendOptions, Inputs, ModelSource
from m2l_runtime.backends.registry import backend_module, load_backend
from m2l_runtime.bench import timing
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.bundle.schema import Precision, TensorSpec
from m2l_runtime.conditioning.conditions import ExtraInputs
from m2l_runtime.output.encoding import Encoding, encode_png, self_description

SIDE: Final = 256
MASK: Final = TensorSpec(name="mask", role="mask", dtype="uint8", shape=("batch", SIDE, SIDE))
IMAGE: Final = TensorSpec(name="image", role="image", dtype="uint8", shape=("batch", SIDE, SIDE, 3))
PROFILED: Final = 20
"""Calls that a profile is the quickest of, less the first ones."""
_WARM_UP: Final = 3
_FLOATS: Final = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Seconds = Annotated[float, typer.Option(help="How long a measurement goes on, about.")]
BatchSize = Annotated[int, typer.Option(help="Masks per call.")]


def say(**figures: Any) -> None:
    """Print the line."""
    print(json.dumps(figures), flush=True)


def started_at_s() -> float:
    """Read when this process was asked for."""
    return float(sys.stdin.readline())


# The engine alone.


@app.command()
def pytorch(checkpoint: Path, ngf: int, mode: str, batch_size: BatchSize = 1, seconds: Seconds = 2.0) -> None:
    """Measure a checkpoint in PyTorch."""
    from torch_backend import CPU_MODES, TorchBackend, load_network, unet_256

    def load(_: int | None) -> Backend:
        return TorchBackend(load_network(checkpoint, unet_256(ngf)), CPU_MODES[mode], "cpu", batch_size)

    _measure(load, _mask_batches(batch_size), batch_size, seconds, streams=1)


@app.command()
def plain(file: Path, backend: str, seconds: Seconds = 2.0) -> None:
    """Measure a plain export on an engine, one image and one call at a time."""
    shape = (3, SIDE, SIDE)
    source = _float_source(file, "fp32", shape, shape, names=("input", "output"))
    module = backend_module(backend)

    def load(_: int | None) -> Backend:
        return PlainFile(module.load(source, BackendOptions(device="cpu")))

    _measure(load, _mask_batches(1), 1, seconds, streams=1)


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
def bundle(
    folder: Path,
    backend: str,
    precision: str,
    batch_size: BatchSize = 1,
    seconds: Seconds = 2.0,
) -> None:
    """Measure a bundle on one of m2l's backends, as many calls at once as `m2l synth` makes."""
    backend_module(backend)
    opened = open_bundle(folder)

    def load(streams: int | None) -> Backend:
        options = BackendOptions("cpu", cast(Precision, precision), batch_size, None, streams)
        return load_backend(opened, backend, options)

    masks = timing.example_masks(opened.manifest.image_size)
    _measure(load, timing.batches(ExtraInputs(opened), masks, batch_size), batch_size, seconds)


@app.command()
def file(file: Path, backend: str, precision: str, seconds: Seconds = 2.0) -> None:
    """Measure an ONNX file of a whole network, bytes in and out, likewise; no latency."""
    module = backend_module(backend)
    source = _source(file, cast(Precision, precision), MASK, IMAGE)
    loaded = module.load(source, BackendOptions("cpu", cast(Precision, precision), 1, None, None))
    say(images_per_s=timing.images_per_s(loaded, _mask_batches(1), seconds))


@app.command()
def layers(folder: Path, backend: str, precision: str, seconds: Seconds = 0.3) -> None:
    """Measure each ONNX file of index.json ({name: [shape in, shape out]}), likewise: milliseconds an image by name."""
    module, found = backend_module(backend), {}
    generator = np.random.default_rng(0)
    for name, (shape_in, shape_out) in json.loads((folder / "index.json").read_text()).items():
        source = _float_source(folder / name, cast(Precision, precision), shape_in, shape_out)
        loaded = module.load(source, BackendOptions("cpu", cast(Precision, precision), 1, None, None))
        x = generator.normal(size=(1, *shape_in)).astype(np.float32)
        found[name] = 1e3 / timing.images_per_s(loaded, [{source.inputs[0].name: x}], seconds)
        loaded.close()
    say(**found)


def _measure(
    load: Callable[[int | None], Backend],
    inputs: Sequence[timing.Batch],
    batch_size: int,
    seconds: float,
    *,
    streams: int | None = None,
) -> None:
    """Measure a backend; where a call is one image, its latency too, with one call at a time."""
    began = time.perf_counter()
    backend = load(streams)
    backend.run(inputs[0])
    figures: dict[str, Any] = {"load_s": time.perf_counter() - began}
    figures["images_per_s"] = timing.images_per_s(backend, inputs, seconds)
    figures["peak_memory_megabytes"] = peak_memory_megabytes()
    settings = backend.settings
    if batch_size == 1:
        if settings.streams > 1:
            backend.close()
            backend = load(1)
        figures["latency_p50_ms"] = statistics.median(timing.latencies_ms(backend, inputs, seconds / 2))
    say(**figures, engine=settings.engine, streams=settings.streams, threads=settings.threads)


def _mask_batches(batch_size: int) -> list[timing.Batch]:
    masks = timing.example_masks((SIDE, SIDE))
    rows = np.arange(-(-len(masks) // batch_size) * batch_size).reshape(-1, batch_size) % len(masks)
    return [{"mask": masks[numbers]} for numbers in rows]


def _source(path: Path, precision: Precision, input_spec: TensorSpec, output_spec: TensorSpec) -> ModelSource:
    return ModelSource(path.name, path.read_bytes(), precision, (input_spec,), (output_spec,))


def _float_source(
    path: Path,
    precision: Precision,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    names: tuple[str, str] = ("x", "y"),
) -> ModelSource:
    input_spec = TensorSpec(name=names[0], role="mask", dtype="float32", shape=("batch", *shape_in))
    output_spec = TensorSpec(name=names[1], role="image", dtype="float32", shape=("batch", *shape_out))
    return _source(path, precision, input_spec, output_spec)


# Mask files to image files.


@app.command()
def todays_loop(checkpoint: Path, ngf: int, masks: Path) -> None:
    """Do as the original's test.py for each mask: read, squash, PyTorch eager, batch 1, PNG at Pillow's default."""
    import torch
    from torch_backend import load_network, unet_256

    network = load_network(checkpoint, unet_256(ngf))

    def make(path: Path, out: Path) -> None:
        with PillowImage.open(path) as picture:
            mask = picture.convert("RGB").resize((SIDE, SIDE), PillowImage.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(mask)).permute(2, 0, 1)[None].float() / 127.5 - 1
        y = network(x)[0].permute(1, 2, 0)
        PillowImage.fromarray(((y + 1) / 2 * 255).to(torch.uint8).numpy()).save(out / f"{path.stem}.png")

    paths = sorted(masks.iterdir())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for path in paths[:_WARM_UP]:
            make(path, Path(folder))
        began = time.perf_counter()
        for path in paths:
            make(path, Path(folder))
        seconds = time.perf_counter() - began
    say(images_per_s=len(paths) / seconds)


@app.command()
def synth(
    folder: Path,
    masks: Path,
    backend: str = "auto",
    precision: str = "fp32",
    encoding: Annotated[str, typer.Option(help="Fields of an Encoding as JSON.")] = "{}",
    engine_too: Annotated[bool, typer.Option("--engine-too", help="Then the engine alone, on the same masks.")] = False,
    warm: Annotated[bool, typer.Option(help="Load and warm up before the clock starts.")] = True,
) -> None:
    """Measure `m2l synth` with its defaults; seconds since the process was asked for are told as well."""
    asked_s = started_at_s()
    options = OutputOptions(image_encoding=Encoding(**json.loads(encoding)))
    with (
        tempfile.TemporaryDirectory() as out,
        Synthesizer.open(folder, backend=backend, precision=cast(Precision, precision), streams=None) as synthesizer,
    ):
        if warm:
            _warm_up(synthesizer)
        summary = synthesize_folder(masks, Path(out, "out"), synthesizer, options)
        figures = {"images_per_s": summary.images_per_s, "since_asked_s": time.monotonic() - asked_s}
        sizes = [path.stat().st_size for path in Path(out, "out").rglob(f"*{options.image_encoding.suffix}")]
        figures["file_kilobytes"] = statistics.fmean(sizes) / 1e3
        if engine_too:
            figures["engine_images_per_s"] = _engine_alone(synthesizer, masks)
    say(**figures)


@app.command()
def engine(folder: Path, masks: Path) -> None:
    """Measure the engine alone, on masks that are in memory."""
    with Synthesizer.open(folder, streams=None) as synthesizer:
        _warm_up(synthesizer)
        say(images_per_s=_engine_alone(synthesizer, masks))


def _engine_alone(synthesizer: Synthesizer, masks: Path) -> float:
    arrays = np.stack([read_mask(path, synthesizer.image_size).mask for path in sorted(masks.iterdir())])
    began = time.perf_counter()
    synthesizer(arrays)
    return len(arrays) / (time.perf_counter() - began)


def _warm_up(synthesizer: Synthesizer) -> None:
    mask = np.zeros(synthesizer.image_size, np.uint8)
    synthesizer(np.repeat(mask[None], _WARM_UP * synthesizer.settings.streams, 0))


# From nothing to a first image.


@app.command()
def first_image(folder: Path, backend: str, precision: str = "fp32", cache: Path | None = None) -> None:
    """Time a bundle to the PNG bytes of one image; OpenVINO keeps compiled models in `cache`, if given."""
    asked_s = started_at_s()
    with Synthesizer.open(
        folder, backend=backend, precision=cast(Precision, precision), cache_dir=cache
    ) as synthesizer:
        mask = read_mask(_first_mask(), synthesizer.image_size).mask
        image = synthesizer.synthesize_checked(mask[None])[0]
        encode_png(image, self_description(synthesizer.bundle, synthesizer.settings))
        say(seconds=time.monotonic() - asked_s, engine=synthesizer.settings.engine)


@app.command()
def first_image_pytorch(checkpoint: Path, spec: Annotated[str, typer.Argument(help="A UnetSpec as JSON.")]) -> None:
    """Time a checkpoint to the PNG bytes of one image, with PyTorch."""
    asked_s = started_at_s()
    import torch
    from torch_backend import load_network

    from m2l_train.models.networks import UnetSpec

    network = load_network(checkpoint, UnetSpec(**json.loads(spec)))
    mask = read_mask(_first_mask(), (SIDE, SIDE)).mask
    x = torch.from_numpy(mask)[None, None].expand(1, 3, SIDE, SIDE).float() / 127.5 - 1
    with torch.no_grad():
        y = network(x) if network.appearance is None else network(x, network.appearance.table[:1])
    image = ((y[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    encode_png(image, {})
    say(seconds=time.monotonic() - asked_s, engine=f"torch {torch.__version__}")


def _first_mask() -> Path:
    return min(embedded.EXAMPLE_MASKS.glob("*.png"))


# Where the time goes.


@app.command()
def profile(folder: Path, backend: str, precision: str) -> None:
    """Profile a bundle's file, an image at a time: milliseconds by kind of operator, and of a call unprofiled."""
    opened = open_bundle(folder)
    found = next(m for m in opened.manifest.models if backend in m.engines and m.precision == precision)
    content = opened.read_model(found)
    inputs = timing.batches(ExtraInputs(opened), timing.example_masks(opened.manifest.image_size), 1)
    loaded = load_backend(opened, backend, BackendOptions("cpu", cast(Precision, precision), 1))
    latency_ms = statistics.median(timing.latencies_ms(loaded, inputs, 1.0))
    loaded.close()
    count = usable_cpus()
    look = _profile_openvino if backend == "openvino" else _profile_onnxruntime
    kinds = look(content, precision, [inputs[n % len(inputs)] for n in range(PROFILED)], count)
    say(latency_p50_ms=latency_ms, threads=count, ms_by_kind=kinds)


def _profile_openvino(content: bytes, precision: str, inputs: Sequence[timing.Batch], threads: int) -> dict[str, float]:
    core = cast(Any, backend_module("openvino")).CORE
    model = core.read_model(content)
    model.reshape({name: list(array.shape) for name, array in inputs[0].items()})
    request = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _FLOATS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERF_COUNT": True,
        },
    ).create_infer_request()
    calls: list[dict[str, float]] = []
    for batch in inputs:
        request.infer(dict(batch))
        kinds: dict[str, float] = defaultdict(float)
        for node in request.get_profiling_info():
            if node.status.name == "EXECUTED":
                kinds[f"{node.node_type}, {node.exec_type}"] += node.real_time.total_seconds() * 1e3
        calls.append(kinds)
    return _quickest(calls)


def _profile_onnxruntime(content: bytes, _: str, inputs: Sequence[timing.Batch], threads: int) -> dict[str, float]:
    backend_module("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for batch in inputs:
            session.run(None, dict(batch))
        events = json.loads(Path(session.end_profiling()).read_text())
    calls: list[dict[str, float]] = []
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")
    for begin, end in zip(begins, [*begins[1:], float("inf")], strict=True):
        kinds: dict[str, float] = defaultdict(float)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and begin <= event["ts"] < end:
                kinds[event["args"]["op_name"]] += event["dur"] / 1e3
        calls.append(kinds)
    return _quickest(calls)


def _quickest(calls: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the call that took least, but for the first ones, the slowest kind first."""
    call = min(calls[_WARM_UP:], key=lambda kinds: sum(kinds.values()))
    return dict(sorted(call.items(), key=lambda item: -item[1]))


@app.command()
def products(folder: Path, backend: str, precision: str, seconds: Seconds = 1.0) -> None:
    """Measure 10^9 multiplications a second of each file of index.json ({name: [channels, side, multiplications]})."""
    module, found = backend_module(backend), {}
    for name, (channels, side, multiplications) in json.loads((folder / "index.json").read_text()).items():
        shape = (channels, side, side)
        source = _float_source(folder / name, cast(Precision, precision), shape, shape)
        loaded = module.load(source, BackendOptions("cpu", cast(Precision, precision), 1))
        x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
        ms = statistics.median(timing.latencies_ms(loaded, [{"x": x}], seconds))
        found[name] = multiplications / ms / 1e6
        loaded.close()
    say(**found)


if __name__ == "__main__":
    app()
