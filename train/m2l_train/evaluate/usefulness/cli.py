"""Define the commands evaluate usefulness and evaluate usefulness-pairs.

Nothing heavy is imported before it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from m2l_runtime._utils.text import plural, print_stderr, printable
from m2l_runtime.cli._options import ALL_CPUS, BACKEND_HELP, expand_options, option_field, parse_shard

if TYPE_CHECKING:
    from m2l_train.evaluate import UsefulnessOptions

_FRACTIONS: Final = "Percent of the real training pairs, separated by commas."
_SEEDS: Final = "Number of seeds: each draws other pairs, weights and images, alike for all arms."
_SIDE: Final = "Pixels of the squares that images are brought to, a multiple of 16."
_DIRECTION: Final = "Layout of combined pictures: AtoB has the mask on the left."
_WORKERS: Final = "Threads that read pictures."


@dataclass(frozen=True)
class PlanFlags:
    """Hold the options of what is trained."""

    arms: str = option_field(
        "NoAug,ClassicAug,Mask2LesionAug,AllAug,SyntheticOnly", "Arms, separated by commas.", default="all five"
    )
    fractions: str = option_field("5,25,100", _FRACTIONS)
    seeds: int = option_field(5, _SEEDS)
    steps: int = option_field(600, "Steps of each segmenter, of 16 images.")
    width: int = option_field(16, "Channels of the segmenter's first level.")
    side: int = option_field(96, _SIDE)


@dataclass(frozen=True)
class SynthesisFlags:
    """Hold the options of what is synthesized and how it is used."""

    bundle: Path | None = option_field(None, "Folder of a bundle.", default="the model inside the package")
    bundles: Path | None = option_field(
        None,
        "In place of --bundle: folder with a bundle for each fraction and seed (5pct-seed0, ...), each trained on the "
        "folder of that name of m2l evaluate usefulness-pairs.",
    )
    training_runs: Path | None = option_field(
        None, "Folder of the runs that --bundles were exported from: compares what they were trained on, file by file."
    )
    masks: Literal["as-they-are", "deform", "pca"] = option_field(
        "as-they-are", "How masks are made of an arm's training masks."
    )
    appearance: str | None = option_field(
        None,
        "Numbers of the appearances, as of m2l synth: min_contrast=0 for those of all training images.",
        default="sampled as the bundle says",
    )
    ratio: float = option_field(1.0, "Synthesized images for each real training pair.")
    share: float | None = option_field(
        None, "Share of the images seen that are synthesized.", default="as many as there are: ratio / (1 + ratio)"
    )
    use: Literal["mixed", "pretrain"] = option_field(
        "mixed", "Real and synthesized images in every batch, or synthesized ones first and real ones after."
    )
    backend: str = option_field("auto", BACKEND_HELP)


@dataclass(frozen=True)
class CallFlags:
    """Hold the options of the call as a whole."""

    precision: Literal["auto", "fp32", "bf16"] = option_field(
        "auto", "What segmenters are trained in. They are tested in fp32.", default="bf16 where it is fast"
    )
    shard: str = option_field("1/1", "I/N: train every N-th segmenter, from the I-th. Any split gives the same ones.")
    direction: Literal["AtoB", "BtoA"] = option_field("AtoB", _DIRECTION)
    device: str = option_field("auto", "Of the segmenter: auto, cpu, cuda or cuda:N.")
    threads: int | None = option_field(None, "CPU threads of PyTorch and of the engine.", default=ALL_CPUS)
    workers: int | None = option_field(None, _WORKERS, default=ALL_CPUS)
    overwrite: bool = option_field(False, "Discard what an earlier run left in RUN.")
    json: bool = option_field(False, "Print JSON instead of tables.")


@expand_options
def usefulness(
    data: Annotated[
        Path,
        typer.Argument(help="Data folder with a train and a val split, as m2l prepare makes it.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder RUN for segmenters' scores, the result and the forest plot.", show_default=False),
    ],
    *,
    plan: PlanFlags,
    synthesis: SynthesisFlags,
    call: CallFlags,
) -> None:
    """Measure whether synthesized pairs help a segmenter: train it with and without, and test it on the val split.

    Arms: NoAug (real pairs as they are), ClassicAug (turned, mirrored, light and color moved), Mask2LesionAug (real and
    synthesized as they are), AllAug (both, and as ClassicAug), SyntheticOnly. All are trained for the same number of
    steps; the best step is chosen on a fifth of each one's real pairs. Masks come from an arm's own training pairs.

    Ended or killed at any time, the same command goes on: segmenters that are done are kept.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal.
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime.cli.progress import Reporter
    from m2l_train.evaluate import UsefulnessCallbacks, evaluate_usefulness, usefulness_to_json
    from m2l_train.evaluate.usefulness.report import describe_usefulness

    options, shard = _options(plan, synthesis, call), parse_shard(call.shard)
    with Reporter("training segmenters", "steps") as reporter, StopSignals("the running segmenter is lost") as stop:
        report = evaluate_usefulness(
            data,
            out,
            options,
            bundle=synthesis.bundle,
            bundles=synthesis.bundles,
            training_runs=synthesis.training_runs,
            backend=synthesis.backend,
            shard=shard,
            overwrite=call.overwrite,
            callbacks=UsefulnessCallbacks(
                on_start=reporter.start,
                on_steps=reporter.advance,
                on_note=reporter.message,
                should_stop=stop.is_set,
            ),
        )
    done = f"{report.done:,} of {plural(report.total, 'segmenter')} are done"
    if report.was_stopped:
        print_stderr(f"stopped; {done}; the same command goes on")
        raise typer.Exit(stop.exit_status)
    if report.result is None:
        print_stderr(f"{done}; the shard that ends last compares them, and so does any of these commands run again")
        return
    typer.echo(usefulness_to_json(report.result).decode().rstrip() if call.json else describe_usefulness(report.result))


@dataclass(frozen=True)
class DrawFlags:
    """Hold the options that say which pairs are drawn."""

    fractions: str = option_field("5,25,100", _FRACTIONS)
    seeds: int = option_field(5, _SEEDS)
    side: int = option_field(96, _SIDE)
    direction: Literal["AtoB", "BtoA"] = option_field("AtoB", _DIRECTION)
    workers: int | None = option_field(None, _WORKERS, default=ALL_CPUS)


@expand_options
def usefulness_pairs(
    data: Annotated[
        Path,
        typer.Argument(help="Data folder that m2l evaluate usefulness is to be given.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder for a data folder of each fraction and seed.", show_default=False)
    ],
    *,
    flags: DrawFlags,
) -> None:
    """Write the pairs of each fraction and seed of m2l evaluate usefulness as data folders, to train generators on.

    OUT/5pct-seed0/train has the pairs that the arms of 5 % and seed 0 are trained on, val those that they are validated
    on; test pairs are in none. Give the options that m2l evaluate usefulness is given. Files are hard links where the
    disk has them. Folders that are there are kept.

    Exit status: 0 done, 1 it cannot be done, 2 the command line was wrong, 130 or 143 stopped by a signal.
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_train.evaluate import UsefulnessOptions, write_own_pairs

    options = UsefulnessOptions(
        fractions=_percents(flags.fractions),
        seeds=flags.seeds,
        side=flags.side,
        workers=flags.workers,
        mask_is_left=flags.direction == "AtoB",
    )
    with StopSignals("the running folder is lost") as stop:
        report = write_own_pairs(data, out, options, on_note=print_stderr, should_stop=stop.is_set)
    for warning in report.warnings:
        print_stderr(f"warning: {printable(warning)}")
    done = f"{len(report.folders):,} of {plural(report.total, 'folder')} are there"
    if report.was_stopped:
        print_stderr(f"stopped; {done}; the same command goes on")
        raise typer.Exit(stop.exit_status)
    typer.echo(done)


def _options(plan: PlanFlags, synthesis: SynthesisFlags, call: CallFlags) -> UsefulnessOptions:
    from m2l_train.evaluate import UsefulnessOptions

    return UsefulnessOptions(
        arms=tuple(name.strip() for name in plan.arms.split(",") if name.strip()),
        fractions=_percents(plan.fractions),
        seeds=plan.seeds,
        steps=plan.steps,
        width=plan.width,
        side=plan.side,
        ratio=synthesis.ratio,
        share=synthesis.share,
        use=synthesis.use,
        masks=synthesis.masks,
        appearance=synthesis.appearance,
        precision=call.precision,
        device=call.device,
        threads=call.threads,
        workers=call.workers,
        mask_is_left=call.direction == "AtoB",
    )


def _percents(text: str) -> tuple[float, ...]:
    """Read the value of --fractions."""
    try:
        return tuple(float(part.strip().removesuffix("%")) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(
            f"--fractions are percents separated by commas, such as 5,25,100, got {text[:40]!r}"
        ) from None
