"""A proven fp32 file to further ways to run the generator: other engines, bf16, int8; each proven before it counts."""

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
from m2l_export.graph.half_precision import emulate_half_precision, to_half_precision
from m2l_export.graph.onnx_writer import APPEARANCE, DROPOUT_BITS, to_onnx
from m2l_export.parity.metrics import Fidelity, ParityLimits, Shortfall, fidelity
from m2l_export.quantize.calibration import Calibration, describe_calibration
from m2l_export.quantize.equalize import channel_peaks, equalize, equalize_results
from m2l_export.quantize.quantizer import Quantizer, Target
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
"""By which images in fp16 may be off."""

FLOAT_SHARE_WARNING: Final = 0.5
"""Share of the multiplications in float from which on an int8 file is warned about."""

MARGIN_DB: Final = 0.5
"""What layers are chosen for beyond the limits, as the gate judges by other images."""

ATTEMPTS: Final = 4
"""Choices of what stays in float that the gate looks at."""

_FAILURE_ADVICE: Final = (
    "nothing was written. Calibrate on masks like those it is for (--calibrate FOLDER), leave that precision out, or "
    "accept more (--min-psnr, --min-worst-psnr, --max-mean-difference, --max-colour-shift)"
)

Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ModelVariant:
    """A way to run the generator, and how far from fp32 it is."""

    model: ModelFile
    content: bytes = field(repr=False)
    fidelity: Fidelity
    sensitivity: Sensitivity | None = None
    """Of int8."""

    @property
    def warning(self) -> str | None:
        """What whoever uses it should know."""
        if self.sensitivity is None or self.sensitivity.float_share <= FLOAT_SHARE_WARNING:
            return None
        return (
            f"{self.model.file.path} leaves {self.sensitivity.float_share * 100:.0f} % of the multiplications in float "
            "to be within the limits, so it gains little over fp32"
        )


@dataclass(frozen=True)
class FileRun:
    """Images of a file, and what made them."""

    images: Images
    engine: str
    """Name and version."""
    notes: tuple[str, ...]
    """What does not pay on this machine."""


def run_file(source: ModelSource, engine: str, inputs: Inputs) -> FileRun:
    """Run a file, an image at a time.

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
                f"for, so {source.precision} cannot be proven here; leave it out, or export on a CPU that has it"
            )
        return FileRun(run_in_batches(backend, inputs), settings.engine, backend.notes)
    finally:
        backend.close()


class Reference:
    """The fp32 file's images of what lower precisions are judged on, made once."""

    def __init__(self, source: ModelSource, calibration: Calibration) -> None:
        self._source, self.calibration = source, calibration

    @cached_property
    def evaluated(self) -> FileRun:
        """Of what a file is judged on."""
        return run_file(self._source, REFERENCE_ENGINE, self.calibration.evaluation_inputs)

    @cached_property
    def selection_inputs(self) -> FileRun:
        """Of the few images that layers are judged by."""
        return run_file(self._source, REFERENCE_ENGINE, self.calibration.selection_inputs)

    def label(self, *, is_calibrated: bool) -> str:
        """What the manifest says of it."""
        others = [words for name, words in _INPUT_WORDS.items() if name in self.calibration.evaluation_inputs]
        beside = f", the same {' and '.join(others)}" if others else ""
        return (
            f"{self._source.name} in fp32 on {self.evaluated.engine}{beside}; "
            f"{describe_calibration(self.calibration, is_calibrated=is_calibrated)}"
        )


_INPUT_WORDS: Final = {APPEARANCE: "appearances", DROPOUT_BITS: "dropout bits"}


@dataclass(frozen=True)
class Validation:
    """What the gate saw of a file."""

    run: FileRun
    fidelity: Fidelity


def evaluate(
    source: ModelSource, engine: str, precision: Precision, reference: Reference, on_step: Callable[[str], None]
) -> Validation:
    """Compare a file's images with those of the fp32 file.

    Raises:
        EngineNotInstalled, EngineError: the engine does not run it in that precision.
    """
    on_step(f"the gate of {precision} on {engine}: {describe_calibration(reference.calibration, is_calibrated=False)}")
    run = run_file(replace(source, precision=precision), engine, reference.calibration.evaluation_inputs)
    for note in run.notes if proxy_engine(engine) == engine else ():
        on_step(f"note: {note}")
    return Validation(run, fidelity(reference.evaluated.images, run.images))


def validate(
    base: ModelFile,
    source: ModelSource,
    engine: str,
    precision: Precision,
    reference: Reference,
    limits: ParityLimits,
    validation: Validation,
    sensitivity: Sensitivity | None = None,
) -> ModelVariant:
    """The way that a file is, if it was judged to be near enough.

    Raises:
        ParityError: it is not within `limits`; the message has all figures.
    """
    run, fidelity = validation.run, validation.fidelity
    missed = fidelity.misses(limits)
    if missed:
        what = f"{precision} on {run.engine}"
        if proxy_engine(engine) != engine:
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
        kind="measured" if proxy_engine(engine) == engine else "emulated",
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
    """The graph in half precision, judged without a card: emulated in PyTorch, and the file in onnxruntime.

    Args:
        graph: in single precision. It is left as it was.
        base: the manifest's entry of `fp32`.
        fp32: the same network's file.
        reference: images of `inputs` by the network as trained, in fp32.
        inputs: of the gate.
        accepted: levels that a byte may be off.
        engines: that the file is for.
        on_step: is called with what is done.

    Raises:
        CheckpointError: a weight is beyond half precision's range.
        ParityError: a byte is farther off.
    """
    half = to_half_precision(graph)
    name = "generator.fp16.onnx"
    content = to_onnx(half.eval(), fp32.inputs)
    count = len(reference)
    on_step(f"the gate of fp16: {plural(count, 'image')}, rounded after every operator in PyTorch")
    by_torch = _run_in_torch(emulate_half_precision(half), inputs)
    # Told to be in fp32, onnxruntime's CPU takes it: it computes in fp32 between roundings.
    on_step(f"the gate of fp16: the file through {REFERENCE_ENGINE} on the CPU")
    by_file = run_file(replace(fp32, name=name, content=content), REFERENCE_ENGINE, inputs)
    checked = []
    for images, engine in ((by_torch, "emulated in PyTorch"), (by_file.images, by_file.engine)):
        measured = fidelity(reference, images)
        if measured.max_levels > accepted:
            raise ParityError(
                f"fp16, {engine}, differs from fp32 by up to {measured.max_levels} levels (mean "
                f"{measured.mean_levels:.4f}, "
                f"{plural(count, 'image')}, worst at image {measured.worst_index}); at most {accepted} accepted; "
                "nothing "
                f"was written. If that is known and fine: --max-level-difference {measured.max_levels}"
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


def _run_in_torch(graph: ByteGraph, inputs: Inputs) -> Images:
    """Images of a graph in PyTorch, one at a time.

    Raises:
        ParityError: it gives NaN or infinite pixels.
    """
    images = []
    with torch.inference_mode(), _raising_on_nonfinite(graph):
        for row in range(len(next(iter(inputs.values())))):
            one = {name: torch.from_numpy(array[row : row + 1].copy()) for name, array in inputs.items()}
            images.append(graph(**one).numpy())
    return np.concatenate(images)


@contextlib.contextmanager
def _raising_on_nonfinite(graph: ByteGraph) -> Iterator[None]:
    """Within, pixels that are not finite are an error: as bytes they could not be told from others."""

    def look(_: Any, __: Any, pixels: torch.Tensor) -> None:
        if not torch.isfinite(pixels).all():
            raise ParityError(
                "in fp16 the network gives NaN or infinite pixels: its values are beyond half precision's range "
                "(65,504); nothing was written. Leave fp16 out"
            )

    hook = graph.unet.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()


def build_int8_variant(
    graph: ByteGraph,
    base: ModelFile,
    fp32: ModelSource,
    engine: Target,
    reference: Reference,
    limits: ParityLimits,
    on_step: Callable[[str], None],
) -> ModelVariant:
    """Equalise, calibrate, choose what stays in float, quantise, prove; for one engine.

    The choice is made on a few images. Where the gate sees too much of an error on the others, the choice is made
    again, for as much less of it, up to `ATTEMPTS` times in all.

    Args:
        graph: of the form deconvolution. It is left as it was.
        base: the manifest's entry of `fp32`.
        fp32: the same network's file.
        engine: what the file is for. TensorRT's is of the form of `base`, unless that resizes; the others have integer
            kernels for sub-pixel convolutions alone.
        reference: images of `fp32`, and masks.
        limits: to be within.
        on_step: is called with what is done, and found.

    Raises:
        ParityError: what comes of it is not within `limits`, or only with all layers in float.
        EngineNotInstalled, EngineError: the engine does not run it.
    """
    calibration_inputs = reference.calibration.calibration_inputs
    with torch.inference_mode():
        peaks = channel_peaks(graph, calibration_inputs)
        graph = equalize(graph, peaks)
        if engine == REFERENCE_ENGINE:
            graph = equalize_results(graph, peaks)
        form: Form = "deconvolution" if engine == TENSORRT and base.form == "deconvolution" else "sub-pixel"
        if form == "sub-pixel":
            unet = graph.unet
            assert isinstance(unet, DeployUnet)  # noqa: S101 - deploy made it
            graph.unet = use_sub_pixel(unet)
    quantizer = Quantizer(to_onnx(graph.eval(), fp32.inputs), calibration_inputs, engine)
    name = f"generator.int8.{engine}.onnx"

    def source_of(content: bytes) -> ModelSource:
        return ModelSource(name=name, content=content, precision="int8", inputs=fp32.inputs, outputs=fp32.outputs)

    def images(float_layers: Collection[str]) -> Images:
        source = source_of(quantizer.quantize(float_layers))
        return run_file(source, engine, reference.calibration.selection_inputs).images

    def evaluated(float_layers: Collection[str]) -> Fidelity:
        return fidelity(reference.selection_inputs.images, images(float_layers))

    count = plural(len(reference.selection_inputs.images), "image")
    on_step(f"int8 for {engine}: each of {len(quantizer.layers)} layers alone, on {count}")
    errors = measure_layers(quantizer.layers, images, reference.selection_inputs.images)
    for line in describe_layers(errors):
        on_step(line)
    aim = limits.stricter(MARGIN_DB)
    missed = f"{'; '.join(errors.all_int8.misses(aim))} with all of them, on the {count} that layers are chosen by"
    for attempt in range(1, ATTEMPTS + 1):
        chosen = choose_float_layers(errors, evaluated, aim)
        on_step(describe_choice(chosen, aim))
        if len(chosen.float_layers) == len(chosen.layers):
            raise ParityError(
                f"int8 on {engine} is too far from fp32 whichever layers are left in it: {missed}; {_FAILURE_ADVICE}"
            )
        source = source_of(quantizer.quantize(chosen.float_layers))
        validation = evaluate(source, engine, "int8", reference, on_step)
        found = validation.fidelity.misses(limits)
        if not found or attempt == ATTEMPTS:
            break
        missed = f"{'; '.join(found)}, over {len(validation.run.images)} masks"
        on_step(f"not near enough: {missed}; once more with less in int8")
        aim = tighten_limits(aim, chosen.chosen, validation.fidelity.shortfall_db(limits))
    of_form = msgspec.structs.replace(base, form=form)
    return validate(of_form, source, engine, "int8", reference, limits, validation, chosen)


def tighten_limits(aim: ParityLimits, reached: Fidelity, short: Shortfall) -> ParityLimits:
    """What to aim at where images that reach `reached` go with others that fall short of the limits."""
    most = aim.stricter(1000)
    return replace(
        aim,
        psnr_db=min(most.psnr_db, reached.mean_psnr_db + short.mean_db + MARGIN_DB) if short.mean_db else aim.psnr_db,
        worst_psnr_db=min(most.worst_psnr_db, reached.worst_psnr_db + short.worst_db + MARGIN_DB)
        if short.worst_db
        else aim.worst_psnr_db,
    )


def describe_layers(errors: LayerErrors) -> Sequence[str]:
    """What each layer costs, for a person."""
    total = sum(layer.multiplications for layer in errors.layers)
    return [
        f"  {layer.name:8} {layer.multiplications / total * 100:5.1f} % of the multiplications, PSNR with it alone in "
        f"int8 {alone.mean_psnr_db:5.1f} dB, worst {alone.worst_psnr_db:5.1f}"
        for layer, alone in zip(errors.layers, errors.alone, strict=True)
    ]


def describe_choice(sensitivity: Sensitivity, aim: ParityLimits) -> str:
    """What was chosen, for a person."""
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
