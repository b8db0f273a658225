"""The command line of export to a call of its function."""

from __future__ import annotations

from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from m2l_export.tensorrt import PlanOptions
    from m2l_runtime.bundle.schema import Precision


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


class TensorRtVariantOption(StrEnum):
    """Choices of --flavour."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt_rtx"


_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_MEBIBYTE = 1 << 20


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
            help="What the gate accepts, in levels of 0..255.  [default: 1; 2 for fp16, weights or precision]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="What convolutions compute with, of fp32, fp16, bf16 and int8, with commas between, on each engine "
            "installed that can; fp16 is for NVIDIA cards alone. fp32 is always among them."
        ),
    ] = "fp32",
    engines: Annotated[
        str | None,
        typer.Option(
            help="Engines that fp16, bf16 and int8 are made for, with commas between.  "
            "[default: all installed that can, and tensorrt with --tensorrt]",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Masks that int8 is tuned on, and that bf16 and int8 are judged on: a folder, or shapes:300.  "
            "[default: drawn shapes]",
            show_default=False,
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            help="Lowest PSNR against fp32, mean over masks, that bf16 and int8 may have, in dB.  [default: 40]",
            show_default=False,
        ),
    ] = None,
    min_worst_psnr: Annotated[
        float | None, typer.Option(help="Likewise of the worst mask.  [default: 36]", show_default=False)
    ] = None,
    max_mean_difference: Annotated[
        float | None,
        typer.Option(help="Likewise the largest mean difference, in levels.  [default: 2]", show_default=False),
    ] = None,
    max_colour_shift: Annotated[
        float | None,
        typer.Option(
            help="Likewise the largest mean shift of red, green or blue, in levels.  [default: 1]", show_default=False
        ),
    ] = None,
    min_contrast: Annotated[
        float,
        typer.Option(
            help="Draw no appearances whose lesion differs less from its skin, in Delta E*ab of mean colours: there "
            "nobody sees where the mask is."
        ),
    ] = 0.0,
    tensorrt: Annotated[
        bool,
        typer.Option("--tensorrt", help="Also build TensorRT plans, in each --precision given that TensorRT computes."),
    ] = False,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Of plans: least, most likely and largest number of masks of a call.  [default: 1,16,64]",
            show_default=False,
        ),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            help="Of the cards that plans are for, with commas between, such as 8.6,8.9; none of them has to be here.  "
            "[default: that of the card here]",
            show_default=False,
        ),
    ] = None,
    flavour: Annotated[
        TensorRtVariantOption | None,
        typer.Option(
            help="TensorRT builds for the card that is here, TensorRT for RTX for all but Hopper.  "
            "[default: tensorrt if it is installed and the card here]",
            show_default=False,
        ),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(help="Of the builder, 0 to 5.  [default: the library's own]", show_default=False),
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option(help="Scratch memory of a plan, MiB.  [default: all of the card's]", show_default=False),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            help="Where TensorRT's timings are kept for later builds.  [default: BUNDLE.timings]", show_default=False
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
    2 wrong usage, 130 interrupted, 143 terminated. Unless it is 0, nothing is left behind.
    """
    from m2l_export import ParityLimits, export_checkpoint
    from m2l_runtime._utils.signals import exit_on_sigterm
    from m2l_runtime._utils.text import print_stderr, printable
    from m2l_runtime.backends.cuda.backend import BATCH_SIZE as CUDA_BATCH_SIZE
    from m2l_runtime.cli.progress import BuildProgress
    from m2l_runtime.cli.report import describe_parity

    precisions = _precisions(precision)
    given = {
        "psnr_db": min_psnr,
        "worst_psnr_db": min_worst_psnr,
        "mean_levels": max_mean_difference,
        "colour_shift_levels": max_colour_shift,
    }
    options = {"--calibrate": calibrate, "--engines": engines} | dict(
        zip(
            ("--min-psnr", "--min-worst-psnr", "--max-mean-difference", "--max-colour-shift"),
            given.values(),
            strict=True,
        )
    )
    for name_given, value in options.items():
        without_effect = {"fp32"} if name_given == "--engines" else {"fp32", "fp16"}
        if value is not None and set(precisions) <= without_effect:
            asked = " and ".join(dict.fromkeys(precisions))
            raise typer.BadParameter(f"{name_given} has no effect on {asked}; leave it out, or give --precision int8")
    if calibrate is not None and not calibrate.strip():
        raise typer.BadParameter("--calibrate takes a folder of masks, or words such as shapes:300; got nothing")
    plans = _plan_options(tensorrt, batch, compute_capability, flavour, optimization_level, memory_limit, timing_cache)
    with exit_on_sigterm(), closing(BuildProgress()) as progress:
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
            precisions=precisions,
            engines=None if engines is None else _words("--engines", engines),
            calibrate=calibrate,
            min_contrast=min_contrast,
            limits=ParityLimits(**{name: value for name, value in given.items() if value is not None}),
            overwrite=overwrite,
            origin=origin,
            plans=plans,
            on_step=progress.message,
            on_progress=progress.step,
        )
    if plans is not None and not plans.batch_sizes[0] <= CUDA_BATCH_SIZE <= plans.batch_sizes[2]:
        print_stderr(
            f"note: m2l synth takes {CUDA_BATCH_SIZE} masks a call on a card unless told otherwise, which these plans "
            f"do not; give it --batch-size {plans.batch_sizes[1]}"
        )
    for warning in report.warnings:
        print_stderr(f"warning: {printable(warning)}")
    if json:
        import msgspec

        made = {
            "path": printable(bundle),
            "sha256": report.bundle.sha256,
            "inputs": report.bundle.manifest.inputs,
            "models": report.bundle.manifest.models,
            "plans": report.bundle.manifest.plans,
            "sensitivity": {
                variant.model.file.path: variant.sensitivity
                for variant in report.variants
                if variant.sensitivity is not None
            },
            "warnings": report.warnings,
        }
        typer.echo(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
        return
    typer.echo(f"{printable(bundle)} is ready: {describe_parity(report.parity)}")
    for variant in report.variants:
        typer.echo(
            f"{variant.model.precision} on {', '.join(variant.model.engines)}: PSNR "
            f"{variant.fidelity.mean_psnr_db:.1f} dB against "
            f"fp32, worst {variant.fidelity.worst_psnr_db:.1f}, over {variant.model.parity.mask_count} masks"
            + (" (emulated)" if variant.model.parity.kind == "emulated" else "")
        )
    for built in report.plans:
        entry = built.entry
        counts = ", ".join(f"{count} convolutions in {kind}" for kind, count in entry.convolutions.items())
        typer.echo(
            f"{entry.file.path}: {counts}, built in {built.plan.seconds:.1f} s; "
            + (entry.parity if isinstance(entry.parity, str) else describe_parity(entry.parity))
        )


def _words(option: str, text: str) -> tuple[str, ...]:
    """What an option names, with commas between."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise typer.BadParameter(f"{option} takes names with commas between, got {text[:40]!r}")
    return words


def _precisions(text: str) -> tuple[Precision, ...]:
    """The words of --precision."""
    words = _words("--precision", text)
    for word in words:
        if word not in _PRECISIONS:
            raise typer.BadParameter(f"--precision is some of {', '.join(_PRECISIONS)}, got {word[:40]!r}")
    return cast("tuple[Precision, ...]", words)


def _plan_options(
    is_asked: bool,
    batch: str | None,
    compute_capability: str | None,
    flavour: TensorRtVariantOption | None,
    optimization_level: int | None,
    memory_limit: int | None,
    timing_cache: Path | None,
) -> PlanOptions | None:
    """What --tensorrt and the options beside it say; these have no effect without it, and are refused."""
    from m2l_export.tensorrt import PlanOptions

    options = {
        "--batch": batch,
        "--compute-capability": compute_capability,
        "--flavour": flavour,
        "--optimisation-level": optimization_level,
        "--memory-limit": memory_limit,
        "--timing-cache": timing_cache,
    }
    if not is_asked:
        for name, value in options.items():
            if value is not None:
                raise typer.BadParameter(f"{name} is of TensorRT plans; give --tensorrt, or leave it out")
        return None
    sizes = PlanOptions.batch_sizes
    if batch is not None:
        words = _words("--batch", batch)
        if len(words) != len(sizes) or not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
            raise typer.BadParameter(
                f"--batch is three numbers with commas between, least, most likely and largest; got {batch[:40]!r}"
            )
        least, likely, most = map(int, words)
        sizes = (least, likely, most)
    if memory_limit is not None and not 1 <= memory_limit <= _MEBIBYTE:
        raise typer.BadParameter(f"--memory-limit is 1 to {_MEBIBYTE:,} MiB, got {memory_limit}")
    return PlanOptions(
        compute_capabilities=() if compute_capability is None else _words("--compute-capability", compute_capability),
        flavour=None if flavour is None else flavour.value,
        batch_sizes=sizes,
        optimization_level=optimization_level,
        memory_limit_bytes=None if memory_limit is None else memory_limit * _MEBIBYTE,
        timing_cache=timing_cache,
    )
