"""Make and validate files in precisions below fp32: fp16, bf16 and int8."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from m2l_export.graph.deploy import ByteGraph, DeployUnet, Form, use_sub_pixel
from m2l_export.graph.half_precision import emulate_bfloat16, emulate_half_precision, to_half_precision
from m2l_export.graph.modulated import DeployModulated
from m2l_export.graph.onnx_writer import APPEARANCE, DROPOUT_BITS, NOISE, to_onnx
from m2l_export.graph.resnet import DeployResnet
from m2l_export.parity.metrics import Fidelity, ParityLimits, Shortfall, fidelity
from m2l_export.quantize.calibration import Calibration, describe_calibration
from m2l_export.quantize.equalize import channel_peaks, equalize, equalize_results
from m2l_export.quantize.quantizer import PERCENTILES, Quantizer, Target
from m2l_export.quantize.sensitivity import LayerErrors, Sensitivity, choose_float_layers, measure_layers
from m2l_export.targets import REFERENCE_ENGINE, TENSORRT, proxy_engine
from m2l_runtime._utils.text import plural
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.bundle.schema import FileEntry, ModelFile, Parity, Precision
from m2l_runtime.errors import EngineError, ParityError
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.types import Images

MAX_FP16_LEVELS: Final = 2
"""Largest difference of images in fp16 that is accepted by default, in levels of 0..255."""

FLOAT_SHARE_WARNING: Final = 0.5
"""Share of the multiplications in float above which an int8 file gets a warning."""

MARGIN_DB: Final = 0.5
"""How much better than the limits layers are chosen for, because validation takes other images."""

MAX_ATTEMPTS: Final = 4
"""Choices of layers in float that are validated at most."""

_FAILURE_ADVICE: Final = (
    "nothing was written. Calibrate on masks like those it is for (--calibrate FOLDER), leave that precision out, or "
    "accept more (--min-psnr, --min-worst-psnr, --max-mean-difference, --max-color-shift)"
)

Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ModelVariant:
    """Hold a file in a lower precision, and how far from fp32 its images are."""

    model: ModelFile
    content: bytes = field(repr=False)
    fidelity: Fidelity
    sensitivity: Sensitivity | None = None
    """What int8 costs layer by layer. None for other precisions."""

    @property
    def warning(self) -> str | None:
        """A warning for users of the file, if any."""
        if self.sensitivity is None or self.sensitivity.float_share <= FLOAT_SHARE_WARNING:
            return None
        return (
            f"{self.model.file.path} leaves {self.sensitivity.float_share * 100:.0f} % of the multiplications in float "
            "to be within the limits, so it gains little over fp32"
        )


@dataclass(frozen=True)
class FileRun:
    """Hold images of a file, and what made them."""

    images: Images
    engine: str
    """Name and version of the engine."""
    notes: tuple[str, ...]
    """Notes of the backend about this machine."""
    is_emulated: bool = False
    """Whether it stands for another engine, which does not run here."""


def run_file(source: ModelSource, engine: str, inputs: Inputs) -> FileRun:
    """Run a file on its engine or the proxy engine, one image at a time.

    Raises:
        EngineError: the engine does not run it, or computes in another precision here.
    """
    backend = backend_module(proxy_engine(engine)).load(
        source, BackendOptions(device="cpu", precision=source.precision)
    )
    try:
        settings = backend.settings
        if settings.precision != source.precision:
            raise EngineError(
                f"{settings.engine} computes in {settings.precision} on this CPU where {source.precision} is asked "
                f"for, so {source.precision} cannot be validated here; leave it out, or export on a CPU that has it"
            )
        is_emulated = proxy_engine(engine) != engine
        return FileRun(run_in_batches(backend, inputs), settings.engine, backend.notes, is_emulated)
    finally:
        backend.close()


class Reference:
    """Hold the fp32 file's images, which lower precisions are compared with.

    Each set is made once, when it is first asked for.
    """

    def __init__(self, source: ModelSource, calibration: Calibration) -> None:
        self._source, self.calibration = source, calibration

    @cached_property
    def evaluated(self) -> FileRun:
        """Images of the masks that files are evaluated on."""
        return run_file(self._source, REFERENCE_ENGINE, self.calibration.evaluation_inputs)

    @cached_property
    def selection_inputs(self) -> FileRun:
        """Images of the few masks that layers are chosen by."""
        return run_file(self._source, REFERENCE_ENGINE, self.calibration.selection_inputs)

    def label(self, *, is_calibrated: bool) -> str:
        """Describe the reference for the manifest."""
        others = [words for name, words in _INPUT_WORDS.items() if name in self.calibration.evaluation_inputs]
        beside = f", the same {' and '.join(others)}" if others else ""
        return (
            f"{self._source.name} in fp32 on {self.evaluated.engine}{beside}; "
            f"{describe_calibration(self.calibration, is_calibrated=is_calibrated)}"
        )


_INPUT_WORDS: Final = {APPEARANCE: "appearances", DROPOUT_BITS: "dropout bits", NOISE: "noise"}


@dataclass(frozen=True)
class Evaluation:
    """Hold a file's images and how far from fp32 they are."""

    run: FileRun
    fidelity: Fidelity


def evaluate(
    source: ModelSource, engine: str, precision: Precision, reference: Reference, on_step: Callable[[str], None]
) -> Evaluation:
    """Compare a file's images with those of the fp32 file.

    Raises:
        EngineNotInstalled, EngineError: the engine does not run the file in that precision.
    """
    on_step(f"validating {precision} on {engine}: {describe_calibration(reference.calibration, is_calibrated=False)}")
    run = run_file(replace(source, precision=precision), engine, reference.calibration.evaluation_inputs)
    for note in () if run.is_emulated else run.notes:
        on_step(f"note: {note}")
    return Evaluation(run, fidelity(reference.evaluated.images, run.images))


def evaluate_bfloat16(graph: ByteGraph, reference: Reference, on_step: Callable[[str], None]) -> Evaluation:
    """Compare a graph's images with those of the fp32 file, as a CPU with bfloat16 would compute them: emulated.

    Args:
        graph: deploy graph in single precision. It is left as it was.
        reference: images of the fp32 file, and masks.
        on_step: called with a line of text.

    Raises:
        ParityError: it gives NaN or infinite pixels.
    """
    on_step(
        "validating bf16: this CPU does not compute in it, so it is emulated in PyTorch; "
        + describe_calibration(reference.calibration, is_calibrated=False)
    )
    images = _run_in_torch(emulate_bfloat16(graph), reference.calibration.evaluation_inputs, "bf16")
    engine = f"PyTorch {torch.__version__}, rounded to bf16 around every convolution"
    return Evaluation(FileRun(images, engine, (), is_emulated=True), fidelity(reference.evaluated.images, images))


def validate_variant(
    base: ModelFile,
    source: ModelSource,
    engine: str,
    precision: Precision,
    reference: Reference,
    limits: ParityLimits,
    evaluation: Evaluation,
    sensitivity: Sensitivity | None = None,
) -> ModelVariant:
    """Make the manifest's entry of a file, if it is within the limits.

    Raises:
        ParityError: it is not within `limits`; the message has all metrics.
    """
    run, fidelity = evaluation.run, evaluation.fidelity
    missed = fidelity.misses(limits)
    if missed:
        what = f"{precision} on {run.engine}"
        if run.is_emulated:
            what = f"{precision} for {engine}, as {run.engine} computes it,"
        left = (
            f"; left in float: {', '.join(sensitivity.float_layers) or 'no layer'}" if sensitivity is not None else ""
        )
        raise ParityError(
            f"{what} is too far from fp32: {'; '.join(missed)}, over "
            f"{reference.calibration.evaluation_mask_count} masks{left}; {_FAILURE_ADVICE}"
        )
    parity = Parity(
        reference=reference.label(is_calibrated=sensitivity is not None),
        engine=f"{run.engine}, CPU",
        kind="emulated" if run.is_emulated else "measured",
        mask_count=reference.calibration.evaluation_mask_count,
        batch_sizes=(1,),
        max_level_difference=fidelity.max_levels,
        mean_level_difference=round(fidelity.mean_levels, 6),
        psnr_db=round(fidelity.psnr_db, 2),
        mean_psnr_db=round(fidelity.mean_psnr_db, 2),
        worst_psnr_db=round(fidelity.worst_psnr_db, 2),
        colour_shift_levels=fidelity.colour_shift_levels,
        accepted_psnr_db=(limits.psnr_db, limits.worst_psnr_db),
    )
    model = msgspec.structs.replace(
        base,
        file=FileEntry.from_content(source.name, source.content),
        engines=(engine,),
        precision=precision,
        parity=parity,
        weights="int8" if precision == "int8" else base.weights,
        float_layers=() if sensitivity is None else sensitivity.float_layers,
    )
    return ModelVariant(model, source.content, fidelity, sensitivity)


def build_fp16_variant(
    graph: ByteGraph,
    base: ModelFile,
    fp32: ModelSource,
    reference: Images,
    inputs: Inputs,
    accepted: int,
    engines: tuple[Target, ...],
    on_step: Callable[[str], None],
) -> ModelVariant:
    """Write the graph in half precision and validate it without a GPU.

    It is emulated in PyTorch, with rounding after every operator, and the file runs on onnxruntime's CPU.

    Args:
        graph: deploy graph in single precision. It is left as it was.
        base: the manifest's entry of `fp32`.
        fp32: the same network's file.
        reference: images of `inputs` by the network as trained, in fp32.
        inputs: inputs to validate on.
        accepted: largest difference of a byte that is accepted, in levels.
        engines: engines that the file is for.
        on_step: called with a line of text as each step begins.

    Raises:
        CheckpointError: a weight is beyond half precision's range.
        ParityError: a byte differs by more than `accepted`.
    """
    half = to_half_precision(graph)
    name = "generator.fp16.onnx"
    content = to_onnx(half.eval(), fp32.inputs)
    count = len(reference)
    on_step(f"validating fp16: {plural(count, 'image')}, rounded after every operator in PyTorch")
    by_torch = _run_in_torch(emulate_half_precision(half), inputs, "fp16")
    # Loaded as fp32, onnxruntime's CPU takes the file. It computes in fp32 between roundings.
    on_step(f"validating fp16: the file through {REFERENCE_ENGINE} on the CPU")
    by_file = run_file(replace(fp32, name=name, content=content), REFERENCE_ENGINE, inputs)
    checked = []
    for images, engine in ((by_torch, "emulated in PyTorch"), (by_file.images, by_file.engine)):
        measured = fidelity(reference, images)
        if measured.max_levels > accepted:
            raise ParityError(
                f"fp16, {engine}, differs from fp32 by up to {measured.max_levels} levels (mean "
                f"{measured.mean_levels:.4f}, {plural(count, 'image')}, worst at image {measured.worst_index}); "
                f"at most {accepted} accepted; nothing was written. If that is known and fine: "
                f"--max-level-difference {measured.max_levels}"
            )
        checked.append(measured)
    worst = max(checked, key=lambda one: one.max_levels)
    parity = msgspec.structs.replace(
        base.parity,
        engine=f"PyTorch {torch.__version__}, CPU, rounded to fp16 after every operator; and {by_file.engine}, CPU",
        batch_sizes=(1,),
        max_level_difference=worst.max_levels,
        mean_level_difference=round(worst.mean_levels, 6),
        psnr_db=round(worst.psnr_db, 2),
        accepted_max_level_difference=accepted,
        kind="emulated",
    )
    model = msgspec.structs.replace(
        base,
        file=FileEntry.from_content(name, content),
        engines=engines,
        precision="fp16",
        weights="fp16",
        parity=parity,
    )
    return ModelVariant(model, content, worst)


def _run_in_torch(graph: ByteGraph, inputs: Inputs, precision: Precision) -> Images:
    """Run a graph that emulates a precision in PyTorch, one image at a time.

    Raises:
        ParityError: it gives NaN or infinite pixels.
    """
    images = []
    with torch.inference_mode(), _raising_on_nonfinite(graph, precision):
        for row in range(len(next(iter(inputs.values())))):
            one = {name: torch.from_numpy(array[row : row + 1].copy()) for name, array in inputs.items()}
            images.append(graph(**one).numpy())
    return np.concatenate(images)


@contextlib.contextmanager
def _raising_on_nonfinite(graph: ByteGraph, precision: Precision) -> Iterator[None]:
    """Raise within the context on pixels that are not finite, which bytes do not show."""

    def check(_: Any, __: Any, pixels: torch.Tensor) -> None:
        if not torch.isfinite(pixels).all():
            raise ParityError(
                f"in {precision} the network gives NaN or infinite pixels"
                + (": its values are beyond half precision's range (65,504)" if precision == "fp16" else "")
                + f"; nothing was written. Leave {precision} out"
            )

    hook = graph.unet.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class _Int8Candidates:
    """Make int8 files with different layers left in float, and run them on the images that layers are chosen by."""

    quantizer: Quantizer
    fp32: ModelSource
    engine: Target
    reference: Reference
    percentile: float = 100.0
    """Percent of the values of each tensor that its range holds."""

    def source(self, float_layers: Collection[str]) -> ModelSource:
        return ModelSource(
            name=f"generator.int8.{self.engine}.onnx",
            content=self.quantizer.quantize(float_layers, self.percentile),
            precision="int8",
            inputs=self.fp32.inputs,
            outputs=self.fp32.outputs,
        )

    def images(self, float_layers: Collection[str]) -> Images:
        inputs = self.reference.calibration.selection_inputs
        return run_file(self.source(float_layers), self.engine, inputs).images

    def fidelity(self, float_layers: Collection[str]) -> Fidelity:
        return fidelity(self.reference.selection_inputs.images, self.images(float_layers))

    def with_best_ranges(self, limits: ParityLimits, on_step: Callable[[str], None]) -> _Int8Candidates:
        """Return the candidates whose images, with all layers in int8, are best beside the limits on PSNR."""
        found = []
        for percentile in PERCENTILES:
            one = replace(self, percentile=percentile)
            reached = one.fidelity(())
            margin = min(reached.mean_psnr_db - limits.psnr_db, reached.worst_psnr_db - limits.worst_psnr_db)
            found.append((margin, one))
            on_step(
                f"  ranges of {percentile:g} % of the values: PSNR {reached.mean_psnr_db:.1f} dB, worst "
                f"{reached.worst_psnr_db:.1f}"
            )
        return max(found, key=lambda one: one[0])[1]


def build_int8_variant(
    graph: ByteGraph,
    base: ModelFile,
    fp32: ModelSource,
    engine: Target,
    reference: Reference,
    limits: ParityLimits,
    on_step: Callable[[str], None],
) -> ModelVariant:
    """Equalize, calibrate, choose the layers that stay in float, quantize and validate; for one engine.

    The choice is made on a few images. Where validation measures too large an error on the others, the choice is made
    again for a smaller one, up to `MAX_ATTEMPTS` times in all.

    Args:
        graph: deploy graph with transposed convolutions. It is left as it was.
        base: the manifest's entry of `fp32`.
        fp32: the same network's file.
        engine: what the file is for. TensorRT's file has the upsampling of `base`, unless that resizes; the other
            engines have integer kernels for pixel shuffle only.
        reference: images of `fp32`, and masks.
        limits: how far from fp32 the file may be.
        on_step: called with a line of text for each step and what it found.

    Raises:
        ParityError: the file is not within `limits`, or only with all layers in float.
        EngineNotInstalled, EngineError: the engine does not run it.
    """
    form: Form = base.form
    if not isinstance(graph.unet, DeployModulated):
        form = "deconvolution" if engine == TENSORRT and base.form == "deconvolution" else "sub-pixel"
    graph = _equalize_for(engine, graph, reference.calibration.calibration_inputs, form)
    quantizer = Quantizer(to_onnx(graph.eval(), fp32.inputs), reference.calibration.calibration_inputs, engine)
    candidates = _Int8Candidates(quantizer, fp32, engine, reference)
    images = reference.selection_inputs.images
    count = plural(len(images), "image")
    on_step(f"int8 for {engine}: all layers, with the range of each tensor cut off or not, on {count}")
    candidates = candidates.with_best_ranges(limits, on_step)
    on_step(f"int8 for {engine}: each of {len(quantizer.layers)} layers alone, on {count}")
    errors = measure_layers(quantizer.layers, candidates.images, images)
    for line in describe_layers(errors):
        on_step(line)
    aim = limits.stricter(MARGIN_DB)
    missed = f"{'; '.join(errors.all_int8.misses(aim))} with all of them, on the {count} that layers are chosen by"
    for attempt in range(1, MAX_ATTEMPTS + 1):
        chosen = choose_float_layers(errors, candidates.fidelity, aim)
        on_step(describe_choice(chosen, aim))
        if len(chosen.float_layers) == len(chosen.layers):
            raise ParityError(
                f"int8 on {engine} is too far from fp32 whichever layers are left in it: {missed}; {_FAILURE_ADVICE}"
            )
        source = candidates.source(chosen.float_layers)
        evaluation = evaluate(source, engine, "int8", reference, on_step)
        misses = evaluation.fidelity.misses(limits)
        if not misses or attempt == MAX_ATTEMPTS:
            break
        missed = f"{'; '.join(misses)}, over {len(evaluation.run.images)} masks"
        on_step(f"not near enough: {missed}; once more with less in int8")
        aim = tighten_limits(aim, chosen.chosen, evaluation.fidelity.shortfall_db(limits))
    entry = msgspec.structs.replace(base, form=form)
    return validate_variant(entry, source, engine, "int8", reference, limits, evaluation, chosen)


@torch.inference_mode()
def _equalize_for(engine: Target, graph: ByteGraph, inputs: Inputs, form: Form) -> ByteGraph:
    """Make channels alike in range as the engine's integer kernels need, and write upsampling in `form`."""
    if isinstance(graph.unet, DeployModulated):
        return graph  # its layers give variance 1 in every channel
    if isinstance(graph.unet, DeployResnet):  # norms give variance 1 before most of its convolutions
        return ByteGraph(use_sub_pixel(graph.unet)) if form == "sub-pixel" else graph
    peaks = channel_peaks(graph, inputs)
    graph = equalize(graph, peaks)
    if engine == REFERENCE_ENGINE:
        graph = equalize_results(graph, peaks)
    if form == "sub-pixel":
        unet = graph.unet
        assert isinstance(unet, DeployUnet)  # noqa: S101 - deploy made it
        graph.unet = use_sub_pixel(unet)
    return graph


def tighten_limits(aim: ParityLimits, reached: Fidelity, short: Shortfall) -> ParityLimits:
    """Find what to aim at next, where images that reach `reached` go with others that fall `short` of the limits."""
    most = aim.stricter(1000)
    return replace(
        aim,
        psnr_db=min(most.psnr_db, reached.mean_psnr_db + short.mean_db + MARGIN_DB) if short.mean_db else aim.psnr_db,
        worst_psnr_db=min(most.worst_psnr_db, reached.worst_psnr_db + short.worst_db + MARGIN_DB)
        if short.worst_db
        else aim.worst_psnr_db,
    )


def describe_layers(errors: LayerErrors) -> Sequence[str]:
    """Describe what each layer costs, a line each."""
    total = sum(layer.multiplications for layer in errors.layers)
    width = max(8, *(len(layer.name) for layer in errors.layers))
    return [
        f"  {layer.name:{width}} {layer.multiplications / total * 100:5.1f} % of the multiplications, PSNR with it "
        f"alone in int8 {alone.mean_psnr_db:5.1f} dB, worst {alone.worst_psnr_db:5.1f}"
        for layer, alone in zip(errors.layers, errors.alone, strict=True)
    ]


def describe_choice(sensitivity: Sensitivity, aim: ParityLimits) -> str:
    """Describe which layers stay in float, and what that gives."""
    everything = sensitivity.all_int8
    text = f"  all convolutions in int8: PSNR {everything.mean_psnr_db:.1f} dB, worst {everything.worst_psnr_db:.1f}"
    if sensitivity.float_layers:
        text += (
            f"; with {', '.join(sensitivity.float_layers)} in float ({sensitivity.float_share * 100:.0f} % of the "
            "multiplications) "
            f"{sensitivity.chosen.mean_psnr_db:.1f} dB, worst {sensitivity.chosen.worst_psnr_db:.1f}"
        )
    wanted = f"{aim.psnr_db:.1f} and {aim.worst_psnr_db:.1f} on these images"
    return f"{text}; wanted, with {MARGIN_DB:g} dB to spare: {wanted}"
