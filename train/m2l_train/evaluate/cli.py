"""Define the commands of evaluation: evaluate images, bundle, compare, report, segmenter and usefulness.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from m2l_runtime._utils.text import ascii_json, print_stderr
from m2l_runtime.cli._options import ALL_CPUS, BACKEND_HELP, expand_options, option_field
from m2l_train.evaluate.usefulness.cli import usefulness

if TYPE_CHECKING:
    from m2l_train.evaluate import Comparison, Evaluation, EvaluationOptions

DataArgument = Annotated[
    Path,
    typer.Argument(help="Folder of real pairs: of m2l prepare, images and masks, or combined.", show_default=False),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Threads that read and compare.  [default: the CPUs this process may use]", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads of PyTorch.  [default: the CPUs this process may use]", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]

_DIRECTION_HELP: Final = "Layout of combined pictures: AtoB has the mask on the left."


class Direction(StrEnum):
    """List the choices of --direction."""

    AtoB = "AtoB"
    BtoA = "BtoA"


class Appearances(StrEnum):
    """List the choices of --appearances."""

    shared = "shared"
    own = "own"


DirectionOption = Annotated[Direction, typer.Option(help=_DIRECTION_HELP)]


@dataclass(frozen=True)
class MeasureFlags:
    """Hold the options of all commands that measure images."""

    split: str | None = option_field(None, "Which real pairs.", default="val, or all where there are no splits")
    segmenter: Path | None = option_field(
        None, "File of m2l evaluate segmenter, for metrics of masks, or none.", default="the one inside the package"
    )
    inception: Path | None = option_field(None, "Inception weights of torch-fidelity, for FID; never downloaded.")
    no_imagenet: bool = option_field(False, "Compute no ImageNet features, which take a minute or two of CPU.")
    feature_cache: Path | None = option_field(None, "Folder that keeps the ImageNet features of real images.")
    encoding: Literal["real", "none"] = option_field(
        "real", "Encode synthesized images as most real files are (JPEG), or not."
    )
    direction: Literal["AtoB", "BtoA"] = option_field("AtoB", _DIRECTION_HELP)
    out: Path | None = option_field(None, "Also write the result to this JSON file.")
    json: bool = option_field(False, "Print JSON instead of a table.")
    seed: int = option_field(0, "Seed of samples, patches, resamples, and a bundle's random inputs.")
    workers: int | None = option_field(None, "Threads that read and compare.", default=ALL_CPUS)
    overwrite: bool = option_field(False, "Replace a file that is there.")


@dataclass(frozen=True)
class EvaluationFlags(MeasureFlags):
    """Hold the options of both commands that measure one set of images."""

    sheet: Path | None = option_field(None, "Also draw the images told apart most surely, to this .png or .jpg file.")


@dataclass(frozen=True)
class EngineFlags:
    """Hold the options of commands that synthesize."""

    backend: str = option_field("auto", BACKEND_HELP)
    device: str = option_field("auto", "Device of the engine: auto, cpu, cuda or cuda:N.")
    threads: int | None = option_field(None, "CPU threads of the engine.", default=ALL_CPUS)


def register(app: typer.Typer) -> None:
    """Add `evaluate` and its verbs to `app`."""
    group = typer.Typer(
        name="evaluate",
        help="Measure how good synthesized images are.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command()(images)
    group.command()(bundle)
    group.command()(compare)
    group.command()(report)
    group.command()(segmenter)
    group.command()(usefulness)
    app.add_typer(group)


@expand_options
def images(
    synthetic: Annotated[
        Path, typer.Argument(help="Folder of synthesized images, as m2l synth makes it.", show_default=False)
    ],
    data: DataArgument,
    *,
    flags: EvaluationFlags,
    samples: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with more images of the same masks; may be given again.", show_default=False),
    ] = None,
) -> None:
    """Evaluate synthesized images against real ones of the same masks, and as sets.

    Names match as those of masks and photographs do. DATA may also be a folder of photographs alone: then only sets are
    compared.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal
    (nothing is written).
    """

    def run(options: EvaluationOptions) -> Evaluation | None:
        from m2l_train.evaluate import evaluate_images

        return evaluate_images(synthetic, data, options, samples=samples or ())

    _evaluate(run, flags)


@expand_options
def bundle(
    data: DataArgument,
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Folder of a bundle; left out: the model inside the package.", show_default=False),
    ] = None,
    *,
    flags: EvaluationFlags,
    engine: EngineFlags,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(help="Precision of the convolutions. m2l inspect lists what a bundle has for which backend."),
    ] = "fp32",
    appearance: Annotated[
        str | None,
        typer.Option(
            help="A photograph to look like, or numbers by name: lesion_L=35,ita=tan.  "
            "[default: sampled from the training images']",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Images of each mask, where the bundle varies.")] = 1,
) -> None:
    """Evaluate a bundle: synthesize from the masks of real pairs, in memory, and compare.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal
    (nothing is written).
    """

    def run(options: EvaluationOptions) -> Evaluation | None:
        from m2l_train.evaluate import evaluate_bundle

        return evaluate_bundle(
            data,
            bundle,
            options,
            backend=engine.backend,
            device=engine.device,
            threads=engine.threads,
            precision=precision,
            appearance=appearance,
            samples=samples,
        )

    _evaluate(run, flags)


@expand_options
def compare(
    a: Annotated[
        Path,
        typer.Argument(help="Folder of a bundle; 'embedded' is the model inside the package.", show_default=False),
    ],
    b: Annotated[
        Path, typer.Argument(help="Another, which is called better or worse than the first.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Option(help="Folder of real pairs: of m2l prepare, images and masks, or combined.", show_default=False),
    ],
    *,
    flags: MeasureFlags,
    engine: EngineFlags,
    appearances: Annotated[
        Appearances,
        typer.Option(help="shared: B gets the appearances drawn for A. own: each draws from its own table."),
    ] = Appearances.shared,
) -> None:
    """Compare two bundles on the same masks, appearances and seeds, with a verdict for each metric.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal
    (nothing is written).
    """

    def run(options: EvaluationOptions) -> Comparison | None:
        from m2l_train.evaluate import compare_bundles

        return compare_bundles(
            data,
            a,
            b,
            options,
            appearances="own" if appearances is Appearances.own else "shared",
            backend=engine.backend,
            device=engine.device,
            threads=engine.threads,
        )

    _evaluate(run, flags)


def _segmenter_file(given: Path | None) -> Path | None:
    """Return the file that an option asks for; None: no segmenter."""
    from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER

    if given is None:
        return SHIPPED_SEGMENTER
    return None if str(given) == "none" else given


def _evaluate(run: Callable[[EvaluationOptions], Evaluation | Comparison | None], flags: MeasureFlags) -> None:
    from m2l_runtime._utils import atomic
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime.cli.progress import Reporter
    from m2l_train.evaluate import Comparison, EvaluationOptions, to_json
    from m2l_train.evaluate.report import describe_comparison, describe_evaluation

    sheet = flags.sheet if isinstance(flags, EvaluationFlags) else None
    if flags.out is not None:
        atomic.check_new_file(flags.out, overwrite=flags.overwrite)
    if sheet is not None:
        atomic.check_new_file(sheet, overwrite=flags.overwrite)
    with Reporter("evaluating") as reporter, StopSignals() as stop:
        found = run(
            EvaluationOptions(
                split=flags.split,
                segmenter=_segmenter_file(flags.segmenter),
                inception=flags.inception,
                imagenet=not flags.no_imagenet,
                feature_cache=flags.feature_cache,
                encoding=flags.encoding,
                sheet=sheet,
                mask_is_left=flags.direction == "AtoB",
                seed=flags.seed,
                workers=flags.workers,
                on_start=reporter.start,
                on_images=reporter.advance,
                should_stop=stop.is_set,
            )
        )
    if found is None:
        print_stderr("stopped; nothing was written")
        raise typer.Exit(stop.exit_status)
    document = to_json(found)
    if flags.out is not None:
        atomic.check_new_file(flags.out, overwrite=flags.overwrite)  # it may have appeared meanwhile
        atomic.write_file(flags.out, document)
    if flags.json:
        typer.echo(ascii_json(document.decode().rstrip()))
    else:
        typer.echo(describe_comparison(found) if isinstance(found, Comparison) else describe_evaluation(found))


@expand_options
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="JSON files of m2l evaluate bundle, images or compare, or usefulness.json of usefulness.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Page to write, such as report.html.", show_default=False)],
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the real pairs of the results, for galleries.", show_default=False),
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a bundle that was measured; may be given again. The model inside the package need not be.",
            show_default=False,
        ),
    ] = None,
    synthesized: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of images that m2l evaluate images measured; may be given again.", show_default=False
        ),
    ] = None,
    segmenter: Annotated[
        Path | None,
        typer.Option(
            help="Segmenter, to show the masks that are followed best and worst, or none.  "
            "[default: the one inside the package]",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Rows of a gallery, at most, 1 to 24.")] = 8,
    direction: DirectionOption = Direction.AtoB,
    workers: Workers = None,
    engine: EngineFlags,
    overwrite: Overwrite = False,
) -> None:
    """Write results as one self-contained HTML page, with plots and galleries.

    The pictures are read from DATA and synthesized again. What was not given is left out, and the page says so.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal
    (nothing is written).
    """
    from m2l_runtime._utils import atomic
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime._utils.text import plural, printable
    from m2l_runtime.errors import ArgumentError

    if out.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(
            f"the page must end in .html, got '{printable(out.name)}'; it is the last argument, after the results"
        )
    atomic.check_new_file(out, overwrite=overwrite)
    from m2l_train.evaluate import ReportOptions, write_report

    with StopSignals() as stop:
        page = write_report(
            results,
            ReportOptions(
                data=data,
                bundles=tuple(bundle or ()),
                synthesized=tuple(synthesized or ()),
                segmenter=_segmenter_file(segmenter),
                mask_is_left=direction is Direction.AtoB,
                pictures=pictures,
                workers=workers,
                backend=engine.backend,
                device=engine.device,
                threads=engine.threads,
                on_note=print_stderr,
                should_stop=stop.is_set,
            ),
        )
    if page is None:
        print_stderr("stopped; nothing was written")
        raise typer.Exit(stop.exit_status)
    atomic.check_new_file(out, overwrite=overwrite)  # it may have appeared meanwhile
    atomic.write_file(out, page)
    typer.echo(f"{printable(out)}: {plural(len(results), 'result')}, {len(page) / 1e6:.1f} MB")


def segmenter(
    data: Annotated[
        Path,
        typer.Argument(help="Data folder with a train and a val split, as m2l prepare makes it.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(help="File to write, such as segmenter.pt.", show_default=False)],
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training pairs.  [default: 10]", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this many minutes and keep the result so far.", show_default=False)
    ] = None,
    width: Annotated[int, typer.Option(help="Channels of the first level.")] = 16,
    direction: DirectionOption = Direction.AtoB,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Threads = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a small network that finds lesions, which `--segmenter` takes in place of the one inside the package.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal
    (nothing is written).
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime.cli.progress import Reporter
    from m2l_train.evaluate import train_segmenter
    from m2l_train.evaluate.report import describe_segmenter

    with Reporter("training") as reporter, StopSignals() as stop:
        report = train_segmenter(
            data,
            out,
            epochs=epochs,
            width=width,
            seed=seed,
            device=device,
            threads=threads,
            workers=workers,
            max_minutes=minutes,
            mask_is_left=direction is Direction.AtoB,
            overwrite=overwrite,
            on_start=reporter.start,
            on_images=reporter.advance,
            on_note=reporter.message,
            should_stop=stop.is_set,
        )
        for warning in report.warnings:
            reporter.note(f"warning: {warning}")
    if report.was_stopped:
        print_stderr("stopped; nothing was written")
        raise typer.Exit(stop.exit_status)
    typer.echo(describe_segmenter(report))


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
