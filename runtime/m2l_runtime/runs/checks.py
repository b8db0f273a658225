"""Check whether a run may begin: refuse ahead of the work what can be refused."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import printable, stem
from m2l_runtime.conditioning.conditions import Conditions
from m2l_runtime.errors import ArgumentError, InputError, OutputError
from m2l_runtime.masks.mask_folder import SUFFIXES, passed_over_note
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import source_mask
from m2l_runtime.output.formats import FORMATS, IMAGE_FORMATS, format_of_suffix
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers.base import Writer
from m2l_runtime.runs.jsonl import read_lines
from m2l_runtime.runs.log import LOG_FOLDER, LogIndex, Record, RunSettings, log_paths, names_output
from m2l_runtime.synthesizer import Synthesizer

PAIRS: Final = "pairs.csv"
METADATA: Final = "metadata.csv"
TABLES: Final = (PAIRS, METADATA)
"""Tables that a run with pairs writes beside its folders, in :mod:`m2l_runtime.runs.pairs_csv`."""


@dataclass(frozen=True)
class Run:
    """Describe a run: what it reads, and what it writes where."""

    masks: MaskSet
    out: Path
    options: OutputOptions
    shard: tuple[int, int]
    """(number from 1, of how many)."""
    settings: RunSettings

    def groups(self) -> Iterator[tuple[int, list[tuple[int, str]]]]:
        """Yield (group, [(index, name), ...]) of this shard: every N-th group."""
        size, names = self.options.group_size, self.masks.names
        for group in range(self.shard[0] - 1, -(-len(names) // size), self.shard[1]):
            yield group, [(i, names[i]) for i in range(group * size, min((group + 1) * size, len(names)))]


def run_settings(
    synthesizer: Synthesizer, masks: MaskSet, options: OutputOptions, conditions: Conditions
) -> RunSettings:
    """Collect what the bytes of outputs depend on, for the log."""
    used = synthesizer.settings
    # Places of masks in a tar follow from the samples; files of their own are kept when more samples are asked for.
    in_containers = conditions.samples > 1 and options.is_container
    return RunSettings(
        bundle_sha256=synthesizer.bundle.sha256,
        backend=used.backend,
        engine=used.engine,
        device=used.device,
        precision=used.precision,
        batch_size=used.batch_size,
        threads=used.threads,
        seed=masks.seed,
        encoder=options.image_encoding.label,
        layout=options.label + (f", {conditions.samples} samples" if in_containers else ""),
        image_seed=conditions.seed,
        appearance_choice=conditions.label,
    )


_OTHER_ENDINGS: Final = (".bmp", ".gif", ".jp2", ".tif", ".tiff")


def is_file_name(out: Path, masks: MaskSet, options: OutputOptions) -> bool:
    """Tell whether `out` is meant as the name of the one image.

    Raises:
        OutputError: it is a file's name where a folder is needed, or of another format, or the disk takes no such name.
    """
    atomic.check_name(out)
    named = format_of_suffix(out.suffix)
    if named is None and out.suffix.lower() in _OTHER_ENDINGS and masks.is_single_file and not out.is_dir():
        *endings, last = (FORMATS[name].suffixes[0] for name in IMAGE_FORMATS)
        raise OutputError(
            f"{printable(out)} ends as a picture of another format; choose {', '.join(endings)} or {last}, or a folder"
        )
    if named is None or out.is_dir():
        return False
    is_many = not masks.is_single_file or len(masks.names) > 1
    if is_many or options.pairs or options.is_container:
        why = (
            "many masks"
            if not masks.is_single_file
            else "several samples"
            if is_many
            else "--pairs"
            if options.pairs
            else options.format
        )
        raise OutputError(f"{printable(out)} is the name of a file, but {why} needs a folder; leave out the ending")
    if named != options.format:
        raise OutputError(f"{printable(out)} ends as {named} does, but the format is {options.format}; change one")
    return True


def check_masks_and_output(run: Run) -> None:
    """Check that there are masks, and that the output folder is none of theirs.

    Raises:
        InputError: there are no masks.
        OutputError: the output is a file, or lies among the masks.
    """
    base = run.masks.base
    if not run.masks.names:
        endings = ", ".join(sorted(s.removeprefix(".") for s in SUFFIXES))
        where = "there are no masks" if base is None else f"{printable(base)} holds no masks"
        others = passed_over_note(run.masks)
        raise InputError(f"{where}; looked for files ending in {endings}" + (f"; {others}" if others else ""))
    if run.out.exists() and not run.out.is_dir():
        raise OutputError(f"{printable(run.out)} is a file; expected a folder for the images")
    logs = run.out / LOG_FOLDER
    if os.path.lexists(logs) and (logs.is_symlink() or not logs.is_dir()):
        raise OutputError(f"{printable(logs)} is not a plain folder, and logs are written there; move it away")
    if base is None:
        return
    inside = run.out.resolve().is_relative_to(base.resolve())
    if inside and (not run.masks.is_single_file or run.out.resolve() == base.resolve()):
        what = "the folder of the mask" if run.masks.is_single_file else f"inside {printable(base)}"
        raise OutputError(
            f"{printable(run.out)} is {what}: the next run would take images for masks; choose a folder elsewhere"
        )


def check_collisions(run: Run) -> None:
    """Check that no two masks have one image name. Names are sorted by stem, so those would be neighbors.

    Raises:
        InputError: two have.
    """
    if run.options.is_container:
        return
    base = run.masks.base or Path()
    for one, other in itertools.pairwise(run.masks.names):
        if stem(one) == stem(other):
            raise InputError(
                f"{printable(base / source_mask(run.masks, one)[0])} and "
                f"{printable(base / source_mask(run.masks, other)[0])} would both become "
                f"{printable(stem(one) + run.options.image_encoding.suffix)}; rename one or run them apart"
            )


def check_empty(run: Run, writer: Writer) -> None:
    """Check that no log and no image of an earlier run lies where this one would write.

    The log of a run that made nothing is no obstacle: it is replaced.

    Raises:
        OutputError: one does.
        InputError: the log cannot be read.
    """
    advice = "--resume goes on with it, --overwrite begins anew"
    logs = log_paths(run.out, run.shard)
    for log in logs:
        if not (log.is_file() and not names_output(log)):
            raise OutputError(f"{printable(run.out)} holds an earlier run ({log.relative_to(run.out)}); {advice}")
    for table in TABLES if run.options.pairs and not logs and not log_paths(run.out) else ():
        if os.path.lexists(run.out / table):
            raise OutputError(f"{printable(run.out / table)} exists already; {advice}")
    for _, items in run.groups():
        for place, name in items:
            for target in writer.targets(name, place):
                if os.path.lexists(run.out / target):
                    raise OutputError(f"{printable(run.out / target)} exists already; {advice}")


def check_log(run: Run, index: LogIndex) -> None:
    """Check that the run to resume is of this bundle: images of two models are not to be mixed unawares.

    Raises:
        OutputError: it is of another one.
    """
    ours = run.settings.bundle_sha256
    for _, items in run.groups():
        for place, _ in items:
            theirs = index.other_bundle(place, ours)
            if theirs is not None:
                raise OutputError(
                    f"{printable(run.out)} holds a run of another bundle (sha256 {theirs[:12]}..., this one is "
                    f"{ours[:12]}...); resume with that bundle, choose another folder, or --overwrite to begin anew"
                )


def why_remade(run: Run, index: LogIndex) -> str | None:
    """Say why images of the run to resume are made again, as its first image's line in the log tells; None: kept."""
    for _, items in run.groups():
        for place, _ in items:
            record = index.get(place)
            if record is None or record.problem is not None:
                continue
            changed = [
                f"{name.replace('_', ' ')} {printable(str(before))}, now {printable(str(now))}"
                for name in RunSettings.__struct_fields__
                if (before := getattr(record, name)) != (now := getattr(run.settings, name))
            ]
            return (
                f"images made earlier are made again, as they were made with {'; '.join(changed)}" if changed else None
            )
    return None


def check_other_shards(run: Run) -> None:
    """Check that other shards in the folder were given the same layout: files of two would overlap.

    Raises:
        OutputError: one was given another layout.
    """
    if run.shard[1] == 1:
        return
    for path in log_paths(run.out):
        if path in log_paths(run.out, run.shard) or not names_output(path):
            continue
        last = deque(read_lines(path, Record), 1)
        if last and last[0].layout != run.settings.layout:
            raise OutputError(
                f"{printable(run.out)} holds what was made with other options ({path.name}: "
                f"{printable(last[0].layout)}; now {run.settings.layout}); give all shards the same, or choose "
                "another folder"
            )


def remove_previous_run(run: Run) -> None:
    """Remove this run's log and the files it names. A whole run removes those of shards too.

    Nothing is removed before all of it could be read.

    Raises:
        InputError: a log cannot be read.
        OutputError: a file cannot be removed.
    """
    is_whole = run.shard[1] == 1
    logs = [log for log in log_paths(run.out, None if is_whole else run.shard) if os.path.lexists(log)]
    for log in logs:
        if not log.is_symlink():  # it is none of ours, and only the link goes
            deque(read_lines(log, Record), 0)
    for table in TABLES if logs and is_whole else ():  # they name what is removed
        atomic.remove_inside(run.out, table)
    for log in logs:
        if not log.is_symlink():
            for record in read_lines(log, Record):
                for output in record.outputs:
                    atomic.remove_inside(run.out, output)
        atomic.remove_inside(run.out, str(log.relative_to(run.out)))


def check_sheet_name(path: Path) -> None:
    """Check that a contact sheet is a PNG file.

    Raises:
        ArgumentError: its name ends otherwise.
        OutputError: it is a folder's, or the disk takes no such name.
    """
    if path.suffix.lower() != ".png":
        raise ArgumentError(f"the contact sheet is a PNG; {printable(path)} should end in .png")
    atomic.check_name(path)
    if path.is_dir():
        raise OutputError(f"{printable(path)} is a folder; expected a file name for the contact sheet")


def check_single_file(run: Run, target: Path, overwrite: bool) -> Path | None:
    """Check the one image's name, and return the path of the contact sheet if one is asked for.

    Raises:
        OutputError: the image or the sheet would overwrite what is there, or each other.
    """
    source = (run.masks.base or Path()) / run.masks.names[0]
    atomic.check_name(target)
    if os.path.lexists(target):
        if target.resolve() == source.resolve():
            raise OutputError(f"{printable(target)} is the mask itself; choose another output")
        if not overwrite:
            raise OutputError(f"{printable(target)} exists already; choose another name or give --overwrite")
    if run.options.contact_sheet is None:
        return None
    sheet = Path(run.options.contact_sheet)
    check_sheet_name(sheet)
    if sheet.resolve() in (source.resolve(), target.resolve()):
        raise OutputError(f"the contact sheet would overwrite {printable(sheet)}; choose another name")
    return sheet


def check_sheet_path(run: Run, writer: Writer) -> Path | None:
    """Return the path of the contact sheet if one is asked for, once it is sure to hit no mask and no output.

    Raises:
        OutputError: it would.
        ArgumentError: it is no PNG file.
    """
    if run.options.contact_sheet is None:
        return None
    path = Path(run.options.contact_sheet)
    check_sheet_name(path)
    resolved = path.resolve()
    base = None if run.masks.base is None else run.masks.base.resolve()
    if base is not None and not run.masks.is_single_file and resolved.is_relative_to(base):
        raise OutputError(
            f"the contact sheet {printable(path)} is inside {printable(base)}: the next run would take it "
            "for a mask; choose another place"
        )
    out = run.out.resolve()
    in_out = resolved.relative_to(out).as_posix() if resolved.is_relative_to(out) else None
    in_base = resolved.relative_to(base).as_posix() if base is not None and resolved.is_relative_to(base) else None
    for place, name in enumerate(run.masks.names):
        if in_base == source_mask(run.masks, name)[0] or (in_out is not None and in_out in writer.targets(name, place)):
            raise OutputError(f"the contact sheet would overwrite {printable(path)}; choose another name")
    return path
