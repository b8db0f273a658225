"""Export a checkpoint as a bundle, validated before it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from m2l_export.checkpoint import Checkpoint, Generator, load_checkpoint
from m2l_export.graph.deploy import (
    STORED_FORMS,
    Deployed,
    deploy,
    dropout_byte_count,
    require_dropout,
    require_modulated_options,
)
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.onnx_writer import BATCH, IMAGE, OPSET, input_specs, to_onnx
from m2l_export.manifest import (
    BundleContents,
    GoldenImages,
    assemble_manifest,
    describe_network,
    describe_provenance,
    to_npz,
)
from m2l_export.options import ACCEPTED_LEVELS, DEFAULT_CALIBRATION, ExportOptions
from m2l_export.parity import gate
from m2l_export.precisions import (
    ModelVariant,
    Reference,
    build_fp16_variant,
    build_int8_variant,
    evaluate,
    evaluate_bfloat16,
    validate_variant,
)
from m2l_export.quantize.calibration import Calibration, read_calibration
from m2l_export.quantize.quantizer import Target
from m2l_export.run_provenance import RunProvenance, find_run_provenance
from m2l_export.targets import (
    ENGINES,
    REFERENCE_ENGINE,
    TENSORRT,
    choose_targets,
    computes,
    fp32_engines,
    require_plan_targets,
)
from m2l_export.tensorrt import (
    BuiltPlan,
    GateImages,
    build_plans,
    read_timings,
    resolve,
    timings_file,
    write_timings,
)
from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.sides import Sides, plain_sides, read_sides, shown_sides
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.backends.trt.build import BuildOptions
from m2l_runtime.bundle.io import Bundle, require_bundle, write_bundle
from m2l_runtime.bundle.schema import FileEntry, Manifest, ModelFile, Parity, Precision, TensorSpec
from m2l_runtime.conditioning import appearance
from m2l_runtime.conditioning.conditions import Appearances
from m2l_runtime.errors import ArgumentError, CheckpointError, InputError, OutputError
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.types import Images
from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec
from m2l_train.models.networks import UnetSpec
from m2l_train.models.resnet import MIN_SIDE, ResnetSpec

MAX_SIDE: Final = 4096

FEW_STEPS: Final = 1000
"""Steps of training below which a bundle says that its network has hardly been trained. The paper's has 400,000."""

DEFAULT_SIDE: Final = 256
"""Side of masks and images of a modulated or a ResNet generator where nothing is said: their layers do not tell."""

OnStep = Callable[[str], None]
OnProgress = Callable[[str, int, int], bool]


@dataclass(frozen=True)
class ExportReport:
    """Hold what an export made.

    Example:
        >>> import tempfile, torch
        >>> from m2l_export import export_checkpoint
        >>> from m2l_train.models.networks import UnetGenerator, UnetSpec
        >>> network = UnetGenerator(UnetSpec(levels=5, ngf=2, input_nc=3, output_nc=3, norm="instance"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(network.state_dict(), f"{folder}/latest_net_G.pth")
        ...     report = export_checkpoint(f"{folder}/latest_net_G.pth", f"{folder}/my-bundle")
        >>> report.parity.max_level_difference <= 1
        True
        >>> [model.precision for model in report.bundle.manifest.models if "onnxruntime" in model.engines]
        ['fp32']
    """

    bundle: Bundle
    parity: Parity
    """Metrics of the fp32 file on onnxruntime."""
    warnings: tuple[str, ...]
    variants: tuple[ModelVariant, ...] = ()
    """Files in precisions below fp32, with their metrics."""
    plans: tuple[BuiltPlan, ...] = ()
    """TensorRT plans."""


@check_types(renamed={"form": "upsampling"})
def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    on_step: OnStep = lambda _: None,
    on_progress: OnProgress = lambda *_: True,
) -> ExportReport:
    """Export a checkpoint of pytorch-CycleGAN-and-pix2pix or of m2l, or a run of `m2l train`, as a bundle.

    Nothing is written before validation has passed. It compares the images of the ONNX file on onnxruntime with
    those of the network in PyTorch, over the example masks, black, white, a dot, noise and a disc, at batch sizes 1, 3
    and 8. It does the same on OpenVINO where that is installed. Precisions below fp32 are compared with fp32, over at
    least 100 masks that they were not calibrated on.

    Args:
        checkpoint: a ``*_net_G.pth`` file, from which the network's kind, depth, width, channels and norm are inferred.
            Or the folder of a run of `m2l train`, for its latest_net_G.pth. What the run says about itself goes into
            the bundle's provenance, also for another file that the run has kept.
        bundle: folder to make. It is built beside its place and renamed.
        options: how to export; None: the defaults of `ExportOptions`.
        on_step: called with a line of text as each step begins.
        on_progress: called as a plan is built, with a phase and how many of how many steps are done; False stops.

    Raises:
        CheckpointError: the file is no generator of a known kind, cannot run at the image size, has no dropout or not
            the upsampling asked for, or has weights that fp16 cannot hold.
        InputError: an option is out of range, or a mask cannot be read.
        ParityError: validation did not pass.
        EngineNotInstalled: onnxruntime is missing, or no engine is installed that computes a precision asked for,
            which is required or all that was asked for; EngineError: likewise, if it computes in another one here.
        PlanError: a plan cannot be built, or is not what was asked for.
        OutputError: `bundle` exists and may not be replaced, or cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from m2l_export import ExportOptions, export_checkpoint
        >>> from m2l_train.models.networks import UnetGenerator, UnetSpec
        >>> network = UnetGenerator(UnetSpec(levels=5, ngf=2, input_nc=3, output_nc=3, norm="instance"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(network.state_dict(), f"{folder}/latest_net_G.pth")
        ...     options = ExportOptions(name="tiny", weights="fp16")
        ...     report = export_checkpoint(f"{folder}/latest_net_G.pth", f"{folder}/my-bundle", options)
        >>> report.bundle.manifest.name, report.bundle.manifest.image_size
        ('tiny', (32, 32))
    """
    task = Task(Path(bundle), options or ExportOptions(), on_step, on_progress)
    targets = plan_targets(task)
    loaded = load(task, checkpoint)
    data = collect_inputs(task, targets, loaded)
    graph = build_graph(task, loaded, data)
    validated = validate(task, loaded, data, graph)
    variants = add_precisions(task, targets, loaded, data, graph, validated)
    models, plans, timings = add_plans(task, targets, data, graph, validated, variants)
    contents = BundleContents(
        title=printable(task.options.name or task.bundle.resolve().name)[:200],
        image_size=loaded.image_size,
        source=graph.source,
        models=models,
        plans=tuple(one.entry for one in plans),
        golden=validated.golden,
        network=describe_network(loaded.checkpoint, graph.deployed, graph.source),
        provenance=describe_provenance(loaded.checkpoint, loaded.run),
        warnings=_warnings(task.options, data, loaded, validated, variants),
        table=data.table,
        sampled_count=data.sampled_count,
        names=loaded.network.spec.names,
        sensitivities={one.model.engines[0]: one.sensitivity for one in variants if one.sensitivity is not None},
    )
    manifest, files = assemble_manifest(contents, task.options)
    for plan in plans:
        files |= plan.files
    written = write(task, targets, manifest, _model_files(graph, variants) | files, timings)
    return ExportReport(written, validated.base.parity, contents.warnings, variants, plans)


@dataclass(frozen=True)
class Task:
    """Hold what a call of `export_checkpoint` is told, beside the checkpoint."""

    bundle: Path
    options: ExportOptions
    on_step: OnStep
    on_progress: OnProgress


@dataclass(frozen=True)
class Targets:
    """Hold what an export is to make, settled before the long steps."""

    engines: Mapping[Precision, tuple[Target, ...]]
    """Engines by precision below fp32."""
    builds: Sequence[BuildOptions] = ()
    """TensorRT plans to build in each precision."""
    timings_path: Path | None = None
    timings: bytes = b""
    """TensorRT's timings of earlier builds."""


def plan_targets(task: Task) -> Targets:
    """Check the options that can be checked before the long steps, and settle what is to be made.

    Raises:
        InputError, OutputError, EngineNotInstalled, PlanError: see `export_checkpoint`.
    """
    options = task.options
    _check_bundle_path(task.bundle, options.overwrite)
    if not 0 <= options.accepted_levels <= 255:
        raise ArgumentError(f"--max-level-difference must be between 0 and 255, got {options.accepted_levels}")
    backend_module(REFERENCE_ENGINE)  # without it nothing is validated
    engines = choose_targets(
        options.lower_precisions,
        options.engines,
        options.plans is not None,
        task.on_step,
        require=options.require,
        has_others="fp32" in options.precisions,
    )
    if options.plans is None:
        return Targets(engines)
    builds = resolve(options.plans)
    timings_path = timings_file(options.plans, builds, task.bundle)
    timings = b"" if timings_path is None else read_timings(timings_path)
    require_plan_targets(options.precisions, engines)
    return Targets(engines, builds, timings_path, timings)


@dataclass(frozen=True)
class LoadedNetwork:
    """Hold a network as trained, and what is known of it."""

    name: str
    """Its path as given, fit to print."""
    checkpoint: Checkpoint
    run: RunProvenance
    image_size: tuple[int, int]
    """(height, width) of masks and images."""

    @property
    def network(self) -> Generator:
        """On the CPU, in fp32 and evaluation mode."""
        return self.checkpoint.network


def load(task: Task, path: str | os.PathLike[str]) -> LoadedNetwork:
    """Read the checkpoint, and check that the options suit its network.

    Raises:
        CheckpointError: see `export_checkpoint`.
    """
    options, name = task.options, printable(path)
    run = find_run_provenance(Path(path))
    task.on_step(f"reading {printable(run.file)}")
    checkpoint = load_checkpoint(run.file)
    for note in checkpoint.notes:
        task.on_step(f"note: {printable(run.file)}: {note}")
    spec = checkpoint.network.spec
    run = run.for_network(spec)
    config = run.config
    image_size = options.image_size
    if image_size is None and config is not None:
        image_size = config.image_size
    size = _image_size(spec, image_size, name)
    if options.stochastic and config is not None and not config.dropout:
        raise CheckpointError(f"{name}: was trained without dropout; leave out --stochastic")
    try:
        if isinstance(checkpoint.network, ModulatedGenerator):
            require_modulated_options(options.norm_statistics, options.upsampling, options.stochastic)
        elif options.stochastic:
            require_dropout(checkpoint.network)
            dropout_byte_count(checkpoint.network.spec, size)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    task.on_step(f"found {_describe(spec)}; masks and images of {shown_sides(size)}")
    return LoadedNetwork(name, checkpoint, run, size)


def _describe(spec: UnetSpec | ModulatedSpec | ResnetSpec) -> str:
    if isinstance(spec, ModulatedSpec):
        widths = ", ".join(map(str, spec.decoder))
        return f"a modulated generator: {spec.levels} levels, {widths} channels, {spec.numbers} numbers an appearance"
    if isinstance(spec, ResnetSpec):
        return (
            f"a ResNet generator: {plural(spec.blocks, 'block')}, ngf {spec.ngf}, {spec.input_nc} to {spec.output_nc} "
            f"channels, norm {spec.norm}"
        )
    return (
        f"a U-Net generator: {spec.levels} levels, ngf {spec.ngf}, {spec.input_nc} to {spec.output_nc} channels, norm "
        f"{spec.norm}"
    )


@dataclass(frozen=True)
class ExportInputs:
    """Hold what files are run on to validate them."""

    specs: tuple[TensorSpec, ...]
    """The inputs that files take, the mask first."""
    table: Appearances | None
    """Appearances of the bundle: float32 (count, numbers)."""
    sampled_count: int
    """How many of them are sampled where nothing is asked for."""
    gate_inputs: gate.Inputs
    mask_count: int
    """Masks to validate on, of which `gate_inputs` may hold several rounds."""
    golden_inputs: gate.Inputs
    """Inputs of the golden images, which the bundle keeps."""
    calibration: Calibration | None
    """None where no precision asked for needs it."""
    warning: str | None = None
    """What cannot be validated."""

    @property
    def count(self) -> int:
        """Images to validate."""
        return len(next(iter(self.gate_inputs.values())))


def collect_inputs(task: Task, targets: Targets, loaded: LoadedNetwork) -> ExportInputs:
    """Read the masks, and choose appearances and dropout bits to go with them.

    Raises:
        InputError: a mask cannot be read, there are too few, or no appearance has the contrast asked for.
    """
    options = task.options
    masks = gate.gate_masks(loaded.image_size, options.masks)
    is_uniform_defined = gate.defines_uniform(loaded.network, loaded.image_size, options.norm_statistics)
    masks = masks if is_uniform_defined else gate.interrupt_uniform(masks)
    specs = input_specs(loaded.network.spec, loaded.image_size, options.stochastic)
    if options.random_orientation and len(specs) == 1:
        raise InputError(
            f"{loaded.name}: takes the mask alone, so its images depend on no seed; leave out --random-orientation, or "
            "give --stochastic too if it was trained with dropout"
        )
    table, sampled = _appearances(loaded.network, options.min_contrast, loaded.name)
    inputs = gate.gate_inputs(masks, specs, sampled)
    rows = gate.golden_rows(inputs, len(masks))
    golden = {name: array[rows] for name, array in inputs.items()}
    calibration = None
    if targets.engines.keys() - {"fp16"}:
        task.on_step("reading the masks to calibrate on")
        masks_to_read = DEFAULT_CALIBRATION if options.calibrate is None else os.fspath(options.calibrate)
        calibration = read_calibration(masks_to_read, specs, sampled, golden, is_uniform_defined)
    warning = None if is_uniform_defined else gate.UNDEFINED_UNIFORM
    sampled_count = 0 if sampled is None else len(sampled)
    return ExportInputs(specs, table, sampled_count, inputs, len(masks), golden, calibration, warning)


@dataclass(frozen=True)
class BuiltGraph:
    """Hold the graph to ship, and the fp32 file made of it."""

    deployed: Deployed
    source: ModelSource


def build_graph(task: Task, loaded: LoadedNetwork, data: ExportInputs) -> BuiltGraph:
    """Make the deploy graph and write it as ONNX.

    Raises:
        CheckpointError: the network is not of the kind that the options ask for, or has weights that fp16 cannot hold.
    """
    options = task.options
    task.on_step("writing ONNX")
    is_fp32 = options.weights == "fp32"
    try:
        deployed = deploy(loaded.network, options.norm_statistics, options.upsampling, options.stochastic)
        content = to_onnx(deployed.graph, data.specs)
        content = content if is_fp32 else store_weights_as_fp16(content)
    except CheckpointError as error:
        raise CheckpointError(f"{loaded.name}: {error}") from None
    image = TensorSpec(name=IMAGE, role="image", dtype="uint8", shape=(BATCH, *loaded.image_size, 3))
    source = ModelSource(
        name="generator.fp32.onnx" if is_fp32 else "generator.fp16-weights.onnx",
        content=content,
        precision="fp32",
        inputs=data.specs,
        outputs=(image,),
    )
    return BuiltGraph(deployed, source)


@dataclass(frozen=True)
class ValidatedGraph:
    """Hold the fp32 file's entries in the manifest, and the images it was compared with."""

    reference: Images
    """Images to validate by the network as trained, in PyTorch."""
    models: tuple[ModelFile, ...]
    """One for each engine that the file was run on, onnxruntime first."""
    golden: GoldenImages

    @property
    def base(self) -> ModelFile:
        """The entry for onnxruntime."""
        return self.models[0]


def validate(task: Task, loaded: LoadedNetwork, data: ExportInputs, graph: BuiltGraph) -> ValidatedGraph:
    """Compare the fp32 file with the network on each engine installed.

    Raises:
        ParityError: the images differ by more than is accepted.
    """
    options, source = task.options, graph.source
    task.on_step(f"validating: {data.count} images through PyTorch and through {REFERENCE_ENGINE}")
    reference = gate.reference_images(loaded.network, data.gate_inputs, options.norm_statistics)
    accepted = options.accepted_levels
    parity = gate.measure(reference, data.gate_inputs, data.mask_count, source, REFERENCE_ENGINE, accepted)
    golden = _golden_images(source, data.golden_inputs)
    base = ModelFile(
        file=FileEntry.from_content(source.name, source.content),
        format="onnx",
        opset=OPSET,
        precision="fp32",
        form=STORED_FORMS[graph.deployed.upsampling],
        engines=(REFERENCE_ENGINE,),
        parity=parity,
        weights=options.weights,
    )
    models = [base]
    for engine in fp32_engines():
        task.on_step(f"validating: the same through {engine}")
        parity = gate.measure(reference, data.gate_inputs, data.mask_count, source, engine, accepted)
        models.append(msgspec.structs.replace(base, engines=(engine,), parity=parity))
    return ValidatedGraph(reference, tuple(models), golden)


def add_precisions(
    task: Task,
    targets: Targets,
    loaded: LoadedNetwork,
    data: ExportInputs,
    graph: BuiltGraph,
    validated: ValidatedGraph,
) -> tuple[ModelVariant, ...]:
    """Make and validate the files in precisions below fp32, fp16 first.

    Raises:
        CheckpointError: a weight is beyond half precision's range.
        ParityError: a file is too far from fp32.
        EngineError: an engine computes in another precision here.
    """
    options, base, source, variants = task.options, validated.base, graph.source, list[ModelVariant]()
    if "fp16" in targets.engines:
        engines = ENGINES["fp16"] if options.engines is None else targets.engines["fp16"]
        accepted, images = options.accepted_fp16_levels, validated.reference
        fp32_graph = graph.deployed.graph
        variants.append(
            build_fp16_variant(fp32_graph, base, source, images, data.gate_inputs, accepted, engines, task.on_step)
        )
    if data.calibration is None:
        return tuple(variants)
    reference, limits = Reference(source, data.calibration), options.limits
    for precision, engine in ((p, engine) for p in targets.engines if p != "fp16" for engine in targets.engines[p]):
        if precision == "int8":
            unquantized = graph.deployed.graph
            if not isinstance(loaded.network, ModulatedGenerator):
                unquantized = deploy(loaded.network, options.norm_statistics, "transposed", options.stochastic).graph
            variant = build_int8_variant(unquantized, base, source, engine, reference, limits, task.on_step)
        else:
            evaluation = (
                evaluate(source, engine, precision, reference, task.on_step)
                if computes(engine, precision)
                else evaluate_bfloat16(graph.deployed.graph, reference, task.on_step)
            )
            variant = validate_variant(base, source, engine, precision, reference, limits, evaluation)
        variants.append(variant)
    return tuple(variants)


def add_plans(
    task: Task,
    targets: Targets,
    data: ExportInputs,
    graph: BuiltGraph,
    validated: ValidatedGraph,
    variants: Sequence[ModelVariant],
) -> tuple[tuple[ModelFile, ...], tuple[BuiltPlan, ...], bytes]:
    """Build TensorRT plans if the options ask for them.

    Returns:
        The manifest's entries of all ONNX files, the plans, and TensorRT's timings.

    Raises:
        PlanError: a plan cannot be built, or is not what was asked for.
        ParityError: a plan that runs here gives other images.
    """
    options, base = task.options, validated.base
    models = (*validated.models, *(variant.model for variant in variants))
    if options.plans is None:
        return models, (), targets.timings
    parity = msgspec.structs.replace(base.parity, kind="emulated")
    models = (*models, msgspec.structs.replace(base, engines=(TENSORRT,), parity=parity))
    images = GateImages(
        data.gate_inputs,
        validated.reference,
        data.mask_count,
        base.parity.reference,
        options.accepted_fp16_levels,
        options.limits,
    )
    plans, timings = build_plans(
        models,
        _model_files(graph, variants),
        graph.source,
        tuple(dict.fromkeys(options.precisions)),
        targets.builds,
        images,
        targets.timings,
        task.on_step,
        task.on_progress,
    )
    return models, tuple(plans), timings


def write(task: Task, targets: Targets, manifest: Manifest, files: Mapping[str, bytes], timings: bytes) -> Bundle:
    """Write the bundle, and TensorRT's timings for later builds.

    Raises:
        OutputError: one of them cannot be written.
    """
    task.on_step(f"writing {printable(task.bundle)}")
    bundle = write_bundle(task.bundle, manifest, files, overwrite=task.options.overwrite)
    if targets.timings_path is not None:
        write_timings(targets.timings_path, timings)
    return bundle


def _model_files(graph: BuiltGraph, variants: Sequence[ModelVariant]) -> dict[str, bytes]:
    """Collect the bytes of all ONNX files by path."""
    return {graph.source.name: graph.source.content} | {one.model.file.path: one.content for one in variants}


def _appearances(
    network: Generator, min_contrast: float, checkpoint: str
) -> tuple[Appearances | None, Appearances | None]:
    """Find the table (count, numbers) that a network keeps, and the rows of enough contrast."""
    highest = appearance.MAX_CONTRAST
    if not 0 <= min_contrast <= highest:
        raise ArgumentError(f"--min-contrast must be between 0 and {highest:g} Delta E, got {min_contrast:g}")
    keeper = network if isinstance(network, ModulatedGenerator) else network.appearance
    if keeper is None:
        if min_contrast:
            raise InputError(f"{checkpoint}: was trained without appearances; leave out --min-contrast")
        return None, None
    table: Appearances = keeper.table.float().numpy()
    try:
        return table, appearance.rows_of_contrast(table, network.spec.names, min_contrast)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error} (--min-contrast)") from None


def _check_bundle_path(path: Path, overwrite: bool) -> None:
    """Refuse what write_bundle would refuse in the end, before the work."""
    if os.path.lexists(path):
        if not overwrite:
            raise OutputError(f"{printable(path)} exists already; choose another name or give --overwrite")
        require_bundle(path)
    atomic.check_new_folder(path)


def _image_size(
    spec: UnetSpec | ModulatedSpec | ResnetSpec, image_size: Sides | None, checkpoint: str
) -> tuple[int, int]:
    step = 1 << spec.levels
    if image_size is None:
        side = step if isinstance(spec, UnetSpec) else max(DEFAULT_SIDE, step)
        return side, side
    smallest = max(MIN_SIDE, step) if isinstance(spec, ResnetSpec) else step
    size = read_sides(image_size, "--image-size")
    if any(side % step or not smallest <= side <= MAX_SIDE for side in size):
        raise CheckpointError(
            f"{checkpoint}: a network of {spec.levels} levels works on multiples of {step} pixels from {smallest} to "
            f"{MAX_SIDE}, got --image-size {plain_sides(size)}"
        )
    return size


def _golden_images(source: ModelSource, inputs: gate.Inputs) -> GoldenImages:
    backend = backend_module(REFERENCE_ENGINE).load(source, BackendOptions(device="cpu"))
    images = run_in_batches(backend, inputs)
    engine = backend.settings.engine
    backend.close()
    return GoldenImages(to_npz({**inputs, IMAGE: images}), len(images), engine)


def _few_steps(loaded: LoadedNetwork) -> str | None:
    """Warn of a network that a run has hardly trained."""
    training = loaded.run.training(loaded.checkpoint)
    if training is None or training.step is None or training.step >= FEW_STEPS:
        return None
    return (
        f"the network was trained for {plural(training.step, 'step')} alone, which is too few for images of lesions: "
        "train on (m2l train --resume) and export again"
    )


def _warnings(
    options: ExportOptions,
    data: ExportInputs,
    loaded: LoadedNetwork,
    validated: ValidatedGraph,
    variants: Sequence[ModelVariant],
) -> tuple[str, ...]:
    parity, known_miss = validated.base.parity, None
    if parity.max_level_difference > ACCEPTED_LEVELS[options.weights]:
        known_miss = (
            f"validation was told to accept differences of up to {parity.accepted_max_level_difference} levels and "
            f"found {parity.max_level_difference}"
        )
    found = (data.warning, _few_steps(loaded), gate.mask_blindness(validated.reference), known_miss)
    warnings = (*found, *(variant.warning for variant in variants))
    return tuple(warning for warning in warnings if warning is not None)
