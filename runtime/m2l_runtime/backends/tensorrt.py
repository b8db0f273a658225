"""Run plans on TensorRT or TensorRT for RTX: a bundle's plan if it is trusted, else one built here and kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from m2l_runtime.backends.base import BUNDLE_PLAN_NOTE, BackendOptions, BackendSettings, ModelSource
from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.backends.cuda.backend import BATCH_SIZE, STREAMS, CudaBackend, open_executor
from m2l_runtime.backends.cuda.executor import Executor
from m2l_runtime.backends.cuda.runtime_api import BindingsRuntime, CudaRuntime
from m2l_runtime.backends.registry import read_device
from m2l_runtime.backends.trt import library as libraries
from m2l_runtime.backends.trt.build import COMPUTE_CAPABILITIES, BuildOptions, PlanError, build_plan
from m2l_runtime.backends.trt.engine import TensorRtEngine
from m2l_runtime.backends.trt.plans import Environment, cache_folder, detect_environment, find_plan, plan_cache_key
from m2l_runtime.bundle.schema import TensorRtVariant
from m2l_runtime.errors import DeviceUnavailable, EngineError, OutputError


def load(source: ModelSource, options: BackendOptions) -> CudaBackend:
    """Load a plan for one ONNX file on the GPU asked for; see BackendModule. The GPU is looked for before all else."""
    kind, index = read_device(options.device)
    if kind == "cpu":
        raise DeviceUnavailable(
            f"the backend 'tensorrt' runs on NVIDIA GPUs; choose device cuda, or another backend or precision than "
            f"{source.precision} (m2l inspect lists them)"
        )
    if options.provider_options:
        raise EngineError("provider options are for onnxruntime on CUDA; tensorrt takes none")
    environment = detect_environment(index)
    batch_size = options.batch_size or BATCH_SIZE
    streams = STREAMS if options.streams is None else options.streams
    cuda_runtime = BindingsRuntime(index)
    cuda_runtime.make_current()  # what TensorRT makes, it makes on the GPU that is current
    cache, notes = _cache(options)
    force_rebuild = False
    while True:
        selected = _plan(source, options, environment, batch_size, cache, force_rebuild)
        try:
            executor = _start_executor(cuda_runtime, source, selected, environment, batch_size, streams, cache)
            break
        except PlanError:
            if not selected.is_cached:
                raise
            force_rebuild = True  # hash and words are right, and the library does not take it: build it once more
    settings = BackendSettings(
        backend="tensorrt",
        engine=f"{selected.flavour} {environment.versions[selected.flavour]}",
        device=f"cuda:{index}",
        precision=source.precision,
        batch_size=batch_size,
        threads=1,
        streams=streams,
    )
    return CudaBackend(executor, settings, notes + selected.notes, selected.build_s)


@dataclass(frozen=True)
class _SelectedPlan:
    content: bytes
    flavour: TensorRtVariant
    name: str
    """Name for messages."""
    notes: tuple[str, ...] = ()
    build_s: float | None = None
    """Seconds that the build took; None: it was there already."""
    is_cached: bool = False
    """Whether it comes from the cache."""


def _plan(
    source: ModelSource,
    options: BackendOptions,
    environment: Environment,
    batch_size: int,
    cache: CompiledCache | None,
    force_rebuild: bool,
) -> _SelectedPlan:
    """Find a plan of the bundle that fits, else of the cache unless it is to be made anew; else build and keep one."""
    search = find_plan(source.plans, environment, source.precision, batch_size, options.trust_plans)
    if search.plan_ref is not None:
        entry = search.plan_ref.entry
        name = f"{entry.file.path} (without --trust-plans one is built here)"
        return _SelectedPlan(search.plan_ref.read(), entry.flavour, name, (f"{BUNDLE_PLAN_NOTE} {entry.file.path}",))
    notes = tuple(f"the bundle's plan is not used: {reason}" for reason in search.reasons)
    flavour = environment.builder
    if flavour is None:
        raise EngineError(_no_builder_message(environment, search.reasons))
    name = f"of {source.name}"
    onnx_sha256 = source.sha256 or hashlib.sha256(source.content).hexdigest()
    cache_key = plan_cache_key(environment, flavour, source.precision, batch_size, onnx_sha256)
    waiting = "another process builds this plan; waiting for it"
    lock = nullcontext() if cache is None else cache.locked(cache_key, lambda: options.on_step(waiting))
    with lock:  # of several processes that need the plan, one builds it
        cached = None if force_rebuild else _read(cache, cache_key)
        if cached is not None:
            return _SelectedPlan(cached, flavour, name, notes, is_cached=True)
        options.on_step(
            f"building a plan of {source.name} for {batch_size} masks a call, which may take minutes, on {environment}"
        )
        began = time.perf_counter()
        plan = build_plan(
            source.content,
            source.inputs,
            source.precision,
            BuildOptions(flavour=flavour, batch_sizes=(batch_size, batch_size, batch_size), card=environment.card),
            float_count=source.float_layer_count,
        )
        build_s = time.perf_counter() - began
        notes += _store_in_cache(cache, cache_key, plan.content, "the plan")
    return _SelectedPlan(
        plan.content, flavour, name, (*notes, f"built a plan in {build_s:.1f} s, on {environment}"), build_s
    )


def _cache(options: BackendOptions) -> tuple[CompiledCache | None, tuple[str, ...]]:
    """Return (where plans are kept, what to say of it); nowhere, if it was not asked for and cannot be."""
    if options.cache_dir is not None:
        cache = CompiledCache(options.cache_dir)
        return cache, cache.notes
    try:
        cache = CompiledCache(cache_folder())
    except (OutputError, RuntimeError) as error:  # the latter where there is no home
        return None, (f"plans are not kept for the next time: {error}; name a folder with --cache-dir",)
    return cache, cache.notes


def _start_executor(
    cuda_runtime: CudaRuntime,
    source: ModelSource,
    selected: _SelectedPlan,
    environment: Environment,
    batch_size: int,
    streams: int,
    cache: CompiledCache | None,
) -> Executor:
    """Make an executor of the plan, warmed up; kernels that were compiled on the way are kept for the next time."""
    plan_sha256 = hashlib.sha256(selected.content).hexdigest()
    cache_key = plan_cache_key(environment, selected.flavour, source.precision, batch_size, plan_sha256) | {
        "part": "kernels"
    }
    kernels = _read(cache, cache_key) or b""
    library = libraries.load(selected.flavour)
    engine = TensorRtEngine(library, selected.content, source.inputs, source.outputs, selected.name, kernels)
    executor = open_executor(cuda_runtime, engine, source.inputs, source.outputs, batch_size, streams)
    compiled = engine.kernels
    if compiled and compiled != kernels:
        _store_in_cache(cache, cache_key, compiled, "the kernels")
    return executor


def _read(cache: CompiledCache | None, cache_key: Mapping[str, str]) -> bytes | None:
    """Read what was kept; None if nothing was, or if it is damaged."""
    if cache is None:
        return None
    cached = bytearray()

    def allocate(size: int) -> memoryview:
        cached.extend(bytes(size))
        return memoryview(cached)

    return bytes(cached) if cache.read(cache_key, allocate) else None


def _store_in_cache(
    cache: CompiledCache | None, cache_key: Mapping[str, str], content: bytes, what: str
) -> tuple[str, ...]:
    """Keep it; return a note where that fails, which is no reason not to go on."""
    if cache is None:
        return ()
    try:
        cache.write(cache_key, content)
    except OutputError as error:
        return (f"{what} is not kept for the next time: {error}",)
    return ()


def _no_builder_message(environment: Environment, reasons: tuple[str, ...]) -> str:
    """Name both sides: what the bundle's plans are for, and what is here."""
    capability = environment.card.compute_capability
    if "tensorrt_rtx" in environment.versions and capability not in COMPUTE_CAPABILITIES:
        available = (
            f"TensorRT for RTX builds for compute capability {', '.join(COMPUTE_CAPABILITIES)}; for this GPU: "
            f"{libraries.INSTALL['tensorrt']}"
        )
    else:
        available = "; or ".join(f"{libraries.TITLES[name]}: {how}" for name, how in libraries.INSTALL.items())
    had = "; ".join(reasons) or "the bundle has none"
    return f"no plan runs here, on {environment}: {had}; and none can be built: {available}"
