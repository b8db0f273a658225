"""Assemble a bundle's manifest, its model card and the files they name."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from m2l_export.checkpoint import Checkpoint
from m2l_export.graph.deploy import Deployed
from m2l_export.graph.onnx_writer import APPEARANCE, DROPOUT_BITS
from m2l_export.model_card import model_card
from m2l_export.options import ExportOptions
from m2l_export.quantize.sensitivity import Sensitivity
from m2l_export.run_provenance import RunProvenance
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.bundle.schema import (
    APPEARANCES_ARRAY,
    APPEARANCES_NAME,
    AppearanceTable,
    FileEntry,
    Golden,
    Manifest,
    ModelFile,
    Network,
    PlanFile,
    Provenance,
    Resampling,
)
from m2l_runtime.conditioning.conditions import Appearances
from m2l_train.models.modulated import ModulatedSpec
from m2l_train.models.resnet import ResnetSpec

GOLDEN_NAME = "golden.npz"
MODEL_CARD_NAME = "MODEL_CARD.md"


@dataclass(frozen=True)
class GoldenImages:
    """Hold inputs and the images that the exporting machine made of them."""

    content: bytes
    """An .npz of all of them."""
    count: int
    engine: str
    """Name and version of the engine that made the images."""


@dataclass(frozen=True)
class BundleContents:
    """Hold what the manifest and the model card of a bundle say."""

    title: str
    image_size: tuple[int, int]
    """(height, width)."""
    source: ModelSource
    """The fp32 file, whose inputs and outputs are the bundle's."""
    models: tuple[ModelFile, ...]
    plans: tuple[PlanFile, ...]
    golden: GoldenImages
    network: Network
    provenance: Provenance
    warnings: tuple[str, ...]
    table: Appearances | None
    """Appearances of the training images: float32 (count, numbers)."""
    sampled_count: int
    """How many of them are sampled where nothing is asked for."""
    names: tuple[str, ...]
    """Names of their numbers."""
    sensitivities: Mapping[str, Sensitivity]
    """What int8 costs layer by layer, by the engine that the file is for."""


def assemble_manifest(contents: BundleContents, options: ExportOptions) -> tuple[Manifest, dict[str, bytes]]:
    """Make the manifest, and the files that are made beside the models: golden images, appearances and model card.

    Returns:
        The manifest, and the files' bytes by path.
    """
    table = contents.table
    files = {GOLDEN_NAME: contents.golden.content}
    if table is not None:
        files[APPEARANCES_NAME] = to_npz({APPEARANCES_ARRAY: table})
    files[MODEL_CARD_NAME] = _model_card(contents, options).encode()
    entries = {path: FileEntry.from_content(path, content) for path, content in files.items()}
    manifest = Manifest(
        name=contents.title,
        image_size=contents.image_size,
        resampling=Resampling(filter="bicubic", fit="squash"),
        inputs=contents.source.inputs,
        outputs=contents.source.outputs,
        models=contents.models,
        golden=Golden(file=entries[GOLDEN_NAME], count=contents.golden.count, engine=contents.golden.engine),
        model_card=entries[MODEL_CARD_NAME],
        network=contents.network,
        provenance=contents.provenance,
        warnings=contents.warnings,
        appearance=None
        if table is None
        else AppearanceTable(
            file=entries[APPEARANCES_NAME],
            count=len(table),
            names=contents.names,
            min_contrast=options.min_contrast,
            sampled_count=contents.sampled_count if contents.sampled_count < len(table) else None,
        ),
        plans=contents.plans,
        random_orientation=options.random_orientation,
    )
    return manifest, files


def _model_card(contents: BundleContents, options: ExportOptions) -> str:
    return model_card(
        contents.title,
        contents.image_size,
        contents.network,
        contents.provenance,
        contents.models,
        contents.warnings,
        options.origin,
        contents.sampled_count,
        options.min_contrast,
        contents.sensitivities,
        contents.plans,
        contents.names,
        options.random_orientation,
    )


def describe_network(checkpoint: Checkpoint, deployed: Deployed, source: ModelSource) -> Network:
    """Make the manifest's entry of a network, from the network as trained and from the file made of it."""
    spec, inputs = checkpoint.network.spec, {one.name for one in source.inputs}
    parameter_count = sum(p.numel() for p in checkpoint.network.parameters())
    if isinstance(spec, ModulatedSpec):
        return Network(
            architecture="modulated",
            levels=spec.levels,
            ngf=spec.decoder[-1],
            input_nc=1,
            output_nc=3,
            norm="none",
            norm_statistics="none",
            parameter_count=parameter_count,
            upsample="resize",
            appearance=True,
        )
    return Network(
        architecture="resnet" if isinstance(spec, ResnetSpec) else "unet",
        levels=spec.levels,
        ngf=spec.ngf,
        input_nc=spec.input_nc,
        output_nc=spec.output_nc,
        norm=spec.norm,
        norm_statistics=deployed.norm_statistics,
        parameter_count=parameter_count,
        upsample="deconv" if isinstance(spec, ResnetSpec) else spec.upsample,
        appearance=APPEARANCE in inputs,
        dropout="input" if DROPOUT_BITS in inputs else "off",
        blocks=spec.blocks if isinstance(spec, ResnetSpec) else 0,
    )


def describe_provenance(checkpoint: Checkpoint, run: RunProvenance) -> Provenance:
    """Make the manifest's entry of where the weights come from, with the versions that the export runs with."""
    return Provenance(
        checkpoint=printable(checkpoint.file_name),
        checkpoint_sha256=checkpoint.sha256,
        versions={"m2l": __version__} | {name: _version(name) for name in ("torch", "onnx", "numpy")},
        training=run.training(checkpoint),
    )


def to_npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Compress arrays into the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
