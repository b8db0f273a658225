"""An ONNX file to a TensorRT plan, and what its convolutions compute in, read back from what was built.

Two flavours with one interface: TensorRT (`tensorrt`, data-centre cards) and TensorRT for RTX (`tensorrt_rtx`), which
builds for a card that is not there. Both are strongly typed: precision comes from the graph's own types, and a graph in
single precision gives a plan in single precision, whatever it is called. So types are read back and compared.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from m2l_runtime.bundle import TensorSpec
from m2l_runtime.errors import EngineError, EngineNotInstalled
from m2l_runtime.stop import raise_interrupt

Flavour = Literal["tensorrt", "tensorrt_rtx"]
LayerType = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

INSTALL: Final = {
    "tensorrt": "pip install tensorrt-cu13",
    "tensorrt_rtx": "pip install '.[tensorrt-rtx]' in a checkout of m2l",
}
COMPUTE_CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""That TensorRT for RTX builds for; Hopper, 9.0, is not among them."""
LEAST_SHARE: Final = 0.95
"""Of the convolutions, that have to compute in the precision asked for."""
_TYPES: Final[dict[str, LayerType]] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}


class PlanError(EngineError):
    """A plan could not be built, or is not what was asked for."""


@dataclass(frozen=True)
class BuildOptions:
    """What a plan is built for."""

    flavour: Flavour = "tensorrt_rtx"
    batch_sizes: tuple[int, int, int] = (1, 16, 64)
    """Least, most likely and largest number of masks of a call."""
    compute_capability: str | None = None
    """Such as 8.9; None: that of the card which is there. Only TensorRT for RTX builds for another."""
    optimisation_level: int | None = None
    """0 to 5; None: the library's own."""
    memory_limit_bytes: int | None = None
    """Of scratch memory on the card; None: all of it."""
    timing_cache: bytes = b""
    """Of an earlier build with the same library on the same card; TensorRT for RTX has none."""


@dataclass(frozen=True)
class ConvolutionType:
    """A convolution, and what it computes in."""

    name: str
    type: LayerType


@dataclass(frozen=True)
class Plan:
    """A plan and what it was built for."""

    content: bytes
    flavour: Flavour
    version: str
    """Of the library: plans run in no other."""
    compute_capability: str
    batch_sizes: tuple[int, int, int]
    onnx_sha256: str
    convolutions: tuple[ConvolutionType, ...]
    timing_cache: bytes
    log: tuple[str, ...]
    """Warnings and errors of the builder."""
    seconds: float


def build_plan(
    content: bytes,
    inputs: Sequence[TensorSpec],
    precision: LayerType,
    options: BuildOptions | None = None,
    on_progress: Callable[[str, int, int], bool] = lambda *_: True,
) -> Plan:
    """Build it, and refuse it if fewer than `LEAST_SHARE` of the convolutions compute in `precision`.

    Args:
        content: ONNX of `inputs`, all with an open batch axis.
        inputs: the graph's.
        precision: what the graph's convolutions are typed as.
        options: what to build for.
        on_progress: called with a phase of the builder, and how many of how many steps are done; False stops it.

    Raises:
        EngineNotInstalled: the library is not there; with the command that installs it.
        PlanError: a compute capability that is not built for, batch sizes out of order, what the parser or the builder
            does not take, by node, or another precision than asked for.
    """
    options = options or BuildOptions()
    library = _library(options.flavour)
    _check(options)
    began = time.perf_counter()
    with _log(library) as lines:
        builder = library.Builder(_logger(library))
        network = builder.create_network(0)
        _parse(library, network, content)
        config = builder.create_builder_config()
        config.add_optimization_profile(_profile(builder, inputs, options.batch_sizes))
        capability = _set_target(library, config, options)
        if options.optimisation_level is not None:
            config.builder_optimization_level = options.optimisation_level
        if options.memory_limit_bytes is not None:
            config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.memory_limit_bytes)
        cache = None
        if options.flavour == "tensorrt":  # the other compiles on the card that runs the plan, and times nothing
            cache = config.create_timing_cache(options.timing_cache)
            config.set_timing_cache(cache, ignore_mismatch=False)
        monitor = _monitor(library)(on_progress)
        config.progress_monitor = monitor
        convolutions = _convolutions(library, network)
        _require(convolutions, precision)
        built = builder.build_serialized_network(network, config)
        if built is None:
            if monitor.was_stopped:
                raise PlanError("the build was stopped")
            raise PlanError(f"TensorRT did not build the plan: {_last(lines)}")
        return Plan(
            content=bytes(built),
            flavour=options.flavour,
            version=str(library.__version__),
            compute_capability=capability,
            batch_sizes=options.batch_sizes,
            onnx_sha256=hashlib.sha256(content).hexdigest(),
            convolutions=convolutions,
            timing_cache=b"" if cache is None else bytes(cache.serialize()),
            log=tuple(lines),
            seconds=time.perf_counter() - began,
        )


def _library(flavour: Flavour) -> Any:
    try:
        return importlib.import_module(flavour)
    except ImportError as error:
        raise_interrupt(error)
        raise EngineNotInstalled(
            f"plans are built by {flavour}, which does not load ({error}): {INSTALL[flavour]}"
        ) from error


def _check(options: BuildOptions) -> None:
    least, likely, most = options.batch_sizes
    if not 1 <= least <= likely <= most:
        raise PlanError(
            f"batch sizes are least, likely and largest, from 1 and in order; got {least}, {likely}, {most}"
        )
    if options.compute_capability is None:
        return
    if options.flavour != "tensorrt_rtx":
        raise PlanError(
            f"{options.flavour} builds for the card that is there; leave out the compute capability, or build with "
            "tensorrt_rtx"
        )
    if options.compute_capability not in COMPUTE_CAPABILITIES:
        raise PlanError(
            f"TensorRT for RTX builds for compute capability {', '.join(COMPUTE_CAPABILITIES)}; got "
            f"{options.compute_capability}"
        )


def _parse(library: Any, network: Any, content: bytes) -> None:
    parser = library.OnnxParser(network, _logger(library))
    if parser.parse(content):
        return
    found = [parser.get_error(place) for place in range(parser.num_errors)]
    told = "; ".join(f"{e.node_operator()} {e.node_name()!r}: {_first_line(e.desc())}" for e in found[:3])
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    raise PlanError(f"TensorRT does not take the graph: {told or 'no reason given'}{more}")


def _profile(builder: Any, inputs: Sequence[TensorSpec], batch_sizes: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for spec in inputs:
        profile.set_shape(spec.name, *((size, *spec.shape[1:]) for size in batch_sizes))
    return profile


def _set_target(library: Any, config: Any, options: BuildOptions) -> str:
    """Tell the builder what card to build for; the compute capability in words."""
    if options.flavour == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        name = options.compute_capability
        known = library.ComputeCapability
        config.set_compute_capability(
            known.CURRENT if name is None else getattr(known, f"SM{name.replace('.', '')}"), 0
        )
        return name or "current"
    return "current"


def _convolutions(library: Any, network: Any) -> tuple[ConvolutionType, ...]:
    """Of a parsed network, which is strongly typed: a convolution of dequantised values is one of integers."""
    kinds = (library.LayerType.CONVOLUTION, library.LayerType.DECONVOLUTION)
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    makers = {layer.get_output(n).name: layer for layer in layers for n in range(layer.num_outputs)}
    found = []
    for layer in layers:
        if layer.type not in kinds:
            continue
        tensor = layer.get_input(0)
        maker = makers.get(tensor.name)
        if maker is not None and maker.type == library.LayerType.DEQUANTIZE:
            tensor = maker.get_input(0)
        found.append(ConvolutionType(layer.name, _TYPES.get(tensor.dtype.name, tensor.dtype.name)))
    return tuple(found)


def _require(convolutions: Sequence[ConvolutionType], precision: LayerType) -> None:
    as_asked, count = sum(one.type == precision for one in convolutions), len(convolutions)
    if as_asked < LEAST_SHARE * count or not count:
        others = ", ".join(f"{one.name} in {one.type}" for one in convolutions if one.type != precision)
        raise PlanError(
            f"{as_asked} of {count} convolutions compute in {precision}, at least {LEAST_SHARE:.0%} have to "
            f"({others or 'there are none'}); TensorRT takes the types of the graph: export it in {precision}"
        )


@functools.cache
def _logger(library: Any) -> Any:
    """One for the process: the library keeps the first that it is given."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.lines: list[str] | None = None

        def log(self, severity: Any, message: str) -> None:
            if self.lines is not None and severity in (
                library.ILogger.INTERNAL_ERROR,
                library.ILogger.ERROR,
                library.ILogger.WARNING,
            ):
                self.lines.append(f"{severity.name.lower()}: {_first_line(message)}")

    return Logger()


@contextmanager
def _log(library: Any) -> Iterator[list[str]]:
    """What the library says while the block runs."""
    logger = _logger(library)
    lines: list[str] = []
    logger.lines = lines
    try:
        yield lines
    finally:
        logger.lines = None


@functools.cache
def _monitor(library: Any) -> Any:
    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, on_progress: Callable[[str, int, int], bool]) -> None:
            library.IProgressMonitor.__init__(self)
            self._on_progress, self._steps = on_progress, dict[str, int]()
            self.was_stopped = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            goes_on = self._on_progress(name, step + 1, self._steps.get(name, 0))
            self.was_stopped |= not goes_on
            return goes_on

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor


def _first_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _last(lines: Sequence[str]) -> str:
    errors = [line for line in lines if not line.startswith("warning")]
    return errors[-1] if errors else "no reason given"
