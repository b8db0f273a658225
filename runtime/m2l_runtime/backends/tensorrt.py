"""Plans on TensorRT or TensorRT for RTX, on NVIDIA cards: a bundle's if it is trusted, else one built here and kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from m2l_runtime.backends.base import BUNDLES_PLAN, BackendOptions, ModelSource, Settings
from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.backends.cuda.backend import BATCH_SIZE, STREAMS, RingBackend, open_ring
from m2l_runtime.backends.cuda.executor import Ring
from m2l_runtime.backends.cuda.runtime_api import CudaDriver, Driver
from m2l_runtime.backends.registry import read_device
from m2l_runtime.backends.trt import library as libraries
from m2l_runtime.backends.trt.build import COMPUTE_CAPABILITIES, BuildOptions, PlanError, build_plan
from m2l_runtime.backends.trt.engine import TensorRtEngine
from m2l_runtime.backends.trt.plans import Here, cache_folder, cache_words, find, look_around
from m2l_runtime.bundle.schema import Flavour
from m2l_runtime.errors import DeviceUnavailable, EngineError, OutputError


def load(source: ModelSource, options: BackendOptions) -> RingBackend:
    """A plan for one ONNX file on the card asked for; see BackendModule. The card is looked for ahead of all else."""
    kind, index = read_device(options.device)
    if kind == "cpu":
        raise DeviceUnavailable(
            f"the backend 'tensorrt' runs on NVIDIA cards; choose device cuda, or another backend or precision than "
            f"{source.precision} (m2l inspect lists them)"
        )
    if options.provider_options:
        raise EngineError("provider options are for onnxruntime on CUDA; tensorrt takes none")
    here = look_around(index)
    batch_size = options.batch_size or BATCH_SIZE
    streams = STREAMS if options.streams is None else options.streams
    driver = CudaDriver(index)
    driver.make_current()  # what TensorRT makes, it makes on the card that is current
    cache, notes = _cache(options)
    is_anew = False
    while True:
        chosen = _plan(source, options, here, batch_size, cache, is_anew)
        try:
            ring = _ring(driver, source, chosen, here, batch_size, streams, cache)
            break
        except PlanError:
            if not chosen.is_kept:
                raise
            is_anew = True  # hash and words are right, and the library does not take it: build it once more
    settings = Settings(
        backend="tensorrt",
        engine=f"{chosen.flavour} {here.versions[chosen.flavour]}",
        device=f"cuda:{index}",
        precision=source.precision,
        batch_size=batch_size,
        threads=1,
        streams=streams,
    )
    return RingBackend(ring, settings, notes + chosen.notes, chosen.build_s)


@dataclass(frozen=True)
class _Chosen:
    content: bytes
    flavour: Flavour
    name: str
    """For messages."""
    notes: tuple[str, ...] = ()
    build_s: float | None = None
    """None: it was there already."""
    is_kept: bool = False
    """Whether it comes from the cache."""


def _plan(
    source: ModelSource,
    options: BackendOptions,
    here: Here,
    batch_size: int,
    cache: CompiledCache | None,
    is_anew: bool,
) -> _Chosen:
    """A plan of the bundle that fits, else of the cache unless it is to be made anew, else built and kept there."""
    search = find(source.plans, here, source.precision, batch_size, options.trust_engines)
    if search.offer is not None:
        entry = search.offer.entry
        name = f"{entry.file.path} (without --trust-engines one is built here)"
        return _Chosen(search.offer.read(), entry.flavour, name, (f"{BUNDLES_PLAN} {entry.file.path}",))
    notes = tuple(f"the bundle's plan is not used: {reason}" for reason in search.reasons)
    flavour = here.builder
    if flavour is None:
        raise EngineError(_no_builder(here, search.reasons))
    name = f"of {source.name}"
    onnx_sha256 = source.sha256 or hashlib.sha256(source.content).hexdigest()
    words = cache_words(here, flavour, source.precision, batch_size, onnx_sha256)
    waiting = "another process builds this plan; waiting for it"
    lock = nullcontext() if cache is None else cache.locked(words, lambda: options.on_step(waiting))
    with lock:  # of several processes that need the plan, one builds it
        kept = None if is_anew else _read(cache, words)
        if kept is not None:
            return _Chosen(kept, flavour, name, notes, is_kept=True)
        options.on_step(
            f"building a plan of {source.name} for {batch_size} masks a call, which may take minutes, on {here}"
        )
        began = time.perf_counter()
        plan = build_plan(
            source.content,
            source.inputs,
            source.precision,
            BuildOptions(flavour=flavour, batch_sizes=(batch_size, batch_size, batch_size), card=here.card),
            float_count=source.float_layer_count,
        )
        build_s = time.perf_counter() - began
        notes += _keep(cache, words, plan.content, "the plan")
    return _Chosen(plan.content, flavour, name, (*notes, f"built a plan in {build_s:.1f} s, on {here}"), build_s)


def _cache(options: BackendOptions) -> tuple[CompiledCache | None, tuple[str, ...]]:
    """(where plans are kept, what to say of it); nowhere, if it was not asked for and cannot be."""
    if options.cache_dir is not None:
        return CompiledCache(options.cache_dir), ()
    try:
        return CompiledCache(cache_folder()), ()
    except (OutputError, RuntimeError) as error:  # the latter where there is no home
        return None, (f"plans are not kept for the next time: {error}; name a folder with --cache-dir",)


def _ring(
    driver: Driver,
    source: ModelSource,
    chosen: _Chosen,
    here: Here,
    batch_size: int,
    streams: int,
    cache: CompiledCache | None,
) -> Ring:
    """A ring that drives the plan, warmed up; kernels that were compiled on the way are kept for the next time."""
    plan_sha256 = hashlib.sha256(chosen.content).hexdigest()
    words = cache_words(here, chosen.flavour, source.precision, batch_size, plan_sha256) | {"part": "kernels"}
    kernels = _read(cache, words) or b""
    library = libraries.load(chosen.flavour)
    engine = TensorRtEngine(library, chosen.content, source.inputs, source.outputs, chosen.name, kernels)
    ring = open_ring(driver, engine, source.inputs, source.outputs, batch_size, streams)
    compiled = engine.kernels
    if compiled and compiled != kernels:
        _keep(cache, words, compiled, "the kernels")
    return ring


def _read(cache: CompiledCache | None, words: Mapping[str, str]) -> bytes | None:
    """What was kept; None if nothing was, or if it is damaged."""
    if cache is None:
        return None
    kept = bytearray()

    def allocate(size: int) -> memoryview:
        kept.extend(bytes(size))
        return memoryview(kept)

    return bytes(kept) if cache.read(words, allocate) else None


def _keep(cache: CompiledCache | None, words: Mapping[str, str], content: bytes, what: str) -> tuple[str, ...]:
    """Keep it; a note where that fails, which is no reason not to go on."""
    if cache is None:
        return ()
    try:
        cache.write(words, content)
    except OutputError as error:
        return (f"{what} is not kept for the next time: {error}",)
    return ()


def _no_builder(here: Here, reasons: tuple[str, ...]) -> str:
    """Both sides: what the bundle's plans are for, and what is here."""
    capability = here.card.compute_capability
    if "tensorrt_rtx" in here.versions and capability not in COMPUTE_CAPABILITIES:
        ways = (
            f"TensorRT for RTX builds for compute capability {', '.join(COMPUTE_CAPABILITIES)}; for this card: "
            f"{libraries.INSTALL['tensorrt']}"
        )
    else:
        ways = "; or ".join(f"{libraries.TITLES[name]}: {how}" for name, how in libraries.INSTALL.items())
    had = "; ".join(reasons) or "the bundle has none"
    return f"no plan runs here, on {here}: {had}; and none can be built: {ways}"
