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


def register(app: typer.Typer) -> None:
    """Add the verbs of export to `app`."""
    app.command()(export)


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A *_net_G.pth of pytorch-CycleGAN-and-pix2pix, or a run of m2l train.",
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
        typer.Option(help="How transposed convolutions are written; the images are the same, speed is not."),
    ] = FormOption.sub_pixel,
    masks: Annotated[
        Path | None, typer.Option(help="More masks for the gate, from this folder.", show_default=False)
    ] = None,
    max_level_difference: Annotated[int, typer.Option(help="What the gate accepts, in levels of 0..255.")] = 1,
    origin: Annotated[
        str, typer.Option(help="A paragraph for the model card: data, licence, training.", show_default=False)
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there already.")] = False,
) -> None:
    """Turn a trained generator into a bundle, proven against PyTorch before it is written."""
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
        masks=masks,
        max_level_difference=max_level_difference,
        overwrite=overwrite,
        origin=origin,
        on_step=aside,
    )
    for warning in report.warnings:
        aside(f"warning: {printable(warning)}")
    typer.echo(f"{printable(bundle)} is ready: {describe_parity(report.parity)}")
