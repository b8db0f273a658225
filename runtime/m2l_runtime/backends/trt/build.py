"""Build a TensorRT plan of an ONNX file, and read back what its convolutions compute in.

Both variants are strongly typed: precision comes from the graph's own types, and a graph in single precision gives a
plan in single precision, whatever it is called. So types are read back and compared: in the network as it was parsed,
from whose types the builder may not depart, and where the GPU is there in the finished engine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from m2l_runtime._utils.signals import deferred_signals
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.cuda.devices import Gpu
from m2l_runtime.backends.trt import inspect
from m2l_runtime.backends.trt.inspect import TYPES, ConvolutionType, LayerType
from m2l_runtime.backends.trt.library import TITLES, first_line, load, log, logger, reason
from m2l_runtime.bundle.schema import TensorRtVariant, TensorSpec
from m2l_runtime.errors import ArgumentError, EngineError

COMPUTE_CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT for RTX builds for; Hopper, 9.0, is not among them."""
MAX_MASKS: Final = 4096
"""Largest batch size, as a manifest has it."""
_NO_FOLDER: Final = f"{os.devnull}/model.onnx"
"""Where a graph is said to come from: nothing can be read beside it. A parser that is told nothing reads weights that
a graph names from the current folder."""
MIN_PRECISION_SHARE: Final = 0.95
"""Share of the convolutions that have to compute in the precision asked for."""


class PlanError(EngineError):
    """Report that a plan could not be built, is not what was asked for, or cannot be used here."""


@dataclass(frozen=True)
class BuildOptions:
    """Choose what a plan is built for."""

    flavour: TensorRtVariant = "tensorrt_rtx"
    batch_sizes: tuple[int, int, int] = (1, 16, 64)
    """Smallest, most likely and largest number of masks of a call."""
    compute_capability: str | None = None
    """Compute capability, such as 8.9; None: that of `card`. Only TensorRT for RTX builds for other GPUs."""
    card: Gpu | None = None
    """The GPU that is here; None where there is none."""
    optimization_level: int | None = None
    """Optimization level, 0 to 5; None: the library's own."""
    memory_limit_bytes: int | None = None
    """Bytes of scratch memory on the GPU; None: all of it."""
    tf32: bool = False
    """Whether fp32 convolutions may multiply with 10 bits of 23 (TF32), as the library does unless told otherwise."""
    timing_cache: bytes = b""
    """Timings of an earlier build with the same library on the same GPU; TensorRT for RTX has none."""


@dataclass(frozen=True)
class Plan:
    """Hold a plan and what it was built for."""

    content: bytes = field(repr=False)
    flavour: TensorRtVariant
    version: str
    """Version of the library: plans run in no other."""
    compute_capability: str
    card: str | None
    """Name of the GPU where the plan runs on its kind alone."""
    batch_sizes: tuple[int, int, int]
    onnx_sha256: str
    convolutions: tuple[ConvolutionType, ...]
    types_read_from: Literal["network", "engine"]
    timing_cache: bytes = field(repr=False)
    log: tuple[str, ...] = field(repr=False)
    """Messages of the builder, but for its most talkative level."""
    seconds: float

    @property
    def counts(self) -> Mapping[LayerType, int]:
        """Number of convolutions by the type they compute in."""
        types = [one.type for one in self.convolutions]
        return {one: types.count(one) for one in dict.fromkeys(types)}


def build_plan(
    content: bytes,
    inputs: Sequence[TensorSpec],
    precision: LayerType,
    options: BuildOptions | None = None,
    on_progress: Callable[[str, int, int], bool] = lambda *_: True,
    *,
    float_count: int = 0,
) -> Plan:
    """Build a plan, and refuse it if fewer than `MIN_PRECISION_SHARE` of the convolutions compute in `precision`.

    Args:
        content: ONNX of `inputs`, all with an open batch axis.
        inputs: the graph's.
        precision: what the graph's convolutions are typed as.
        options: what to build for.
        on_progress: called with a phase of the builder, and how many of how many steps are done; False stops it.
        float_count: convolutions that are meant to be in floats where `precision` is int8; the share is of the others.

    Raises:
        EngineNotInstalled: the library is not there; with the command that installs it.
        PlanError: a compute capability that is not built for, batch sizes out of order, what the parser or the builder
            does not take, by node, an input without a profile, or another precision than asked for.
    """
    options = options or BuildOptions()
    capability = require_target(options)
    library = load(options.flavour)
    began = time.perf_counter()
    with deferred_signals() as has_signal, log(library) as lines:
        builder = library.Builder(logger(library))
        network = builder.create_network(0)
        _parse(library, network, content)
        config = _configured(library, builder, options, capability)
        config.add_optimization_profile(_profile(builder, network, inputs, options.batch_sizes))
        cache = _timing_cache(config, options, lines)
        monitor = _monitor(library)(lambda *step: on_progress(*step) and not has_signal())
        config.progress_monitor = monitor
        convolutions = _convolutions(library, network)
        _require(convolutions, precision, float_count)
        built = builder.build_serialized_network(network, config)
        if monitor.error is not None:
            raise monitor.error
        if built is None:
            if monitor.was_stopped:
                raise PlanError("the build was stopped")
            limit = "" if options.memory_limit_bytes is None else "; a larger memory limit may help"
            raise PlanError(f"{TITLES[options.flavour]} did not build the plan: {reason(lines)}{limit}")
        plan = bytes(built)
        convolution_types: Sequence[ConvolutionType] = ()
        if options.card is not None and options.card.compute_capability == capability:
            convolution_types = inspect.convolutions(library, plan)
            if len(convolution_types) < len(convolutions):  # some are in layers that tell of no convolution
                lines.append(
                    f"info: the inspector tells of {len(convolution_types)} of {len(convolutions)} convolutions"
                )
                convolution_types = ()
            else:
                _require(convolution_types, precision, float_count)
        return Plan(
            content=plan,
            flavour=options.flavour,
            version=str(library.__version__),
            compute_capability=capability,
            card=None if options.flavour == "tensorrt_rtx" or options.card is None else options.card.name,
            batch_sizes=options.batch_sizes,
            onnx_sha256=hashlib.sha256(content).hexdigest(),
            convolutions=tuple(convolution_types or convolutions),
            types_read_from="engine" if convolution_types else "network",
            timing_cache=b"" if cache is None else bytes(cache.serialize()),
            log=tuple(lines),
            seconds=time.perf_counter() - began,
        )


def require_target(options: BuildOptions) -> str:
    """Choose the compute capability to build for.

    Raises:
        ArgumentError: batch sizes or level out of range.
        PlanError: a GPU that is not built for, or is not here.
    """
    least, likely, most = options.batch_sizes
    if not 1 <= least <= likely <= most:
        raise ArgumentError(
            f"batch sizes are least, likely and largest, from 1 and in order; got {least}, {likely}, {most}"
        )
    if most > MAX_MASKS:
        raise ArgumentError(f"a call takes at most {MAX_MASKS:,} masks; got {most:,}")
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise ArgumentError(f"the optimization level is 0 to 5; got {options.optimization_level}")
    there = None if options.card is None else options.card.compute_capability
    capability = options.compute_capability or there
    title = TITLES[options.flavour]
    if options.flavour == "tensorrt":
        if there is None:
            raise PlanError(
                f"{title} builds on the GPU that the plan is for, and there is none here; build there, or with "
                "TensorRT for RTX (tensorrt_rtx), which builds for a compute capability"
            )
        if capability != there:
            raise PlanError(
                f"{title} builds for the GPU that is there, of compute capability {there}; got "
                f"{printable(capability or '')}: leave it out, or build with tensorrt_rtx"
            )
        return there
    if capability is None:
        raise PlanError(
            "there is no GPU here to build for; name a compute capability (--compute-capability): "
            f"{', '.join(COMPUTE_CAPABILITIES)}"
        )
    if capability not in COMPUTE_CAPABILITIES:
        hopper = f"; for Hopper build with {TITLES['tensorrt']}, on the GPU" if capability == "9.0" else ""
        raise PlanError(
            f"{title} builds for compute capability {', '.join(COMPUTE_CAPABILITIES)}; got "
            f"{printable(capability[:20])}{hopper}"
        )
    return capability


def _configured(library: Any, builder: Any, options: BuildOptions, capability: str) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # for the inspector to tell types
    if not options.tf32:
        config.clear_flag(library.BuilderFlag.TF32)
    if options.flavour == "tensorrt_rtx":
        # Without it calls may allocate, and cannot be captured.
        config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.memory_limit_bytes is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.memory_limit_bytes)
    return config


def _timing_cache(config: Any, options: BuildOptions, lines: list[str]) -> Any:
    """Make the cache that the builder fills; None for TensorRT for RTX, which compiles where a plan runs.

    Timings that the library does not take are left aside.
    """
    if options.flavour == "tensorrt_rtx":
        return None
    cache = config.create_timing_cache(options.timing_cache)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        lines.append("warning: the timings of an earlier build are damaged, or of another GPU or version: begun anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _parse(library: Any, network: Any, content: bytes) -> None:
    parser = library.OnnxParser(network, logger(library))
    if parser.parse(content, _NO_FOLDER):
        return
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    told = "; ".join(f"{e.node_operator()} {e.node_name()!r}: {first_line(e.desc())}" for e in errors[:3])
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    raise PlanError(f"TensorRT does not take the graph: {told or 'no reason given'}{more}")


def _profile(builder: Any, network: Any, inputs: Sequence[TensorSpec], batch_sizes: tuple[int, int, int]) -> Any:
    """Set the shapes of every input; the builder would complain of one that is left out in words of its own."""
    names = {network.get_input(place).name for place in range(network.num_inputs)}
    if names != {spec.name for spec in inputs}:
        raise PlanError(
            f"a profile is needed for each input of the graph, {', '.join(sorted(names))}; got one for "
            f"{', '.join(sorted(spec.name for spec in inputs)) or 'none'}"
        )
    profile = builder.create_optimization_profile()
    for spec in inputs:
        profile.set_shape(spec.name, *((size, *spec.shape[1:]) for size in batch_sizes))
    return profile


def _convolutions(library: Any, network: Any) -> tuple[ConvolutionType, ...]:
    """List the convolutions of a parsed network, strongly typed: one of dequantized values is one of integers."""
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
        found.append(ConvolutionType(layer.name, TYPES.get(tensor.dtype.name, "other")))
    return tuple(found)


def _require(convolutions: Sequence[ConvolutionType], precision: LayerType, float_count: int) -> None:
    as_asked, count = sum(one.type == precision for one in convolutions), len(convolutions) - float_count
    if as_asked < MIN_PRECISION_SHARE * count or count < 1:
        others = ", ".join(f"{one.name} in {one.type}" for one in convolutions if one.type != precision)
        raise PlanError(
            f"{as_asked} of {count} convolutions compute in {precision}, at least {MIN_PRECISION_SHARE:.0%} have to "
            f"({others or 'there are none'}); TensorRT takes the types of the graph: export it in {precision}"
        )


@functools.cache
def _monitor(library: Any) -> Any:
    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, on_progress: Callable[[str, int, int], bool]) -> None:
            library.IProgressMonitor.__init__(self)
            self._on_progress, self._steps = on_progress, dict[str, int]()
            self.was_stopped = False
            self.error: BaseException | None = None
            """Keep what was raised in a step: the bindings would print it and go on."""

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            try:
                goes_on = self.error is None and self._on_progress(name, step + 1, self._steps.get(name, 0))
            except BaseException as error:  # noqa: BLE001 - raised where the builder has returned
                self.error, goes_on = error, False
            self.was_stopped |= not goes_on
            return goes_on

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor
