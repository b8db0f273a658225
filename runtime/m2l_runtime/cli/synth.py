"""Run `m2l synth`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

if TYPE_CHECKING:
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.conditioning.conditions import AppearanceChoice
    from m2l_runtime.output.options import OutputOptions
    from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.cli._options import echo_json
from m2l_runtime.output.formats import FORMATS, IMAGE_FORMATS, Format, ImageFormat, format_of_suffix

SOME_MASKS_BAD: Final = 3
"""Exit status of `m2l synth` when some masks were skipped and the others done."""


_FORMAT_NAMES: Final = tuple(option for name, entry in FORMATS.items() for option in (name, *entry.aliases))
"""Choices of --format."""
_IMAGE_FORMAT_NAMES: Final = tuple(name for name in IMAGE_FORMATS if not FORMATS[name].holds_mask)
"""Choices of --image-format: what a container holds beside the mask."""


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Make a parser of an option that takes one of `names`."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, names))}.")
        return text

    return parse


def _metavar(names: Sequence[str]) -> str:
    return f"[{'|'.join(names)}]"


class PrecisionOption(StrEnum):
    """Choices of --precision."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


class SizeOption(StrEnum):
    """Choices of --output-size."""

    model = "model"
    original = "original"


def synth(
    masks: Annotated[
        str,
        typer.Argument(
            help="A mask file, a folder of them (png, jpg, bmp, tif, webp), or masks to draw: shapes:200.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder for the images; for one mask also a name ending in .png, .jpg, .webp or .npz.",
            show_default=False,
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to use.  [default: the model inside the package]", show_default=False)
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, openvino, onnxruntime, tensorrt, or fake (runs no model).")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        PrecisionOption,
        typer.Option(help="What convolutions compute with; m2l inspect lists what a bundle has for which backend."),
    ] = PrecisionOption.fp32,
    batch_size: Annotated[
        int | None, typer.Option(help="Masks per engine call.  [default: 1 on CPU, 16 on CUDA]", show_default=False)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads of the engine in all.  [default: the CPUs this process may use]", show_default=False
        ),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            help="Engine calls at once, the threads divided among them.  "
            "[default: as many as threads, at most 16, on CPU; 2 on CUDA]",
            show_default=False,
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder where openvino and tensorrt keep compiled models for the next time.  "
            "[default: none of openvino's, tensorrt's plans in the user's cache]",
            show_default=False,
        ),
    ] = None,
    trust_plans: Annotated[
        bool,
        typer.Option(
            "--trust-engines", help="Load the bundle's TensorRT plans. They are code: only from who you trust."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Threads that read masks and encode images.  [default: the CPUs this process may use]",
            show_default=False,
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(
            parser=_one_of(_FORMAT_NAMES),
            metavar=_metavar(_FORMAT_NAMES),
            help="What to write: a file for each image, or tars or parquet files of many.  "
            "[default: png, or what OUT ends in]",
            show_default=False,
        ),
    ] = None,
    image_format: Annotated[
        str | None,
        typer.Option(
            parser=_one_of(_IMAGE_FORMAT_NAMES),
            metavar=_metavar(_IMAGE_FORMAT_NAMES),
            help="Of the images in tars and parquet files.  [default: png]",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="Of jpeg and webp, 1..100.  [default: 95]", show_default=False)
    ] = None,
    png_level: Annotated[
        int | None,
        typer.Option(
            help="Of png: 0 stored, 1 without a search, 2..9 zlib's, slower and hardly smaller.  [default: 1]",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also write the masks: images/, masks/ and pairs.csv.")
    ] = False,
    output_size: Annotated[
        SizeOption, typer.Option(help="Size of what is written: the model's, or that of the mask's file.")
    ] = SizeOption.model,
    masks_per_file: Annotated[
        int | None,
        typer.Option(help="Masks dealt to each tar or parquet file.  [default: 1000]", show_default=False),
    ] = None,
    shard: Annotated[str, typer.Option(help="I/N: do the I-th of N shares; any split gives the same files.")] = "1/1",
    seed: Annotated[
        int, typer.Option(help="Images are drawn with it, each by its mask's name, where the bundle varies.")
    ] = 0,
    samples: Annotated[
        int, typer.Option(help="Images of each mask, where the bundle varies: NAME_sample1, NAME_sample2, ...")
    ] = 1,
    appearance: Annotated[
        str | None,
        typer.Option(
            help="A photograph to look like, or numbers by name: lesion_L=35,skin_a=12.  "
            "[default: drawn from what the network was trained with]",
            show_default=False,
        ),
    ] = None,
    appearance_mask: Annotated[
        Path | None,
        typer.Option(help="The mask's file of that photograph.  [default: looked for beside it]", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an earlier run: make what is missing, altered or outdated.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")] = False,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Also draw mask | lesion pairs into this PNG file.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Synthesize a lesion image for each mask.

    Masks are drawn as m2l masks does if MASKS is shapes:COUNT, deform:COUNT,masks=FOLDER or pca:COUNT,model=FILE,
    perhaps with settings: shapes:200,kinds=star+blob,seed=3. Then masks are written beside the images.

    Exit status: 0 all done, 3 some masks were skipped, 1 nothing was made, a value is out of range or the run failed,
    2 wrong usage, 130 or 143 stopped by a signal (go on with --resume).
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime._utils.text import print_stderr, printable
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.cli.report import describe_run, describe_summary
    from m2l_runtime.masks.sources.spec import is_spec, open_source
    from m2l_runtime.runs.folder import RunCallbacks, synthesize_folder
    from m2l_runtime.runs.pipeline import Result
    from m2l_runtime.synthesizer import Synthesizer

    if appearance_mask is not None and appearance is None:
        raise typer.BadParameter("--appearance-mask goes with --appearance FILE; leave it out")
    is_drawn = is_spec(masks)
    chosen = _format(format, Path(masks), out)
    pairs = pairs or (is_drawn and not FORMATS[chosen].holds_mask)
    options = _output_options(
        chosen, image_format, quality, png_level, pairs, output_size, masks_per_file, contact_sheet
    )
    with (
        Synthesizer.open(
            bundle,
            backend=backend,
            device=device,
            precision=precision.value,
            batch_size=batch_size,
            threads=threads,
            streams=streams,
            cache_dir=cache_dir,
            trust_plans=trust_plans,
            on_step=print_stderr,
        ) as synthesizer,
        Reporter() as reporter,
        StopSignals() as stop,
    ):
        choice = None
        if appearance is not None:
            choice = _choose_appearance(synthesizer, appearance, appearance_mask, reporter)

        if trust_plans and synthesizer.settings.backend != "tensorrt":
            reporter.message(
                f"note: --trust-engines has no effect on {synthesizer.settings.backend}: --backend tensorrt"
            )

        def on_start(count: int) -> None:
            for note in _engine_notes(synthesizer):
                reporter.message(f"note: {note}")
            reporter.start(count)

        def on_result(result: Result) -> None:
            if result.problem is not None:
                reporter.note(f"skipped {result.problem}")
            elif result.note is not None and not result.is_kept:
                reporter.note(f"note: {printable(result.name)} is {_NOTES[result.note]}")
            reporter.advance()

        summary = synthesize_folder(
            open_source(masks, min(synthesizer.image_size)) if is_drawn else masks,
            out,
            synthesizer,
            options,
            shard=_shard(shard),
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            seed=seed,
            samples=samples,
            appearance=choice,
            callbacks=RunCallbacks(
                on_start=on_start,
                on_result=on_result,
                on_note=lambda note: reporter.message(f"note: {note}"),
                should_stop=stop.is_set,
            ),
        )
    if json:
        echo_json(describe_run(summary, synthesizer.settings, printable(out)))
    else:
        typer.echo(describe_summary(summary, synthesizer.settings, printable(out)))
        if contact_sheet is not None:
            drawn = printable(contact_sheet) if summary.image_count else "none; it shows images made now, and none was"
            typer.echo(f"contact sheet: {drawn}")
    if summary.was_stopped:
        print_stderr("stopped; the same command with --resume goes on")
        raise typer.Exit(stop.exit_status)
    if summary.bad_count:
        from m2l_runtime._utils.text import plural

        print_stderr(f"skipped {plural(summary.bad_count, 'bad mask')}, named above and in the log")
        raise typer.Exit(SOME_MASKS_BAD if summary.image_count + summary.kept_count else 1)


_NOTES: Final = {
    "empty": "empty (all black)",
    "full": "full (all white)",
    "inverted?": "white all along the frame and black inside; is it inverted?",
}


def _engine_notes(synthesizer: Synthesizer) -> list[str]:
    """Which backend was chosen where there was a choice, and what will not pay."""
    choice = synthesizer.choice
    others = ", ".join(f"--backend {name}" for name in choice.candidates if name != choice.name)
    return ([f"runs on {choice.name}, {choice.reason}; others: {others}"] if others else []) + list(synthesizer.notes)


def _choose_appearance(synthesizer: Synthesizer, text: str, mask: Path | None, reporter: Reporter) -> AppearanceChoice:
    """What --appearance says, with notes on it to the person."""
    from m2l_runtime.conditioning.conditions import TAKES_NO_APPEARANCE, AppearanceSampler
    from m2l_runtime.errors import InputError
    from m2l_runtime.masks.appearance_query import resolve_appearance_query

    table = synthesizer.extra.table
    if table is None:
        raise InputError(TAKES_NO_APPEARANCE)
    choice, notes = resolve_appearance_query(text, synthesizer.image_size, mask)
    for note in notes + AppearanceSampler(table, choice).warnings:
        reporter.note(f"note: {note}")
    return choice


def _format(given: str | None, masks: Path, out: Path) -> Format:
    """Resolve --format: what was asked for; if nothing was, what the name of the one image says."""
    if given is not None:
        return next(name for name, entry in FORMATS.items() if given in (name, *entry.aliases))
    named = format_of_suffix(out.suffix)
    return named if named is not None and masks.is_file() and not out.is_dir() else "png"


def _output_options(
    format: Format,  # noqa: A002
    image_format: str | None,
    quality: int | None,
    png_level: int | None,
    pairs: bool,
    output_size: SizeOption,
    masks_per_file: int | None,
    contact_sheet: Path | None,
) -> OutputOptions:
    """Options of the library; one that has no effect on what is written is refused rather than ignored."""
    from m2l_runtime.output.encoding import Encoding
    from m2l_runtime.output.options import OutputOptions

    is_container = FORMATS[format].is_container
    images = cast(ImageFormat, (image_format or "png") if is_container else format)
    for name, is_given, has_effect in (
        ("--image-format", image_format is not None, is_container),
        ("--masks-per-file", masks_per_file is not None, is_container),
        ("--quality", quality is not None, FORMATS[images].quality is not None),
        ("--png-level", png_level is not None, FORMATS[images].levels is not None),
    ):
        if is_given and not has_effect:
            inside = f" of {images}" if is_container and name in ("--quality", "--png-level") else ""
            raise typer.BadParameter(f"{name} has no effect on {format}{inside}; leave it out")
    encoding = Encoding(
        images,
        Encoding.quality if quality is None else quality,
        Encoding.png_level if png_level is None else png_level,
    )
    return OutputOptions(
        format=format,
        image_encoding=encoding,
        pairs=pairs,
        original_size=output_size is SizeOption.original,
        masks_per_file=OutputOptions.masks_per_file if masks_per_file is None else masks_per_file,
        contact_sheet=contact_sheet,
    )


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    is_plain = slash and all(n.isascii() and n.isdecimal() and len(n) <= 9 for n in (number, count))
    if not (is_plain and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"--shard is I/N with I from 1 to N, got {text[:40]!r}")
    return int(number), int(count)
