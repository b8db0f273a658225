"""A checkpoint to a bundle, proven before it is written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph.deploy import Form, NormStatistics, deploy, require_dropout
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.onnx_writer import APPEARANCE, BATCH, DROPOUT_BITS, IMAGE, OPSET, input_specs, to_onnx
from m2l_export.model_card import model_card
from m2l_export.parity import gate
from m2l_export.parity.metrics import ParityLimits
from m2l_export.precisions import (
    MAX_FP16_LEVELS,
    ModelVariant,
    Reference,
    build_fp16_variant,
    build_int8_variant,
    evaluate,
    validate,
)
from m2l_export.quantize.calibration import read_calibration
from m2l_export.run_provenance import find_run_provenance
from m2l_export.targets import ENGINES, OPENVINO, REFERENCE_ENGINE, TENSORRT, _require_plans, _targets, is_installed
from m2l_export.tensorrt import (
    BuiltPlan,
    GateImages,
    PlanOptions,
    build,
    read_timings,
    resolve,
    timings_file,
    write_timings,
)
from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.backends.base import BackendModule, BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.backends.trt.build import BuildOptions
from m2l_runtime.bundle.io import Bundle, require_bundle, write_bundle
from m2l_runtime.bundle.schema import (
    APPEARANCES_ARRAY,
    APPEARANCES_NAME,
    AppearanceTable,
    FileEntry,
    Golden,
    Manifest,
    ModelFile,
    Network,
    Parity,
    Precision,
    Provenance,
    Resampling,
    TensorSpec,
)
from m2l_runtime.conditioning import appearance
from m2l_runtime.errors import CheckpointError, InputError, OutputError
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.types import NAMES, Images
from m2l_train.models.networks import UnetGenerator, UnetSpec

Weights = Literal["fp32", "fp16"]

ENGINE: Final = REFERENCE_ENGINE

MAX_SIDE: Final = 4096

MAX_CONTRAST: Final = 100.0

DEFAULT_CALIBRATION: Final = "shapes:200,seed=1"

ACCEPTED_LEVELS: Final[Mapping[Weights, int]] = {"fp32": 1, "fp16": 2}
"""What the gate accepts, in levels of 0..255, by how weights are stored."""


@dataclass(frozen=True)
class ExportReport:
    """What an export made."""

    bundle: Bundle
    parity: Parity
    """Of the fp32 file on onnxruntime."""
    warnings: tuple[str, ...]
    variants: tuple[ModelVariant, ...] = ()
    """Precisions below fp32, with their figures."""
    plans: tuple[BuiltPlan, ...] = ()
    """TensorRT's."""


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    name: str | None = None,
    image_size: int | None = None,
    norm_statistics: NormStatistics = "instance",
    form: Form = "sub-pixel",
    stochastic: bool = False,
    weights: Weights = "fp32",
    masks: str | os.PathLike[str] | None = None,
    max_level_difference: int | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    engines: Sequence[str] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    limits: ParityLimits | None = None,
    min_contrast: float = 0.0,
    overwrite: bool = False,
    origin: str = "",
    plans: PlanOptions | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[str, int, int], bool] = lambda *_: True,
) -> ExportReport:
    """Turn a ``*_net_G.pth`` of pytorch-CycleGAN-and-pix2pix, or a run of `m2l train`, into a bundle.

    Nothing is written before the gate has passed: the ONNX file's images on onnxruntime against the network's in
    PyTorch, over the example masks, black, white, a dot, noise and a disc, at batch sizes 1, 3 and 8; likewise on
    OpenVINO where that is installed. Precisions below fp32 are proven against fp32, over at least 100 masks that they
    were not tuned on.

    Args:
        checkpoint: the file; depth, width, channels and norm are inferred from it. Or the folder of a run of
            `m2l train`: its latest_net_G.pth. What the run says of itself goes into the bundle's provenance, also of a
            file that the run has kept.
        bundle: folder to make. Built aside and renamed into place.
        name: of the bundle; None: the folder's.
        image_size: side in pixels of masks and images; None: 2 to the power of the network's levels. A network
            trained on larger pictures needs it said; it is a multiple of that.
        norm_statistics: for batch norm: ``instance`` is what the original's test does, ``running`` what it does
            with ``--eval``.
        form: how layers that double the side are written: as transposed convolutions, as convolutions and
            depth-to-space, which onnxruntime runs faster on CPUs where the network is wide, or, of a network trained so
            alone, as repeated pixels and a convolution, which takes nearly twice the time. The images are the same.
        stochastic: dropout is an input: the same mask gives other images with other bits. Otherwise it is off.
        weights: how they are stored. ``fp16`` halves the file; what computes is fp32 as before, from rounded weights.
        masks: a folder of masks for the gate, beside its own.
        max_level_difference: what the gate accepts, 0..255; recorded in the manifest. None: see `ACCEPTED_LEVELS`.
        precisions: what convolutions are to compute with, for each engine that can: `bf16` on OpenVINO, `int8` on
            onnxruntime, OpenVINO and TensorRT, a file each, `fp16` on onnxruntime and TensorRT, on cards alone. fp32 is
            always made.
        engines: that lower precisions are made for; None: all that are installed and can, and TensorRT where `plans`
            are asked for.
        calibrate: masks that int8 is tuned on and lower precisions are judged on: a folder of at least 16 that differ,
            or words as of `m2l synth`; None: drawn shapes.
        limits: what lower precisions may be off; None: the defaults of :class:`m2l_export.parity.metrics.ParityLimits`.
        min_contrast: appearances are left out of the bundle's table, hence never drawn, whose lesion and skin differ by
            less than this, in Delta E*ab of their mean colours: there nobody sees where the mask is.
        overwrite: replace a bundle that is at `bundle`.
        origin: a paragraph for the model card: data, licence, training.
        plans: TensorRT plans to build, in each of `precisions` that TensorRT computes; None: none.
        on_step: called with a line of text as each step begins.
        on_progress: called as a plan is built, with a phase and how many of how many steps are done; False stops.

    Raises:
        CheckpointError: the file is not a U-Net generator, cannot run at `image_size`, has no dropout or not the form
            asked for, or has weights that fp16 cannot hold.
        InputError: an argument is out of range, or a mask cannot be read.
        ParityError: the gate did not pass.
        EngineNotInstalled: onnxruntime is missing, or no engine is installed that computes a precision asked for.
        PlanError: a plan cannot be built, or is not what was asked for.
        OutputError: `bundle` exists and may not be replaced, or cannot be written.
    """
    target = Path(bundle)
    _check_target(target, overwrite)
    accepted = ACCEPTED_LEVELS[weights] if max_level_difference is None else max_level_difference
    if not 0 <= accepted <= 255:
        raise InputError(f"--max-level-difference must be between 0 and 255, got {accepted}")
    runner = backend_module(ENGINE)  # ahead of the long steps: without it there is no gate
    lower = [precision for precision in dict.fromkeys(precisions) if precision != "fp32"]
    targets = _targets(lower, engines, plans is not None, on_step)
    build_options: Sequence[BuildOptions] = ()
    timings_at: Path | None = None
    timings = b""
    if plans is not None:
        build_options = resolve(plans)
        timings_at = timings_file(plans, build_options, target)
        timings = b"" if timings_at is None else read_timings(timings_at)
        _require_plans(precisions, targets)

    run_provenance = find_run_provenance(Path(checkpoint))
    on_step(f"reading {printable(run_provenance.file)}")
    loaded = load_checkpoint(run_provenance.file)
    spec = loaded.network.spec
    run_provenance = run_provenance.for_network(spec)
    config = run_provenance.config
    if image_size is None and config is not None:
        image_size = config.image_size
    size = _image_size(spec, image_size, printable(checkpoint))
    if stochastic and config is not None and not config.dropout:
        raise CheckpointError(f"{printable(checkpoint)}: was trained without dropout; leave out --stochastic")
    if stochastic:
        try:
            require_dropout(loaded.network)
        except CheckpointError as error:
            raise CheckpointError(f"{printable(checkpoint)}: {error}") from None
    on_step(
        f"found a U-Net generator: {spec.levels} levels, ngf {spec.ngf}, {spec.input_nc} to {spec.output_nc} "
        f"channels, norm {spec.norm}; masks and images of {size[1]}x{size[0]}"
    )
    gate_masks = gate.gate_masks(size, masks)
    inputs = input_specs(spec, size, stochastic)
    table = _appearances(loaded.network, min_contrast, printable(checkpoint))
    gate_inputs = gate.gate_inputs(gate_masks, inputs, table)
    golden_rows = gate.golden_rows(gate_inputs, len(gate_masks))
    golden_inputs = {name: array[golden_rows] for name, array in gate_inputs.items()}
    calibration = None
    if set(lower) - {"fp16"}:
        on_step("reading the masks to calibrate on")
        source_of_masks = DEFAULT_CALIBRATION if calibrate is None else os.fspath(calibrate)
        calibration = read_calibration(source_of_masks, inputs, table, golden_inputs)
    on_step("writing ONNX")
    try:
        deployed = deploy(loaded.network, norm_statistics, form, stochastic)
        content = to_onnx(deployed.graph, inputs)
        content = store_weights_as_fp16(content) if weights == "fp16" else content
    except CheckpointError as error:
        raise CheckpointError(f"{printable(checkpoint)}: {error}") from None
    source = ModelSource(
        name="generator.fp32.onnx" if weights == "fp32" else "generator.fp16-weights.onnx",
        content=content,
        precision="fp32",
        inputs=inputs,
        outputs=(TensorSpec(name=IMAGE, role="image", dtype="uint8", shape=(BATCH, *size, 3)),),
    )

    on_step(f"the gate: {len(next(iter(gate_inputs.values())))} images through PyTorch and through {ENGINE}")
    reference = gate.reference_images(loaded.network, gate_inputs, norm_statistics)
    parity = gate.measure(reference, gate_inputs, len(gate_masks), source, ENGINE, accepted)
    golden, golden_engine = _golden(runner, source, golden_inputs)

    network = Network(
        architecture="unet",
        levels=spec.levels,
        ngf=spec.ngf,
        input_nc=spec.input_nc,
        output_nc=spec.output_nc,
        norm=spec.norm,
        norm_statistics=deployed.norm_statistics,
        parameter_count=sum(p.numel() for p in loaded.network.parameters()),
        upsample=spec.upsample,
        appearance=APPEARANCE in gate_inputs,
        dropout="input" if DROPOUT_BITS in gate_inputs else "off",
    )
    provenance = Provenance(
        checkpoint=printable(loaded.file_name),
        checkpoint_sha256=loaded.sha256,
        versions={"m2l": __version__} | {p: _version(p) for p in ("torch", "onnx", "numpy")},
        training=run_provenance.training(loaded),
    )
    base = ModelFile(
        file=FileEntry.from_content(source.name, content),
        format="onnx",
        opset=OPSET,
        precision="fp32",
        form=deployed.form,
        engines=(ENGINE,),
        parity=parity,
        weights=weights,
    )
    models = [base]
    files = {source.name: content, "golden.npz": golden}
    if is_installed(OPENVINO):
        on_step(f"the gate: the same through {OPENVINO}")
        found = gate.measure(reference, gate_inputs, len(gate_masks), source, OPENVINO, accepted)
        models.append(msgspec.structs.replace(base, engines=(OPENVINO,), parity=found))
    variants: list[ModelVariant] = []
    if "fp16" in lower:
        variants.append(
            build_fp16_variant(
                deployed.graph,
                base,
                source,
                reference,
                gate_inputs,
                max(MAX_FP16_LEVELS, accepted),
                ENGINES["fp16"] if engines is None else targets["fp16"],
                on_step,
            )
        )
    if calibration is not None:
        compared, limits = Reference(source, calibration), limits or ParityLimits()
        for precision, engine in ((p, engine) for p in lower if p != "fp16" for engine in targets[p]):
            if precision == "int8":
                transposed = deploy(loaded.network, norm_statistics, "deconvolution", stochastic).graph
                variant = build_int8_variant(transposed, base, source, engine, compared, limits, on_step)
            else:
                validation = evaluate(source, engine, precision, compared, on_step)
                variant = validate(base, source, engine, precision, compared, limits, validation)
            variants.append(variant)
    files |= {variant.model.file.path: variant.content for variant in variants}
    models += [variant.model for variant in variants]
    built: list[BuiltPlan] = []
    if plans is not None:
        models.append(
            msgspec.structs.replace(base, engines=(TENSORRT,), parity=msgspec.structs.replace(parity, kind="emulated"))
        )
        built, timings = build(
            models,
            files,
            source,
            tuple(dict.fromkeys(precisions)),
            build_options,
            GateImages(
                gate_inputs,
                reference,
                len(gate_masks),
                parity.reference,
                max(MAX_FP16_LEVELS, accepted),
                limits or ParityLimits(),
            ),
            timings,
            on_step,
            on_progress,
        )
        for one in built:
            files |= one.files
    warnings = _warnings(reference, parity, ACCEPTED_LEVELS[weights], variants)
    if table is not None:
        files[APPEARANCES_NAME] = _npz({APPEARANCES_ARRAY: table})
    title = printable(name or target.resolve().name)[:200]
    card = model_card(
        title,
        size,
        network,
        provenance,
        tuple(models),
        warnings,
        origin,
        0 if table is None else len(table),
        min_contrast,
        {variant.model.engines[0]: variant.sensitivity for variant in variants if variant.sensitivity is not None},
        tuple(one.entry for one in built),
    ).encode()
    manifest = Manifest(
        name=title,
        image_size=size,
        resampling=Resampling(filter="bicubic", fit="squash"),
        inputs=source.inputs,
        outputs=source.outputs,
        models=tuple(models),
        golden=Golden(file=FileEntry.from_content("golden.npz", golden), count=len(golden_rows), engine=golden_engine),
        model_card=FileEntry.from_content("MODEL_CARD.md", card),
        network=network,
        provenance=provenance,
        warnings=warnings,
        appearance=None
        if table is None
        else AppearanceTable(
            file=FileEntry.from_content(APPEARANCES_NAME, files[APPEARANCES_NAME]),
            count=len(table),
            names=NAMES,
            min_contrast=min_contrast,
        ),
        plans=tuple(one.entry for one in built),
    )
    files["MODEL_CARD.md"] = card
    on_step(f"writing {printable(target)}")
    written_bundle = write_bundle(target, manifest, files, overwrite=overwrite)
    if timings_at is not None:
        write_timings(timings_at, timings)
    return ExportReport(written_bundle, parity, warnings, tuple(variants), tuple(built))


def _appearances(network: UnetGenerator, min_contrast: float, checkpoint: str) -> npt.NDArray[np.float32] | None:
    """The table (count, 12) that a network trained with appearances keeps, without those of less contrast."""
    if not 0 <= min_contrast <= MAX_CONTRAST:
        raise InputError(f"--min-contrast must be between 0 and {MAX_CONTRAST:g} Delta E, got {min_contrast:g}")
    if network.appearance is None:
        if min_contrast:
            raise InputError(f"{checkpoint}: was trained without appearances; leave out --min-contrast")
        return None
    table: npt.NDArray[np.float32] = network.appearance.table.float().numpy()
    contrast = appearance.contrast(table)
    kept: npt.NDArray[np.float32] = table[contrast >= min_contrast]
    if not len(kept):
        raise InputError(
            f"{checkpoint}: no appearance has a contrast of {min_contrast:g} Delta E, the largest is "
            f"{contrast.max(initial=0):.1f}; give a lower --min-contrast"
        )
    return kept


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuse what write_bundle would refuse in the end, ahead of the work."""
    if os.path.lexists(target):
        if not overwrite:
            raise OutputError(f"{printable(target)} exists already; choose another name or give --overwrite")
        require_bundle(target)
    atomic.check_new_folder(target)


def _image_size(spec: UnetSpec, image_size: int | None, checkpoint: str) -> tuple[int, int]:
    step = 1 << spec.levels
    if image_size is None:
        return step, step
    if image_size % step or not step <= image_size <= MAX_SIDE:
        raise CheckpointError(
            f"{checkpoint}: a network of {spec.levels} levels works on multiples of {step} pixels up to "
            f"{MAX_SIDE}, got --image-size {image_size}"
        )
    return image_size, image_size


def _golden(runner: BackendModule, source: ModelSource, inputs: gate.Inputs) -> tuple[bytes, str]:
    """(an .npz of inputs and the images they give now, the engine that made them)."""
    backend = runner.load(source, BackendOptions(device="cpu"))
    images = run_in_batches(backend, inputs)
    engine = backend.settings.engine
    backend.close()
    return _npz({**inputs, IMAGE: images}), engine


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _warnings(reference: Images, parity: Parity, expected: int, variants: Sequence[ModelVariant]) -> tuple[str, ...]:
    known_miss = None
    if parity.max_level_difference > expected:
        known_miss = (
            f"the gate was told to accept differences of up to {parity.accepted_max_level_difference} levels and "
            f"found {parity.max_level_difference}"
        )
    found = (gate.mask_blindness(reference), known_miss, *(variant.warning for variant in variants))
    return tuple(warning for warning in found if warning is not None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
