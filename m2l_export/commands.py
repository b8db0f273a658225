"""The command line of export to a call of its function."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class NormStatisticsOption(StrEnum):
    """Choices of --norm-statistics."""

    instance = "instance"
    running = "running"


class FormOption(StrEnum):
    """Choices of --form."""

    sub_pixel = "sub-pixel"
    deconvolution = "deconvolution"
    resize = "resize"


class WeightsOption(StrEnum):
    """Choices of --weights."""

    fp32 = "fp32"
    fp16 = "fp16"


def register(app: typer.Typer) -> None:
    """Add the verbs of export to `app`."""
    app.command()(export)


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A *_net_G.pth of pytorch-CycleGAN-and-pix2pix, a run of m2l train, or one of the files it kept.",
            show_default=False,
        ),
    ],
    bundle: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle.  [default: the folder's]", show_default=False)
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels, if the network was trained on larger images than its depth asks for.",
            show_default=False,
        ),
    ] = None,
    norm_statistics: Annotated[
        NormStatisticsOption,
        typer.Option(
            help="For batch norm: each image's own statistics, as the original's test, "
            "or the running ones, as its test with --eval."
        ),
    ] = NormStatisticsOption.instance,
    form: Annotated[
        FormOption,
        typer.Option(
            help="How layers that double the side are written; the images are the same, speed is not. "
            "resize is for networks trained with --upsample resize alone.",
        ),
    ] = FormOption.sub_pixel,
    stochastic: Annotated[
        bool,
        typer.Option(
            "--stochastic", help="Dropout stays on, by bits that come in with each mask: other bits, another image."
        ),
    ] = False,
    weights: Annotated[
        WeightsOption,
        typer.Option(help="How weights are stored. fp16 halves the file; what computes is fp32 either way."),
    ] = WeightsOption.fp32,
    masks: Annotated[
        Path | None, typer.Option(help="More masks for the gate, from this folder.", show_default=False)
    ] = None,
    max_level_difference: Annotated[
        int | None,
        typer.Option(
            help="What the gate accepts, in levels of 0..255.  [default: 1, or 2 for fp16 weights]", show_default=False
        ),
    ] = None,
    origin: Annotated[
        str, typer.Option(help="A paragraph for the model card: data, licence, training.", show_default=False)
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Turn a trained generator into a bundle, proven against PyTorch before it is written.

    Exit status: 0 the bundle is written, 1 it is not (the gate did not pass, or something cannot be read or written),
    2 wrong usage, 130 interrupted.
    """
    from m2l_export import export_checkpoint
    from m2l_runtime.describe import describe_parity
    from m2l_runtime.terminal import aside, printable

    report = export_checkpoint(
        checkpoint,
        bundle,
        name=name,
        image_size=image_size,
        norm_statistics=norm_statistics.value,
        form=form.value,
        stochastic=stochastic,
        weights=weights.value,
        masks=masks,
        max_level_difference=max_level_difference,
        overwrite=overwrite,
        origin=origin,
        on_step=aside,
    )
    for warning in report.warnings:
        aside(f"warning: {printable(warning)}")
    if json:
        import msgspec

        made = {
            "path": printable(bundle),
            "sha256": report.bundle.sha256,
            "inputs": report.bundle.manifest.inputs,
            "models": report.bundle.manifest.models,
            "warnings": report.warnings,
        }
        typer.echo(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
        return
    typer.echo(f"{printable(bundle)} is ready: {describe_parity(report.parity)}")
