"""Build TensorRT plans of a bundle's ONNX files, for the GPU of this machine or for other GPUs (cross-build)."""

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
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.reading import open_input, read_at_most
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.backends.base import BackendOptions, ModelSource, PlanRef
from m2l_runtime.backends.cuda.devices import Gpu, find_gpu
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


@check_types()
@dataclass(frozen=True)
class PlanOptions:
    """Describe the TensorRT plans to build.

    Example:
        >>> from m2l_export import PlanOptions
        >>> options = PlanOptions(compute_capabilities=("8.6", "8.9"), tensorrt_variant="tensorrt_rtx")
        >>> options.batch_sizes
        (1, 16, 64)
    """

    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build for, such as 8.9; one plan for each. Empty: the GPU of this machine."""
    tensorrt_variant: TensorRtVariant | None = None
    """Library that builds. None: TensorRT if it is installed and the GPU is in this machine, else TensorRT for RTX."""
    batch_sizes: tuple[int, int, int] = (1, 16, 64)
    """Smallest, most likely and largest number of masks per call."""
    optimization_level: int | None = None
    """How long the builder searches, 0 to 5. None: the library's default."""
    memory_limit_bytes: int | None = None
    """Scratch memory of a plan. None: all of the GPU's memory."""
    timing_cache: Path | None = None
    """File of TensorRT's timings. It is read if it exists, and replaced. None: the bundle's path with .timings."""


@dataclass(frozen=True)
class BuiltPlan:
    """Hold a plan, and its entry in the manifest."""

    entry: PlanFile
    plan: Plan
    log: bytes = field(repr=False)

    @property
    def files(self) -> Mapping[str, bytes]:
        """Files to add to the bundle, by path."""
        return {self.entry.file.path: self.plan.content, self.entry.log.path: self.log}


def resolve(plan_options: PlanOptions) -> tuple[BuildOptions, ...]:
    """Settle the library and the GPUs, and check that it builds for them. It costs little, so it comes first.

    Returns:
        The builder's options for each compute capability.

    Raises:
        PlanError: the library does not build for a GPU that is asked for, or none is named and none is here.
        EngineNotInstalled: the library is not installed; the message has the command that installs it.
    """
    try:
        gpu: Gpu | None = find_gpu(0)
    except (DeviceUnavailable, EngineNotInstalled):
        gpu = None
    variant = plan_options.tensorrt_variant or _default_variant(plan_options.compute_capabilities, gpu)
    library.load(variant)
    options = tuple(
        BuildOptions(
            flavour=variant,
            batch_sizes=plan_options.batch_sizes,
            compute_capability=capability,
            card=gpu,
            optimization_level=plan_options.optimization_level,
            memory_limit_bytes=plan_options.memory_limit_bytes,
        )
        for capability in dict.fromkeys(plan_options.compute_capabilities or (None,))
    )
    for one in options:
        require_target(one)
    return options


def _default_variant(capabilities: Sequence[str], gpu: Gpu | None) -> TensorRtVariant:
    is_here = gpu is not None and set(capabilities) <= {gpu.compute_capability}
    return "tensorrt" if is_here and "tensorrt" in library.installed() else "tensorrt_rtx"


@dataclass(frozen=True)
class GateImages:
    """Hold what a plan's images are compared with if its GPU is in this machine."""

    inputs: gate.Inputs
    reference: Images
    mask_count: int
    label: str
    """Words for what made the reference."""
    accepted_levels: int
    """Largest difference that is accepted of plans in fp32 and fp16, in levels."""
    limits: ParityLimits
    """How far from the reference plans in int8 may be."""


def build_plans(
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
    """Build a plan of each model for TensorRT, in each of `precisions`, for each of `options`.

    Args:
        models: ONNX files of the bundle.
        contents: their bytes, by path.
        source: the fp32 file, for its inputs and outputs.
        precisions: precisions to build plans in.
        options: the result of :func:`resolve`.
        images: what the images of plans that run here are compared with.
        timings: TensorRT's timings of earlier builds.
        on_step: called with a line of text for each step and what it found.
        on_progress: see :func:`m2l_runtime.backends.trt.build.build_plan`.

    Returns:
        The plans, and TensorRT's timings with those of these builds.

    Raises:
        PlanError: a plan cannot be built, or is not what was asked for.
        ParityError: a plan that runs here gives other images.
    """
    built_plans = []
    wanted = [m for precision in precisions for m in models if m.precision == precision and "tensorrt" in m.engines]
    for model in wanted:
        content = contents[model.file.path]
        for one in options:
            title = library.TITLES[one.flavour]
            target = one.compute_capability or f"{one.card.compute_capability if one.card else '?'}, the GPU here"
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
                on_step("validating: the same images through the plan")
                parity = _measure(built, model, content, source, images)
                built = dataclasses.replace(built, entry=msgspec.structs.replace(built.entry, parity=parity))
            built_plans.append(built)
    return built_plans, timings


def describe_types(plan: Plan) -> list[str]:
    """Describe what each convolution computes in, a line each."""
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
    """Run the plan and compare its images. The plan was made here, so it can be trusted."""
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


def timings_file(plan_options: PlanOptions, options: Sequence[BuildOptions], bundle: Path) -> Path | None:
    """Find the file that TensorRT's timings are kept in. None for TensorRT for RTX, which has no timings.

    Raises:
        InputError: a file is named for TensorRT for RTX.
        OutputError: the file cannot be written.
    """
    if all(one.flavour == "tensorrt_rtx" for one in options):
        if plan_options.timing_cache is not None:
            raise InputError("TensorRT for RTX keeps no timings; leave out --timing-cache")
        return None
    place = Path(os.path.abspath(bundle))  # noqa: PTH100 - resolve() would follow a link
    path = plan_options.timing_cache or place.with_name(f"{place.name}.timings")
    atomic.check_new_file(path, overwrite=True)
    return path


def read_timings(path: Path) -> bytes:
    """Read TensorRT's timings of earlier builds; empty if there is no file.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        with open_input(path) as file:
            content = read_at_most(file, MAX_TIMING_CACHE_BYTES)
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
    """Write TensorRT's timings for later builds.

    Raises:
        OutputError: the file cannot be written.
    """
    atomic.write_file(path, TIMINGS_HEAD + timings)
