"""Define the commands of training: prepare, train.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from m2l_runtime._utils.text import print_stderr
from m2l_runtime.cli._options import GivenOptions, accept_old_options, echo_json, expand_options, option_field
from m2l_train.config import PRESETS, TrainConfig
from m2l_train.training.options import TrainOptions

if TYPE_CHECKING:
    from m2l_train import PrepareOptions

SOME_PAIRS_BAD: Final = 3
"""Exit status when some pairs were left out and the others used."""

Workers = Annotated[
    int | None,
    typer.Option(help="Threads that read pictures.  [default: the CPUs this process may use]", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of training to `app`."""
    app.command()(prepare)
    app.command(cls=accept_old_options(_old_options()))(train)


def _old_options() -> dict[str, str]:
    """Return the new option by the former one, which was the name of the field."""
    old: dict[str, str] = {}
    for field in dataclasses.fields(TrainConfig):
        flag = field.metadata["flag"]
        if flag is not None:
            name = field.name.replace("_", "-")
            old[f"--{name}"] = f"--{flag}"
            if isinstance(field.default, bool):
                old[f"--no-{name}"] = f"--no-{flag}"
    return old


@dataclass(frozen=True)
class PrepareFlags:
    """Hold the options of `m2l prepare` that choose what is written."""

    size: str = option_field(
        "286", "Side of the pictures in pixels, or height x width as 286x572. Training crops from it (286 to 256)."
    )
    split: str = option_field("train=0.9,val=0.1", "Fraction of each split.")
    seed: int = option_field(0, "Seed of the split.")
    split_file: Path | None = option_field(
        None,
        "CSV file with the columns name (or id, image) and split, instead of --split. Pairs that it does not name are "
        "left out on purpose.",
    )
    combined: bool = option_field(False, "Also write combined A|B pictures, with the mask on the left.")
    pair_pattern: str | None = option_field(
        None,
        "How masks are named, or photographs and masks, where it is not as usual: NAME_expert, or "
        "NAME_downsampled:NAME_attribute_*.",
    )
    group_file: Path | None = option_field(
        None,
        "CSV file with the columns name (or id, image) and patient, lesion or group: none of these is in two splits.",
    )
    group_column: str | None = option_field(None, "Column of --group-file, where it has another name.")


@expand_options
def prepare(
    images: Annotated[Path, typer.Argument(help="Folder of photographs.", show_default=False)],
    masks: Annotated[Path, typer.Argument(help="Folder of their masks; may be the same.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Data folder to write.", show_default=False)],
    *,
    options: Annotated[dict[str, Any], GivenOptions(PrepareFlags)],
    workers: Workers = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an earlier call, with its options. Where other options are given, everything is written "
            "again.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Pair photographs with masks, resize them to one size, split them, and report the result.

    Knows the names of ISIC (ISIC_0000000.jpg, ISIC_0000000_segmentation.png), of PH2 (IMD003.bmp,
    IMD003_lesion.bmp), and equal names.

    Exit status: 0 all pairs used (of those that a split file names), 3 some could not be used, or pair with several
    files, and were left out, 1 nothing made, 2 the command line was wrong, 130 or 143 stopped by a signal (continue
    with --resume).
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime.cli.progress import Reporter
    from m2l_train import prepare as run
    from m2l_train.report import describe_report

    wanted = _prepare_options(out, options, resume=resume)
    with Reporter("preparing") as reporter, StopSignals() as stop:

        def on_pair(problem: str | None) -> None:
            if problem is not None:
                reporter.note(f"left out {problem}")
            reporter.advance()

        report = run(
            images,
            masks,
            out,
            wanted,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            on_start=reporter.start,
            on_pair=on_pair,
            on_note=reporter.message,
            should_stop=stop.is_set,
        )
    if json:
        echo_json(report)
    else:
        typer.echo(describe_report(report, out))
    if report.was_stopped:
        print_stderr("stopped; the same command with --resume goes on")
        raise typer.Exit(stop.exit_status)
    if report.left_out or report.ambiguous:
        raise typer.Exit(SOME_PAIRS_BAD)


def _prepare_options(out: Path, given: Mapping[str, Any], *, resume: bool) -> PrepareOptions:
    """Return the options of a call: the defaults, or the earlier call's, but for those given at the command line."""
    from m2l_train.data.prepare import read_settings
    from m2l_train.data.prepare_options import PrepareOptions

    changes = dict(given)
    split = changes.pop("split", None)
    if split is not None:
        if "split_file" in changes:
            raise typer.BadParameter("a split is told by shares (--split) or by a file (--split-file); choose one")
        changes |= {"splits": _shares(split), "split_file": None}
    before = (read_settings(out) if resume else None) or PrepareOptions()
    return dataclasses.replace(before, **changes)


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            raise typer.BadParameter(f"--split is NAME=SHARE,NAME=SHARE, got {text!r}") from None
        if name.strip() in shares:
            raise typer.BadParameter(f"--split names '{name.strip()}' twice")
        shares[name.strip()] = value
    return shares


PresetOption = StrEnum("PresetOption", {name: name for name in PRESETS})  # type: ignore[misc]


@expand_options
def train(
    data: Annotated[
        Path, typer.Argument(help="Folder of pairs: of m2l prepare, images and masks, or combined.", show_default=False)
    ],
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    preset: Annotated[
        PresetOption, typer.Option(help="Preset that gives the settings not given here.")
    ] = PresetOption.paper,  # type: ignore[attr-defined]
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
    overwrite: Overwrite = False,
    *,
    options: Annotated[dict[str, Any], GivenOptions(TrainOptions)],
    settings: Annotated[dict[str, Any], GivenOptions(TrainConfig)],
) -> None:
    """Train pix2pix to synthesize photographs from masks. Stop it at any time, and continue with --resume.

    Exit status: 0 done or at a limit, 3 some pairs were left out, 1 it cannot go on, 2 the command line was wrong,
    130 or 143 stopped by a signal (continue with --resume).
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime.cli.progress import Reporter
    from m2l_train import StepResult
    from m2l_train import train as begin
    from m2l_train.report import describe_training
    from m2l_train.training.run_folder import RunFolder

    folder = RunFolder(run)
    base = folder.read_config() if resume and folder.is_run() else PRESETS[preset.value]
    config = dataclasses.replace(base, **settings)
    with Reporter("training") as reporter, StopSignals() as stop:

        def on_step(result: StepResult) -> None:
            reporter.advance(result.image_count)

        report = begin(
            data,
            run,
            config,
            TrainOptions(**options),
            resume=resume,
            overwrite=overwrite,
            on_start=reporter.start,
            on_step=on_step,
            on_note=reporter.message,
            should_stop=stop.is_set,
        )
        if report.process == 0:
            for problem in report.skipped:
                reporter.note(f"left out {problem}")
    if report.process == 0:
        typer.echo(describe_training(report))
    if report.was_stopped:
        if report.process == 0:
            print_stderr("stopped; the same command with --resume goes on")
        raise typer.Exit(stop.exit_status)
    if report.skipped:
        raise typer.Exit(SOME_PAIRS_BAD)


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
