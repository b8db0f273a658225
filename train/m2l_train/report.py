"""Describe prepared data and training runs in text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from m2l_runtime._utils.text import command_word, plural, printable, rate
from m2l_train.data.near_duplicates import THRESHOLD

if TYPE_CHECKING:
    from m2l_train.data.prepare_options import PrepareReport
    from m2l_train.training.options import TrainReport

_SHOWN: Final = 5


def describe_report(report: PrepareReport, out: Path) -> str:
    """Describe what `m2l prepare` has done, in lines."""
    made = ", ".join(f"{count} {printable(split)}" for split, count in report.splits.items())
    lines = [f"{plural(report.prepared, 'pair')} in {printable(out)}: {made}"]
    if report.kept:
        lines.append(f"{report.kept} of them made earlier and kept")
    for names, what in (
        (report.images_without_mask, "without a mask"),
        (report.masks_without_image, "without a photograph"),
        (report.ambiguous, "pair with several files, none was taken"),
        (report.not_in_split_file, "not in the split file, left out"),
        (report.only_in_split_file, "in the split file only"),
        (report.not_in_group_file, "not in the group file, each taken as a group of its own"),
        (report.sizes_differ, "of another size than the mask, but of its aspect; used"),
        (report.empty_masks, "with an empty mask (all black); used"),
        (report.full_masks, "with a full mask (all white); used"),
    ):
        if names:
            lines.append(f"{len(names)} {what}: {_first_names(names)}")
    lines += [f"{count} of the photographs: {note}" for note, count in sorted(report.other_notes.items())]
    if report.left_out:
        lines.append(f"{plural(len(report.left_out), 'pair')} left out: they cannot be used")
    lines += [f"warning: {warning}" for warning in report.warnings]
    if report.near_duplicates:
        pairs = [f"{one} = {other}" for one, other, _ in report.near_duplicates]
        lines.append(
            f"warning: {plural(len(pairs), 'pair')} of photographs nearly the same in two splits (32x32 grey, likeness "
            f"at least {THRESHOLD}, turned or mirrored too): {_first_names(pairs)}"
        )
    return "\n".join([*lines, "report.json has all of it"])


def _first_names(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN])) + more


def describe_training(report: TrainReport) -> str:
    """Describe how far a run has come, in lines."""
    run = printable(report.run)
    if report.was_complete:
        return (
            f"{run} has had all of its {report.config.epoch_count} epochs already (step {report.step}); "
            "a longer training is a new run with other --n-epochs"
        )
    validated = (
        ""
        if report.val_l1_levels is None
        else f", after the last whole epoch {report.val_l1_levels:.2f} levels from the real images"
    )
    speed = f"{rate(report.images_per_s)} images/s" if report.images_per_s else "no step in this call"
    lines = [
        f"{run}: {plural(report.step, 'step')}, epoch {report.epoch} of {report.config.epoch_count}{validated} "
        f"({speed})"
    ]
    if not report.is_complete and not report.was_stopped:
        lines.append("the same command with --resume and a higher limit goes on")
    lines.append(f"m2l export {command_word(report.run)} BUNDLE makes a bundle of it")
    return "\n".join(lines)
