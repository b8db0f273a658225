"""Add int8 files to a bundle whose checkpoint is not at hand: the network is read back from its ONNX file.

.venv/bin/python scripts/quantize_bundle.py BUNDLE OUT --masks FOLDER --engines openvino,onnxruntime
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import msgspec
import numpy as np
import onnx
import torch
import typer
from torch import Tensor, nn

from m2l_export.graph.deploy import ByteGraph, DeployUnet, SubPixelConv2d, deploy
from m2l_export.graph.stage import Stage
from m2l_export.model_card import sensitivity_table
from m2l_export.parity.metrics import ParityLimits
from m2l_export.precisions import ModelVariant, Reference, build_int8_variant
from m2l_export.quantize.calibration import read_calibration
from m2l_export.quantize.quantizer import Target
from m2l_export.targets import ENGINES, REFERENCE_ENGINE
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.bundle.io import Bundle, open_bundle, write_bundle
from m2l_runtime.bundle.schema import FileEntry, Manifest
from m2l_runtime.conditioning.conditions import sampled_appearances
from m2l_runtime.errors import M2LError
from m2l_train.models.networks import UnetGenerator, UnetSpec


def main(
    bundle: Path,
    out: Path,
    masks: Annotated[
        str, typer.Option(help="Calibration masks, as for `m2l export --calibrate`.")
    ] = "shapes:200,seed=1",
    engines: Annotated[str, typer.Option(help="Engines with commas between.")] = "openvino,onnxruntime",
    min_psnr: Annotated[float, typer.Option(help="Least mean PSNR in dB.")] = 40,
    min_worst_psnr: Annotated[float, typer.Option(help="Least PSNR of the worst image in dB.")] = 36,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Write the bundle."""
    wanted = tuple(word.strip() for word in engines.split(","))
    for engine in wanted:
        if engine not in ENGINES["int8"]:
            raise typer.BadParameter(f"--engines takes some of {', '.join(ENGINES['int8'])}, got {engine!r}")
    if out.exists() and not overwrite:
        raise typer.BadParameter(f"{out} exists already; choose another name or give --overwrite")
    opened = open_bundle(bundle)
    manifest = opened.manifest
    base = next(m for m in manifest.models if REFERENCE_ENGINE in m.engines and m.precision == "fp32")
    source = ModelSource(base.file.path, opened.read_model(base), "fp32", manifest.inputs, manifest.outputs)
    table = sampled_appearances(opened) if manifest.appearance is not None else None
    calibration = read_calibration(masks, manifest.inputs, table, opened.read_golden()[0])
    graph = graph_of(opened, source.content)
    variants = [
        build_int8_variant(
            graph,
            base,
            source,
            cast(Target, engine),
            Reference(source, calibration),
            ParityLimits(min_psnr, min_worst_psnr),
            lambda step: print(step, file=sys.stderr),
        )
        for engine in wanted
    ]
    kept = [m for m in manifest.models if m.precision != "int8" or not set(m.engines) & set(wanted)]
    dropped = {m.file.path for m in manifest.models} - {m.file.path for m in kept}
    files = {entry.path: opened.read(entry) for entry in manifest.files if entry.path not in dropped}
    files |= {variant.model.file.path: variant.content for variant in variants}
    tables = {variant.model.engines[0]: variant.sensitivity for variant in variants if variant.sensitivity is not None}
    card = files[manifest.model_card.path].decode() + sensitivity_table(tables) + "\n" + "".join(map(_line, variants))
    files[manifest.model_card.path] = card.encode()
    entry = FileEntry.from_content(manifest.model_card.path, files[manifest.model_card.path])
    quantized = msgspec.structs.replace(
        manifest, models=(*kept, *(variant.model for variant in variants)), model_card=entry
    )
    write_bundle(out, quantized, files, overwrite=True)


def _line(variant: ModelVariant) -> str:
    parity = variant.model.parity
    return (
        f"\nint8 on {parity.engine}: a PSNR of {parity.mean_psnr_db:.1f} dB, worst {parity.worst_psnr_db:.1f}, against "
        f"{parity.reference}.\n"
    )


def graph_of(bundle: Bundle, content: bytes) -> ByteGraph:
    """The deploy graph of a bundle's ONNX file, of the form deconvolution.

    PyTorch's names of weights are those of the file's initializers; constants have other names.
    """
    manifest = bundle.manifest
    unet = _differing_model(manifest)
    state: dict[str, Tensor] = {}
    for initializer in onnx.load_from_string(content).graph.initializer:
        array = np.array(onnx.numpy_helper.to_array(initializer))
        state[initializer.name.removesuffix(".fp16")] = torch.from_numpy(array).to(torch.float32)
    graph = deploy(unet, "instance", "pixel-shuffle", any(s.role == "dropout_bits" for s in manifest.inputs)).graph
    wanted = graph.state_dict()
    graph.load_state_dict({name: state[name].reshape(wanted[name].shape) for name in wanted})
    for stage in cast(DeployUnet, graph.unet).ups:
        cast(Stage, stage).layer = transposed(cast(SubPixelConv2d, cast(Stage, stage).layer))
    return graph.eval()


def _differing_model(manifest: Manifest) -> UnetGenerator:
    """A network of the same layers with other weights."""
    network = manifest.network
    return UnetGenerator(
        UnetSpec(
            levels=network.levels,
            ngf=network.ngf,
            input_nc=network.input_nc,
            output_nc=network.output_nc,
            norm=network.norm,
            dropout=network.dropout == "input",
            upsample=network.upsample,
            appearance_rows=int(network.appearance),
        )
    )


def transposed(layer: SubPixelConv2d) -> nn.ConvTranspose2d:
    """The transposed convolution that a sub-pixel convolution was made of."""
    conv = layer.conv
    outputs, inputs = conv.out_channels // 4, conv.in_channels
    layer_ = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=conv.bias is not None)
    # Output row and column s, t and taps u, v are at s + 2(1 - u), t + 2(1 - v) of the kernel.
    taps = conv.weight.detach().reshape(outputs, 2, 2, inputs, 2, 2).flip(4, 5)
    layer_.weight = nn.Parameter(taps.permute(3, 0, 4, 1, 5, 2).reshape(inputs, outputs, 4, 4).contiguous())
    if conv.bias is not None:
        layer_.bias = nn.Parameter(conv.bias.detach()[::4].clone())
    return layer_


if __name__ == "__main__":
    try:
        typer.run(main)
    except M2LError as error:
        raise SystemExit(f"error: {error}") from None
