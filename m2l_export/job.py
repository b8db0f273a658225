"""A checkpoint to a bundle, proven before it is written."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from m2l_export import gate
from m2l_export.card import model_card
from m2l_export.checkpoint import load_checkpoint
from m2l_export.deploy import NormStatistics, deploy
from m2l_export.onnxwriter import BATCH, IMAGE, MASK, OPSET, to_onnx
from m2l_runtime._version import __version__
from m2l_runtime.arrays import Images, Masks
from m2l_runtime.backends import BackendModule, BackendOptions, ModelSource, backend_module
from m2l_runtime.bundle import (
    Bundle,
    FileEntry,
    Golden,
    Manifest,
    ModelFile,
    Network,
    Parity,
    Provenance,
    Resampling,
    TensorSpec,
    Training,
    require_bundle,
    write_bundle,
)
from m2l_runtime.errors import CheckpointError, InputError, OutputError
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.terminal import printable
from m2l_train.config import TrainConfig
from m2l_train.networks import UnetSpec
from m2l_train.runfolder import GENERATOR, RunFolder

ENGINE = "onnxruntime"
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class ExportReport:
    """What an export made."""

    bundle: Bundle
    parity: Parity
    warnings: tuple[str, ...]


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    name: str | None = None,
    image_size: int | None = None,
    norm_statistics: NormStatistics = "instance",
    form: Literal["deconvolution", "sub-pixel"] = "sub-pixel",
    masks: str | os.PathLike[str] | None = None,
    max_level_difference: int = 1,
    overwrite: bool = False,
    origin: str = "",
    on_step: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Turn a ``*_net_G.pth`` of pytorch-CycleGAN-and-pix2pix, or a run of `m2l train`, into a bundle.

    Nothing is written before the gate has passed: the ONNX file's images on onnxruntime against the network's in
    PyTorch, over the example masks, black, white, a dot, noise and a disc, at batch sizes 1, 3 and 8.

    Args:
        checkpoint: the file; depth, width, channels and norm are inferred from it. Or the folder of a run of
            `m2l train`: its latest_net_G.pth, with what the run says of itself in the bundle's provenance.
        bundle: folder to make. Built aside and renamed into place.
        name: of the bundle; None: the folder's.
        image_size: side in pixels of masks and images; None: 2 to the power of the network's levels. A network
            trained on larger pictures needs it said; it is a multiple of that.
        norm_statistics: for batch norm: ``instance`` is what the original's test does, ``running`` what it does
            with ``--eval``.
        form: how transposed convolutions are written: as such, or as convolutions and depth-to-space, which
            onnxruntime runs faster on CPUs where the network is wide. The images are the same.
        masks: a folder of masks for the gate, beside its own.
        max_level_difference: what the gate accepts, 0..255; recorded in the manifest.
        overwrite: replace a bundle that is at `bundle`.
        origin: a paragraph for the model card: data, licence, training.
        on_step: called with a line of text as each step begins.

    Raises:
        CheckpointError: the file is not a U-Net generator, or cannot run at `image_size`.
        InputError: an argument is out of range, or a mask cannot be read.
        ParityError: the gate did not pass.
        EngineNotInstalled: onnxruntime is missing.
        OutputError: `bundle` exists and may not be replaced, or cannot be written.
    """
    target = Path(bundle)
    _check_target(target, overwrite)
    if not 0 <= max_level_difference <= 255:
        raise InputError(f"--max-level-difference must be between 0 and 255, got {max_level_difference}")
    runner = backend_module(ENGINE)  # ahead of the long steps: without it there is no gate

    run = RunFolder(Path(checkpoint))
    config = run.read_config() if run.is_run() else None
    file = Path(checkpoint) if config is None else run.path / GENERATOR
    on_step(f"reading {printable(file)}")
    loaded = load_checkpoint(file)
    spec = loaded.network.spec
    if config is not None:
        _check_is_of(config, spec, printable(file))
        image_size = image_size or config.image_size
    size = _image_size(spec, image_size, printable(checkpoint))
    try:
        deployed = deploy(loaded.network, norm_statistics, form)
    except CheckpointError as error:
        raise CheckpointError(f"{printable(checkpoint)}: {error}") from None
    on_step(
        f"found a U-Net generator: {spec.levels} levels, ngf {spec.ngf}, {spec.input_nc} to {spec.output_nc} "
        f"channels, norm {spec.norm}; masks and images of {size[1]}x{size[0]}"
    )
    gate_masks = gate.gate_masks(size, masks)

    on_step("writing ONNX")
    content = to_onnx(deployed.graph, size)
    source = ModelSource(
        name="generator.fp32.onnx",
        content=content,
        precision="fp32",
        inputs=(TensorSpec(name=MASK, role="mask", dtype="uint8", shape=(BATCH, *size)),),
        outputs=(TensorSpec(name=IMAGE, role="image", dtype="uint8", shape=(BATCH, *size, 3)),),
    )

    on_step(f"the gate: {len(gate_masks)} masks through PyTorch and through {ENGINE}")
    reference = gate.reference_images(loaded.network, gate_masks, norm_statistics)
    parity = gate.measure(reference, gate_masks, source, ENGINE, max_level_difference)
    warnings = _warnings(reference, parity)
    golden_masks = gate_masks[[gate.probe_index("disc"), gate.probe_index("dot"), len(gate.PROBES)]]
    golden, golden_engine = _golden(runner, source, golden_masks)

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
    )
    provenance = Provenance(
        checkpoint=printable(loaded.file_name),
        checkpoint_sha256=loaded.sha256,
        versions={"m2l": __version__} | {p: _version(p) for p in ("torch", "onnx", "onnxscript", "numpy")},
        training=None if config is None else _training(run, config, loaded.sha256),
    )
    models = (
        ModelFile(
            file=FileEntry.of(source.name, content),
            format="onnx",
            opset=OPSET,
            precision="fp32",
            form=deployed.form,
            engines=(ENGINE,),
            parity=parity,
        ),
    )
    title = printable(name or target.resolve().name)[:200]
    card = model_card(title, size, network, provenance, models, warnings, origin).encode()
    manifest = Manifest(
        name=title,
        image_size=size,
        resampling=Resampling(filter="bicubic", fit="squash"),
        inputs=source.inputs,
        outputs=source.outputs,
        models=models,
        golden=Golden(file=FileEntry.of("golden.npz", golden), count=len(golden_masks), engine=golden_engine),
        model_card=FileEntry.of("MODEL_CARD.md", card),
        network=network,
        provenance=provenance,
        warnings=warnings,
    )
    on_step(f"writing {printable(target)}")
    files = {source.name: content, "golden.npz": golden, "MODEL_CARD.md": card}
    return ExportReport(write_bundle(target, manifest, files, overwrite=overwrite), parity, warnings)


def _check_is_of(config: TrainConfig, spec: UnetSpec, name: str) -> None:
    """The weights in a run are of the network its config asks for."""
    found = (spec.levels, spec.ngf, spec.norm, spec.upsample)
    wanted = (config.levels, config.ngf, config.norm, config.upsample)
    if found != wanted:
        raise CheckpointError(
            f"{name}: holds a generator of levels, ngf, norm and upsampling {found}, but config.json beside it says "
            f"{wanted}; export the file by its own name if that is what you want"
        )


def _training(run: RunFolder, config: TrainConfig, sha256: str) -> Training:
    """What a run says of itself; how far it is only if that was written for these very weights."""
    progress = run.read_progress()
    is_of_these = progress is not None and progress.net_G_sha256 == sha256
    return Training(
        config=dataclasses.asdict(config),
        pair_count=0 if progress is None else progress.pair_count,
        epoch=progress.epoch if progress is not None and is_of_these else None,
        step=progress.step if progress is not None and is_of_these else None,
        hours=progress.hours if progress is not None and is_of_these else None,
        val_l1_levels=progress.val_l1_levels if progress is not None and is_of_these else None,
        device=None if progress is None else progress.device,
        versions={} if progress is None else progress.versions,
    )


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuse what write_bundle would refuse in the end, ahead of the work."""
    if os.path.lexists(target):
        if not overwrite:
            raise OutputError(f"{printable(target)} exists already; choose another name or give --overwrite")
        require_bundle(target)


def _image_size(spec: UnetSpec, image_size: int | None, checkpoint: str) -> tuple[int, int]:
    step = 1 << spec.levels
    if image_size is None:
        return step, step
    if image_size % step or not step <= image_size <= LARGEST_SIDE:
        raise CheckpointError(
            f"{checkpoint}: a network of {spec.levels} levels works on multiples of {step} pixels up to "
            f"{LARGEST_SIDE}, got --image-size {image_size}"
        )
    return image_size, image_size


def _golden(runner: BackendModule, source: ModelSource, masks: Masks) -> tuple[bytes, str]:
    """(an .npz of masks and the images they give now, the engine that made them)."""
    backend = runner.load(source, BackendOptions(device="cpu"))
    images = run_in_batches(backend, MASK, masks)
    engine = backend.settings.engine
    backend.close()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{MASK: masks, IMAGE: images})
    return buffer.getvalue(), engine


def _warnings(reference: Images, parity: Parity) -> tuple[str, ...]:
    known_miss = None
    if parity.max_level_difference > 1:
        known_miss = (
            f"the gate was told to accept differences of up to {parity.accepted_max_level_difference} levels and "
            f"found {parity.max_level_difference}"
        )
    return tuple(w for w in (gate.mask_blindness(reference), known_miss) if w is not None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
