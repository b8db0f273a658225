"""Run `m2l synth`.

A new option is one field of `EngineFlags`, `BundleFlags`, `OutputFlags`, `SamplingFlags` or `RunFlags`, and its use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, cast

import typer

from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.cli._engine import EngineFlags
from m2l_runtime.cli._options import ALL_CPUS, echo_json, expand_options, option_field, parse_shard
from m2l_runtime.output.formats import (
    FORMATS,
    IMAGE_FORMATS,
    MAX_QUALITY,
    MIN_QUALITY,
    Format,
    FormatOption,
    ImageFormat,
    PlainImageFormat,
    format_of_suffix,
)

if TYPE_CHECKING:
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.conditioning.conditions import AppearanceChoice
    from m2l_runtime.output.options import OutputOptions
    from m2l_runtime.runs.folder import Summary
    from m2l_runtime.runs.pipeline import Result
    from m2l_runtime.synthesizer import Synthesizer

EXAMPLES: Final = """\b
Examples:
  m2l synth masks/ lesions/ --pairs --contact-sheet sheet.png
  m2l synth shapes:200 dark-lesions/ --samples 5 --appearance lesion_L=35,ita=tan"""
"""What the command's help ends with; `\\b` keeps the lines as they are."""

SOME_MASKS_BAD: Final = 3
"""Exit status of `m2l synth` when some masks were skipped and the others done."""

_WITH_QUALITY: Final = " and ".join(entry.title for entry in FORMATS.values() if entry.quality is not None)
_ENDINGS: Final = " or ".join(", ".join(FORMATS[name].suffixes[0] for name in IMAGE_FORMATS).rsplit(", ", 1))


@dataclass(frozen=True, kw_only=True)
class BundleFlags(EngineFlags):
    """Hold the options of the bundle and the engine that runs it."""

    PANEL: ClassVar = "Bundle and engine"

    bundle: Path | None = option_field(None, "Bundle to use.", default="the model inside the package")


@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """Hold the options of what is written."""

    PANEL: ClassVar = "What is written"

    format: FormatOption | None = option_field(
        None,
        "Output format: a file for each image, or tar or Parquet files of many.",
        default="png, or what OUT ends in",
    )
    image_format: PlainImageFormat | None = option_field(
        None, "Format of the images inside tar and Parquet files.", default="png"
    )
    quality: int | None = option_field(None, f"{_WITH_QUALITY} quality, {MIN_QUALITY} to {MAX_QUALITY}.", default="95")
    png_level: int | None = option_field(
        None,
        "PNG compression: 0 stores, 1 is fast, 2 to 9 are zlib's levels, slower and hardly smaller.",
        default="1",
    )
    pairs: bool = option_field(
        False, "Also write the masks: images/, masks/, pairs.csv, metadata.csv (as Hugging Face datasets reads it)."
    )
    output_size: Literal["model", "original"] = option_field(
        "model", "Size of what is written: the model's, or that of the mask file."
    )
    masks_per_file: int | None = option_field(None, "Masks per tar or Parquet file.", default="1000")
    contact_sheet: Path | None = option_field(None, "Also draw mask | lesion pairs into this PNG file.")


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """Hold the options of what is left to chance."""

    PANEL: ClassVar = "What images look like"

    seed: int = option_field(0, "Seed of the images, where the bundle varies. Each image depends on its mask's name.")
    samples: int = option_field(1, "Images of each mask, where the bundle varies: NAME_sample1, NAME_sample2, ...")
    appearance: str | None = option_field(
        None,
        "A photograph to look like, or numbers by name: lesion_L=35,ita=tan. m2l inspect lists a bundle's.",
        default="sampled from the training images'",
    )
    appearance_mask: Path | None = option_field(
        None, "Mask file of that photograph.", default="looked for beside the photograph"
    )


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Hold the options of the run as a whole."""

    PANEL: ClassVar = "The run"

    workers: int | None = option_field(None, "Threads that read masks and encode images.", default=ALL_CPUS)
    shard: str = option_field("1/1", "I/N: synthesize the I-th of N shares. Any split gives the same files.")
    resume: bool = option_field(False, "Go on with an earlier run: synthesize what is missing, altered or outdated.")
    overwrite: bool = option_field(False, "Replace what is there already.")
    json: bool = option_field(False, "Print a summary as JSON.")


@expand_options
def synth(
    masks: Annotated[
        str,
        typer.Argument(
            help="A mask file, a folder of them (png, jpg, bmp, tif, webp, gif, pgm), or masks to draw: shapes:200.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help=f"Folder for the images; for one mask also a name ending in {_ENDINGS}.",
            show_default=False,
        ),
    ],
    engine: BundleFlags,
    output: OutputFlags,
    sampling: SamplingFlags,
    run: RunFlags,
) -> None:
    """Synthesize a lesion image for each mask.

    Masks are drawn as m2l masks does if MASKS is shapes:COUNT, deform:COUNT,masks=FOLDER or pca:COUNT,model=FILE,
    perhaps with settings: shapes:200,kinds=star+blob,seed=3. Then masks are written beside the images.

    Exit status: 0 all done, 3 some masks were skipped, 1 nothing was made or the run failed, 2 the command line was
    wrong, 130 or 143 stopped by a signal (go on with --resume).
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.masks.sources.spec import is_spec, open_source
    from m2l_runtime.runs.folder import RunCallbacks, synthesize_folder

    if sampling.appearance_mask is not None and sampling.appearance is None:
        raise typer.BadParameter("--appearance-mask goes with --appearance FILE; leave it out")
    is_drawn = is_spec(masks)
    options = _output_options(output, _format(output.format, Path(masks), out), is_drawn)
    with engine.open(engine.bundle) as synthesizer, Reporter() as reporter, StopSignals() as stop:
        choice = _choose_appearance(synthesizer, sampling, reporter)
        if engine.trust_plans and not BACKENDS[synthesizer.settings.backend].runs_plans:
            reporter.message(f"note: --trust-plans has no effect on {synthesizer.settings.backend}: --backend tensorrt")

        def on_start(count: int) -> None:
            for note in _engine_notes(synthesizer):
                reporter.message(f"note: {note}")
            reporter.start(count)

        summary = synthesize_folder(
            open_source(masks, min(synthesizer.image_size)) if is_drawn else masks,
            out,
            synthesizer,
            options,
            shard=parse_shard(run.shard),
            workers=run.workers,
            resume=run.resume,
            overwrite=run.overwrite,
            seed=sampling.seed,
            samples=sampling.samples,
            appearance=choice,
            callbacks=RunCallbacks(
                on_start=on_start,
                on_result=lambda result: _report_result(result, reporter),
                on_note=lambda note: reporter.message(f"note: {note}"),
                should_stop=stop.is_set,
            ),
        )
    _print_summary(summary, synthesizer, out, None if run.json else output.contact_sheet, as_json=run.json)
    _leave(summary, stop.exit_status)


def _report_result(result: Result, reporter: Reporter) -> None:
    from m2l_runtime._utils.text import printable

    if result.problem is not None:
        reporter.note(f"skipped {result.problem}")
    elif result.note is not None and not result.is_kept:
        reporter.note(f"note: {printable(result.name)} is {_NOTES[result.note]}")
    reporter.advance()


def _print_summary(
    summary: Summary, synthesizer: Synthesizer, out: Path, contact_sheet: Path | None, *, as_json: bool
) -> None:
    from m2l_runtime._utils.text import printable
    from m2l_runtime.cli.report import describe_run, describe_summary

    if as_json:
        echo_json(describe_run(summary, synthesizer.settings, printable(out)))
        return
    typer.echo(describe_summary(summary, synthesizer.settings, printable(out)))
    if contact_sheet is not None:
        drawn = printable(contact_sheet) if summary.image_count else "none; it shows images made now, and none was"
        typer.echo(f"contact sheet: {drawn}")


def _leave(summary: Summary, status_if_stopped: int) -> None:
    """Exit with the status that tells what became of the run."""
    from m2l_runtime._utils.text import plural, print_stderr

    if summary.was_stopped:
        print_stderr("stopped; the same command with --resume goes on")
        raise typer.Exit(status_if_stopped)
    if summary.bad_count:
        print_stderr(f"skipped {plural(summary.bad_count, 'bad mask')}, named above and in the log")
        raise typer.Exit(SOME_MASKS_BAD if summary.image_count + summary.kept_count else 1)


_NOTES: Final = {
    "empty": "empty (all black)",
    "full": "full (all white)",
    "inverted?": "white all along the frame and black inside; is it inverted?",
    "opacity": "taken from its transparency: what is opaque is the lesion, though the transparent part is brighter",
    "gray areas": "kept with areas of grey, neither background nor lesion",
    "one color": "drawn in one color, whose shades are taken as greys",
}


def _engine_notes(synthesizer: Synthesizer) -> list[str]:
    """Tell which backend was chosen where there was a choice, and what does not pay."""
    choice = synthesizer.choice
    others = ", ".join(f"--backend {name}" for name in choice.candidates if name != choice.name)
    return ([f"runs on {choice.name}, {choice.reason}; others: {others}"] if others else []) + list(synthesizer.notes)


def _choose_appearance(
    synthesizer: Synthesizer, sampling: SamplingFlags, reporter: Reporter
) -> AppearanceChoice | None:
    """Read --appearance, and print notes on it."""
    if sampling.appearance is None:
        return None
    from m2l_runtime.conditioning.conditions import TAKES_NO_APPEARANCE
    from m2l_runtime.errors import InputError
    from m2l_runtime.masks.appearance_query import resolve_appearance_query

    if synthesizer.extra.table is None:
        raise InputError(TAKES_NO_APPEARANCE)
    choice, notes = resolve_appearance_query(
        sampling.appearance, synthesizer.image_size, sampling.appearance_mask, synthesizer.appearance_names
    )
    for note in notes + synthesizer.extra.sampler_for(choice).warnings:
        reporter.note(f"note: {note}")
    return choice


def _format(given: str | None, masks: Path, out: Path) -> Format:
    """Choose the format: the one asked for, or what the name of the one image says."""
    if given is not None:
        return next(name for name, entry in FORMATS.items() if given in (name, *entry.aliases))
    named = format_of_suffix(out.suffix)
    return named if named is not None and masks.is_file() and not out.is_dir() else "png"


def _output_options(output: OutputFlags, format: Format, is_drawn: bool) -> OutputOptions:  # noqa: A002
    """Make options of the library. An option that has no effect on what is written is refused, not ignored."""
    from m2l_runtime.output.encoding import Encoding
    from m2l_runtime.output.options import OutputOptions

    is_container = FORMATS[format].is_container
    images = (output.image_format or "png") if is_container else cast(ImageFormat, format)
    for name, value, has_effect in (
        ("--image-format", output.image_format, is_container),
        ("--masks-per-file", output.masks_per_file, is_container),
        ("--quality", output.quality, FORMATS[images].quality is not None),
        ("--png-level", output.png_level, FORMATS[images].levels is not None),
    ):
        if value is not None and not has_effect:
            inside = f" of {images}" if is_container and name in ("--quality", "--png-level") else ""
            raise typer.BadParameter(f"{name} has no effect on {format}{inside}; leave it out")
    encoding = Encoding(
        images,
        Encoding.quality if output.quality is None else output.quality,
        Encoding.png_level if output.png_level is None else output.png_level,
    )
    return OutputOptions(
        format=format,
        image_encoding=encoding,
        pairs=output.pairs or (is_drawn and not FORMATS[format].holds_mask),
        original_size=output.output_size == "original",
        masks_per_file=OutputOptions.masks_per_file if output.masks_per_file is None else output.masks_per_file,
        contact_sheet=output.contact_sheet,
    )


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
