"""Define the command line of export. Nothing heavy is imported before the command runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, cast

import typer

from m2l_runtime.cli._options import OldOption, accept_old_options, echo_json, expand_options, option_field

if TYPE_CHECKING:
    from m2l_export import ExportOptions, ExportReport, PlanOptions
    from m2l_export.precisions import ModelVariant
    from m2l_export.tensorrt import BuiltPlan
    from m2l_runtime.bundle.schema import Precision
    from m2l_runtime.triton import TritonRepository

RENAMED_OPTIONS: Final[Mapping[str, str | OldOption]] = {
    "--form": OldOption("--upsampling", {"sub-pixel": "pixel-shuffle", "deconvolution": "transposed"}),
    "--max-colour-shift": "--max-color-shift",
    "--flavour": "--tensorrt-variant",
    "--optimisation-level": "--optimization-level",
}
"""Options that were renamed, with their renamed values."""

EXAMPLES: Final = """\b
Examples:
  m2l export latest_net_G.pth my-bundle
  m2l export run my-bundle --precision fp32,bf16,int8 --calibrate masks/"""
"""What the command's help ends with; `\\b` keeps the lines as they are."""

_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class GraphFlags:
    """Hold the options about the network and the bundle."""

    PANEL: ClassVar = "Network and files"

    name: str | None = option_field(None, "Name of the bundle.", default="the folder's")
    image_size: str | None = option_field(
        None,
        "Side in pixels, or height x width as 256x512, if the network was trained on other images than its depth asks "
        "for.",
    )
    norm_statistics: Literal["instance", "running"] = option_field(
        "instance",
        "What batch norms normalize by: the image's own statistics, as the original's test, or those collected in "
        "training, as the original's test --eval.",
    )
    upsampling: Literal["pixel-shuffle", "transposed", "resize"] = option_field(
        "pixel-shuffle",
        "How layers that double the side are written; the images are the same, speed is not. "
        "resize is for networks trained with --upsample resize alone.",
    )
    stochastic: bool = option_field(
        False, "Keep dropout on. Its bits are an input beside each mask: other bits, another image."
    )
    weights: Literal["fp32", "fp16"] = option_field(
        "fp32", "How weights are stored. fp16 halves the file; arithmetic is fp32 either way."
    )
    masks: Path | None = option_field(None, "Folder of more masks on which images are validated against PyTorch's.")
    max_level_difference: int | None = option_field(
        None,
        "Largest difference that validation accepts, in levels of 0..255.",
        default="1; 2 for fp16, weights or precision",
    )


@dataclass(frozen=True)
class PrecisionFlags:
    """Hold the options about precisions below fp32."""

    PANEL: ClassVar = "Precisions"

    precision: str = option_field(
        "fp32",
        "What convolutions compute in, some of fp32, fp16, bf16 and int8 with commas between, on each installed engine "
        "that can. fp16 is for NVIDIA GPUs only. fp32 is always made.",
    )
    require: bool = option_field(
        False, "Fail if a precision cannot be validated on this machine, rather than leave it out with a note."
    )
    engines: str | None = option_field(
        None,
        "Engines that fp16, bf16 and int8 are made for, with commas between.",
        default="all installed that can, and tensorrt with --tensorrt",
    )
    calibrate: str | None = option_field(
        None,
        "Masks that int8 is calibrated on, and that bf16 and int8 are evaluated on: a folder of at least 16 different "
        "masks, or shapes:300.",
        default="generated shapes",
    )
    min_psnr: float | None = option_field(
        None, "Lowest mean PSNR against fp32 that bf16 and int8 may have, in dB.", default="40"
    )
    min_worst_psnr: float | None = option_field(None, "Lowest PSNR of the worst mask, in dB.", default="36")
    max_mean_difference: float | None = option_field(None, "Largest mean difference, in levels.", default="2")
    max_color_shift: float | None = option_field(
        None, "Largest mean shift of red, green or blue, in levels.", default="1"
    )


@dataclass(frozen=True)
class PlanFlags:
    """Hold the options about TensorRT plans."""

    PANEL: ClassVar = "TensorRT plans"

    tensorrt: bool = option_field(
        False, "Also build TensorRT plans, in each of the given --precision that TensorRT computes."
    )
    batch: str | None = option_field(
        None, "Smallest, most likely and largest number of masks per call of a plan.", default="1,16,64"
    )
    compute_capability: str | None = option_field(
        None,
        "GPUs that plans are for, such as 8.6,8.9. None of them has to be in this machine.",
        default="the GPU here",
    )
    tensorrt_variant: Literal["tensorrt", "tensorrt_rtx"] | None = option_field(
        None,
        "Library that builds: TensorRT builds for the GPU here, TensorRT for RTX for all but Hopper.",
        default="tensorrt if it is installed and the GPU is here",
    )
    optimization_level: int | None = option_field(
        None, "How long the builder searches, 0 to 5.", default="the library's own"
    )
    memory_limit: int | None = option_field(None, "Scratch memory of a plan in MiB.", default="all of the GPU's memory")
    timing_cache: Path | None = option_field(
        None, "File that keeps TensorRT's timings for later builds.", default="BUNDLE.timings"
    )


@dataclass(frozen=True)
class BundleFlags:
    """Hold the options about what the bundle says, and where it is written."""

    PANEL: ClassVar = "The bundle"

    min_contrast: float = option_field(
        0.0,
        "Sample appearances whose lesion differs from its skin by less, in Delta E*ab of mean colors, only where asked "
        "for (m2l synth --appearance min_contrast=0): nobody sees there where the mask is.",
    )
    random_orientation: bool = option_field(
        False,
        "Rotate and flip masks at random before the network runs, and images back: marks at fixed places move. For "
        "networks trained with m2l train --rotate90.",
    )
    origin: str = option_field("", "A paragraph for the model card: data, licence, training.", default="none")
    triton: Path | None = option_field(
        None, "Also write a model repository of Triton Inference Server into this folder, as m2l triton does."
    )
    overwrite: bool = option_field(False, "Replace a bundle, and a model repository, that is there already.")


def register(app: typer.Typer) -> None:
    """Add the verbs of export to `app`."""
    app.command(cls=accept_old_options(RENAMED_OPTIONS), epilog=EXAMPLES)(export)


@expand_options
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A *_net_G.pth of pytorch-CycleGAN-and-pix2pix, a run of m2l train, or one of the files it kept.",
            show_default=False,
        ),
    ],
    bundle: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    graph: GraphFlags,
    lower: PrecisionFlags,
    plan: PlanFlags,
    rest: BundleFlags,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Export a trained generator as a bundle, validated against PyTorch before it is written.

    Exit status: 0 the bundle is written, 1 it is not (validation did not pass, or something cannot be read or written),
    2 the command line was wrong, 130 interrupted, 143 terminated. Unless it is 0, nothing is left behind (but for the
    bundle, where all that fails is the model repository after it).
    """
    from m2l_runtime._utils.signals import exit_on_sigterm
    from m2l_runtime._utils.text import print_stderr, printable
    from m2l_runtime.backends.cuda.backend import BATCH_SIZE as CUDA_BATCH_SIZE
    from m2l_runtime.cli.progress import BuildProgress
    from m2l_runtime.cli.triton import report_repository

    options = _export_options(graph, lower, plan, rest)
    if rest.triton is not None:
        _check_triton(bundle, rest.triton, rest.overwrite)
    with exit_on_sigterm(), closing(BuildProgress()) as progress:
        from m2l_export import export_checkpoint

        report = export_checkpoint(checkpoint, bundle, options, on_step=progress.message, on_progress=progress.step)
        models = None if rest.triton is None else _write_triton(report, rest)
    plans = options.plans
    if plans is not None and not plans.batch_sizes[0] <= CUDA_BATCH_SIZE <= plans.batch_sizes[2]:
        print_stderr(
            f"note: m2l synth takes {CUDA_BATCH_SIZE} masks a call on a GPU unless told otherwise, which these plans "
            f"do not; give it --batch-size {plans.batch_sizes[1]}"
        )
    for warning in report.warnings:
        print_stderr(f"warning: {printable(warning)}")
    if json:
        written = {} if models is None else {"triton": {"path": printable(models.path), "models": models.models}}
        echo_json(_as_json(report, bundle) | written)
        return
    typer.echo("\n".join(_describe(report, bundle)))
    if models is not None:
        report_repository(models)


def _check_triton(bundle: Path, repository: Path, overwrite: bool) -> None:
    """Refuse a place of a model repository ahead of the export."""
    from m2l_runtime.triton.repository import check_repository_path

    if repository.absolute() == bundle.absolute():
        raise typer.BadParameter("--triton is the folder of the bundle itself; choose another one")
    check_repository_path(repository, overwrite=overwrite)


def _write_triton(report: ExportReport, rest: BundleFlags) -> TritonRepository:
    from m2l_runtime.triton import write_model_repository

    return write_model_repository(report.bundle, cast(Path, rest.triton), overwrite=rest.overwrite)


def _export_options(graph: GraphFlags, lower: PrecisionFlags, plan: PlanFlags, rest: BundleFlags) -> ExportOptions:
    """Make the options of the Python call, and refuse what has no effect."""
    from m2l_export import ExportOptions, ParityLimits

    precisions = _precisions(lower.precision)
    limits = {
        "psnr_db": lower.min_psnr,
        "worst_psnr_db": lower.min_worst_psnr,
        "mean_levels": lower.max_mean_difference,
        "colour_shift_levels": lower.max_color_shift,
    }
    _refuse_without_effect(lower, precisions)
    if lower.calibrate is not None and not lower.calibrate.strip():
        raise typer.BadParameter("--calibrate takes a folder of masks, or words such as shapes:300; got nothing")
    plans = _plan_options(plan)
    return ExportOptions(
        name=graph.name,
        image_size=graph.image_size,
        norm_statistics=graph.norm_statistics,
        upsampling=graph.upsampling,
        stochastic=graph.stochastic,
        weights=graph.weights,
        masks=graph.masks,
        max_level_difference=graph.max_level_difference,
        precisions=precisions,
        require=lower.require,
        engines=None if lower.engines is None else _words("--engines", lower.engines),
        calibrate=lower.calibrate,
        limits=ParityLimits(**{name: value for name, value in limits.items() if value is not None}),
        min_contrast=rest.min_contrast,
        random_orientation=rest.random_orientation,
        overwrite=rest.overwrite,
        origin=rest.origin,
        plans=plans,
    )


def _refuse_without_effect(lower: PrecisionFlags, precisions: tuple[Precision, ...]) -> None:
    values = {
        "--calibrate": lower.calibrate,
        "--engines": lower.engines,
        "--min-psnr": lower.min_psnr,
        "--min-worst-psnr": lower.min_worst_psnr,
        "--max-mean-difference": lower.max_mean_difference,
        "--max-color-shift": lower.max_color_shift,
    }
    for option, value in values.items():
        without_effect = {"fp32"} if option == "--engines" else {"fp32", "fp16"}
        if value is not None and set(precisions) <= without_effect:
            asked = " and ".join(dict.fromkeys(precisions))
            raise typer.BadParameter(f"{option} has no effect on {asked}; leave it out, or give --precision int8")


def _as_json(report: ExportReport, bundle: Path) -> dict[str, Any]:
    from m2l_runtime._utils.text import printable

    manifest = report.bundle.manifest
    variants = report.variants
    return {
        "path": printable(bundle),
        "sha256": report.bundle.sha256,
        "inputs": manifest.inputs,
        "models": manifest.models,
        "plans": manifest.plans,
        "sensitivity": {one.model.file.path: one.sensitivity for one in variants if one.sensitivity is not None},
        "warnings": report.warnings,
    }


def _describe(report: ExportReport, bundle: Path) -> list[str]:
    """Describe what was made, a line for each file."""
    from m2l_runtime._utils.text import printable
    from m2l_runtime.cli.report import describe_parity

    ready = f"{printable(bundle)} is ready: {describe_parity(report.parity)}"
    return [ready, *map(_describe_variant, report.variants), *map(_describe_plan, report.plans)]


def _describe_variant(variant: ModelVariant) -> str:
    model, fidelity = variant.model, variant.fidelity
    return (
        f"{model.precision} on {', '.join(model.engines)}: PSNR {fidelity.mean_psnr_db:.1f} dB against fp32, worst "
        f"{fidelity.worst_psnr_db:.1f}, over {model.parity.mask_count} masks"
        + (" (emulated)" if model.parity.kind == "emulated" else "")
    )


def _describe_plan(built: BuiltPlan) -> str:
    from m2l_runtime.cli.report import describe_parity

    entry = built.entry
    counts = ", ".join(f"{count} convolutions in {kind}" for kind, count in entry.convolutions.items())
    parity = entry.parity if isinstance(entry.parity, str) else describe_parity(entry.parity)
    return f"{entry.file.path}: {counts}, built in {built.plan.seconds:.1f} s; {parity}"


def _words(option: str, text: str) -> tuple[str, ...]:
    """Split the value of an option at commas."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise typer.BadParameter(f"{option} takes names with commas between, got {text[:40]!r}")
    return words


def _precisions(text: str) -> tuple[Precision, ...]:
    words = _words("--precision", text)
    for word in words:
        if word not in _PRECISIONS:
            raise typer.BadParameter(f"--precision is some of {', '.join(_PRECISIONS)}, got {word[:40]!r}")
    return cast("tuple[Precision, ...]", words)


def _plan_options(flags: PlanFlags) -> PlanOptions | None:
    """Make the options of plans. Without --tensorrt the others have no effect, and are refused."""
    from m2l_export import PlanOptions

    if not flags.tensorrt:
        values = {
            "--batch": flags.batch,
            "--compute-capability": flags.compute_capability,
            "--tensorrt-variant": flags.tensorrt_variant,
            "--optimization-level": flags.optimization_level,
            "--memory-limit": flags.memory_limit,
            "--timing-cache": flags.timing_cache,
        }
        for name, value in values.items():
            if value is not None:
                raise typer.BadParameter(f"{name} is of TensorRT plans; give --tensorrt, or leave it out")
        return None
    limit, capability = flags.memory_limit, flags.compute_capability
    sizes = PlanOptions.batch_sizes if flags.batch is None else _batch_sizes(flags.batch)
    if limit is not None and not 1 <= limit <= _MEBIBYTE:
        raise typer.BadParameter(f"--memory-limit is 1 to {_MEBIBYTE:,} MiB, got {limit}")
    return PlanOptions(
        compute_capabilities=() if capability is None else _words("--compute-capability", capability),
        tensorrt_variant=flags.tensorrt_variant,
        batch_sizes=sizes,
        optimization_level=flags.optimization_level,
        memory_limit_bytes=None if limit is None else limit * _MEBIBYTE,
        timing_cache=flags.timing_cache,
    )


def _batch_sizes(text: str) -> tuple[int, int, int]:
    words = _words("--batch", text)
    if len(words) != 3 or not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
        raise typer.BadParameter(
            f"--batch is three numbers with commas between, least, most likely and largest; got {text[:40]!r}"
        )
    smallest, likely, largest = map(int, words)
    return smallest, likely, largest


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
