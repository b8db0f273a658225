"""ONNX files of a bundle to TensorRT plans beside them, for cards that are here or not."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from m2l_export.parity import gate
from m2l_export.parity.metrics import ParityLimits, fidelity
from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.backends.base import BackendOptions, ModelSource, PlanRef
from m2l_runtime.backends.cuda.devices import Gpu, card
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.backends.trt import library
from m2l_runtime.backends.trt.build import BuildOptions, Plan, build_plan, require_target
from m2l_runtime.bundle.schema import FileEntry, ModelFile, Parity, PlanFile, Precision, TensorRtVariant
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled, InputError, ParityError
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.types import Images

NOT_MEASURED: Final = "not measured"
MAX_TIMING_CACHE_BYTES: Final = 1 << 28
TIMINGS_HEAD: Final = b"m2l: timings of TensorRT, version 1\n"


@dataclass(frozen=True)
class PlanOptions:
    """What plans are asked for."""

    compute_capabilities: tuple[str, ...] = ()
    """Such as 8.9, a plan for each; empty: that of the card which is here."""
    flavour: TensorRtVariant | None = None
    """None: TensorRT where it is installed and the card is here, else TensorRT for RTX."""
    batch_sizes: tuple[int, int, int] = (1, 16, 64)
    """Least, most likely and largest number of masks of a call."""
    optimization_level: int | None = None
    """0 to 5; None: the library's own."""
    memory_limit_bytes: int | None = None
    """Of scratch memory on the card; None: all of it."""
    timing_cache: Path | None = None
    """A file with TensorRT's timings, read if it is there and written anew; None: the bundle's name and .timings."""


@dataclass(frozen=True)
class BuiltPlan:
    """A plan for a bundle."""

    entry: PlanFile
    plan: Plan
    log: bytes = field(repr=False)

    @property
    def files(self) -> Mapping[str, bytes]:
        """What the bundle gets, by path."""
        return {self.entry.file.path: self.plan.content, self.entry.log.path: self.log}


def resolve(options_for_plans: PlanOptions) -> tuple[BuildOptions, ...]:
    """What to build for, a plan each; told ahead of the long steps.

    Raises:
        PlanError: what is asked for is not built, or not here.
        EngineNotInstalled: the flavour is not there; with the command that installs it.
    """
    try:
        gpu: Gpu | None = card(0)
    except (DeviceUnavailable, EngineNotInstalled):
        gpu = None
    flavour = options_for_plans.flavour or _default_variant(options_for_plans.compute_capabilities, gpu)
    library.load(flavour)
    options = tuple(
        BuildOptions(
            flavour=flavour,
            batch_sizes=options_for_plans.batch_sizes,
            compute_capability=capability,
            card=gpu,
            optimization_level=options_for_plans.optimization_level,
            memory_limit_bytes=options_for_plans.memory_limit_bytes,
        )
        for capability in dict.fromkeys(options_for_plans.compute_capabilities or (None,))
    )
    for one in options:
        require_target(one)
    return options


def _default_variant(capabilities: Sequence[str], gpu: Gpu | None) -> TensorRtVariant:
    is_here = gpu is not None and set(capabilities) <= {gpu.compute_capability}
    return "tensorrt" if is_here and "tensorrt" in library.installed() else "tensorrt_rtx"


@dataclass(frozen=True)
class GateImages:
    """What a plan's images are compared with where its card is here."""

    inputs: gate.Inputs
    reference: Images
    mask_count: int
    label: str
    """What made the reference."""
    accepted_levels: int
    """By which plans in fp32 and fp16 may be off."""
    limits: ParityLimits
    """What plans in int8 may be off."""


def build(
    models: Sequence[ModelFile],
    contents: Mapping[str, bytes],
    source: ModelSource,
    precisions: Sequence[Precision],
    options: Sequence[BuildOptions],
    images: GateImages,
    timings: bytes,
    on_step: Callable[[str], None],
    on_progress: Callable[[str, int, int], bool],
) -> tuple[list[BuiltPlan], bytes]:
    """(a plan of each model for tensorrt, in each of `precisions`, for each of `options`; timings).

    Args:
        models: of the bundle.
        contents: their files, by path.
        source: inputs and outputs are taken from it.
        precisions: to build plans in.
        options: of :func:`resolve`.
        images: to compare with those of plans that run here.
        timings: TensorRT's, of earlier builds.
        on_step: is called with what is done, and found.
        on_progress: see :func:`m2l_runtime.backends.trt.build.build_plan`.

    Raises:
        PlanError: a plan was not built, or is not what was asked for.
        ParityError: a plan that runs here gives other images.
    """
    built_plans = []
    wanted = [m for precision in precisions for m in models if m.precision == precision and "tensorrt" in m.engines]
    for model in wanted:
        content = contents[model.file.path]
        for one in options:
            title = library.TITLES[one.flavour]
            target = one.compute_capability or f"{one.card.compute_capability if one.card else '?'}, the card here"
            on_step(f"building a plan in {model.precision} with {title} for compute capability {target}")
            plan = build_plan(
                content,
                source.inputs,
                model.precision,
                dataclasses.replace(one, timing_cache=timings),
                on_progress,
                float_count=len(model.float_layers),
            )
            timings = plan.timing_cache or timings
            built = _bundled(plan, model)
            for line in describe_types(plan):
                on_step(line)
            if one.card is not None and one.card.compute_capability == plan.compute_capability:
                on_step("the gate: the same images through the plan")
                parity = _measure(built, model, content, source, images)
                built = dataclasses.replace(built, entry=msgspec.structs.replace(built.entry, parity=parity))
            built_plans.append(built)
    return built_plans, timings


def describe_types(plan: Plan) -> list[str]:
    """What each convolution computes in, for a person."""
    where = "the finished engine" if plan.types_read_from == "engine" else "the network that was built"
    counts = ", ".join(f"{count} in {kind}" for kind, count in plan.counts.items())
    lines = [f"  {counts}, as read in {where}; built in {plan.seconds:.1f} s, {len(plan.content):,} bytes"]
    return lines + [f"  {one.type:5} {printable(one.name)}" for one in plan.convolutions]


def _bundled(plan: Plan, model: ModelFile) -> BuiltPlan:
    capability = plan.compute_capability.replace(".", "")
    name = f"generator.{model.precision}.{plan.flavour}-{plan.version}.sm{capability}"
    head = (
        f"m2l {__version__}: {model.file.path} (sha256 {plan.onnx_sha256}) by {plan.flavour} {plan.version} for "
        f"compute capability {plan.compute_capability}, {', '.join(map(str, plan.batch_sizes))} masks a call, in "
        f"{plan.seconds:.1f} s"
    )
    types = [f"convolution: {one.type} {one.name}" for one in plan.convolutions]
    log = ("\n".join([head, *types, *plan.log]) + "\n").encode()
    entry = PlanFile(
        file=FileEntry.from_content(f"{name}.plan", plan.content),
        log=FileEntry.from_content(f"{name}.log", log),
        flavour=plan.flavour,
        version=plan.version,
        compute_capability=plan.compute_capability,
        card=plan.card,
        precision=model.precision,
        batch_sizes=plan.batch_sizes,
        onnx_sha256=plan.onnx_sha256,
        convolutions=dict(plan.counts),
        types_read_from=plan.types_read_from,
        parity=NOT_MEASURED,
    )
    return BuiltPlan(entry, plan, log)


def _measure(
    built: BuiltPlan,
    model: ModelFile,
    content: bytes,
    source: ModelSource,
    images: GateImages,
) -> Parity:
    """Run the plan, and compare; it was made here, so that it can be trusted."""
    runnable = dataclasses.replace(
        source,
        name=model.file.path,
        content=content,
        precision=model.precision,
        sha256=model.file.sha256,
        plans=(PlanRef(built.entry, lambda: built.plan.content),),
    )
    batch_size = built.plan.batch_sizes[1]
    options = BackendOptions(
        device="cuda", precision=model.precision, batch_size=batch_size, streams=2, trust_plans=True
    )
    backend = backend_module("tensorrt").load(runnable, options)
    try:
        if [note for note in backend.notes if "is not used" in note]:
            raise ParityError(f"the plan {built.entry.file.path} is not the one that ran: {'; '.join(backend.notes)}")
        plan_images = run_in_batches(backend, images.inputs)
        engine = f"{backend.settings.engine}, {backend.settings.device}"
    finally:
        backend.close()
    largest, mean, psnr = gate.compare(images.reference, plan_images)
    if model.precision == "int8":
        misses = fidelity(images.reference, plan_images).misses(images.limits)
    else:
        index = int(
            np.abs(plan_images.astype(np.int16) - images.reference).reshape(len(plan_images), -1).max(1).argmax()
        )
        off = f"up to {largest} levels (mean {mean:.4f}, worst at mask {index % images.mask_count}), at most "
        misses = [f"{off}{images.accepted_levels} accepted"] if largest > images.accepted_levels else []
    if misses:
        raise ParityError(
            f"the plan {built.entry.file.path} is too far from the network: {'; '.join(misses)}; nothing was written"
        )
    return Parity(
        reference=images.label,
        engine=engine,
        mask_count=images.mask_count,
        batch_sizes=(batch_size,),
        max_level_difference=largest,
        mean_level_difference=round(mean, 6),
        psnr_db=None if psnr is None else round(psnr, 2),
        accepted_max_level_difference=None if model.precision == "int8" else images.accepted_levels,
    )


def timings_file(options_for_plans: PlanOptions, options: Sequence[BuildOptions], bundle: Path) -> Path | None:
    """Where TensorRT's timings are kept; None of TensorRT for RTX, which has none.

    Raises:
        InputError: one is named for TensorRT for RTX.
        OutputError: it cannot be written.
    """
    if all(one.flavour == "tensorrt_rtx" for one in options):
        if options_for_plans.timing_cache is not None:
            raise InputError("TensorRT for RTX keeps no timings; leave out --timing-cache")
        return None
    place = Path(os.path.abspath(bundle))  # noqa: PTH100 - which takes no link for its target
    path = options_for_plans.timing_cache or place.with_name(f"{place.name}.timings")
    atomic.check_new_file(path, overwrite=True)
    return path


def read_timings(path: Path) -> bytes:
    """TensorRT's timings of an earlier build; none if there is no file.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TIMING_CACHE_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"the timings {printable(path)} cannot be read: {error.strerror or error}") from None
    if not content.startswith(TIMINGS_HEAD):
        raise InputError(
            f"{printable(path)} is not a file of timings that m2l wrote, and would be replaced; "
            "name another with --timing-cache"
        )
    return content.removeprefix(TIMINGS_HEAD)


def write_timings(path: Path, timings: bytes) -> None:
    """Keep them for later builds.

    Raises:
        OutputError: the file cannot be written.
    """
    atomic.write_file(path, TIMINGS_HEAD + timings)
