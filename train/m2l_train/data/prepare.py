"""Prepare a data folder for training from folders of photographs and masks, with a report."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.plain_file import read_plain
from m2l_runtime._utils.reading import reader_errors
from m2l_runtime._utils.sides import plain_sides
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.errors import ArgumentError, InputError, OutputError
from m2l_runtime.masks.mask_folder import describe_passed_over
from m2l_runtime.runs.jsonl import LineWriter, open_log, read_lines
from m2l_runtime.runs.lock import locked
from m2l_train.data.data_folder import DATASET_FILE
from m2l_train.data.pairing import Pairing, PairPattern, find_pairs
from m2l_train.data.prepare_job import (
    LOG,
    PAIRS,
    REPORT,
    SETTINGS,
    TAG,
    Prepared,
    PrepareJob,
)
from m2l_train.data.prepare_options import DEFAULT_SPLITS, PrepareOptions, PrepareReport, require_path, utf8_names
from m2l_train.data.prepare_tables import fill_report, write_tables
from m2l_train.data.split_folders import find_split_pairs
from m2l_train.data.splits import check_groups, split_pairs

_MAX_SETTINGS_BYTES: Final = 1 << 20


@check_types()
def prepare(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: PrepareOptions | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda _: None,
    on_pair: Callable[[str | None], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PrepareReport:
    """Pair photographs with masks, squash both to one size, split them, and write the data folder.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "masks"):
        ...         (Path(folder) / kind).mkdir()
        ...     for name in "abcd":
        ...         mask = Image.new("L", (64, 64))
        ...         mask.paste(255, (20, 20, 40, 40))
        ...         mask.save(Path(folder) / "masks" / f"{name}.png")
        ...         Image.new("RGB", (64, 64), "tan").save(Path(folder) / "images" / f"{name}.png")
        ...     options = PrepareOptions(size=32, splits={"train": 0.75, "val": 0.25})
        ...     report = prepare(f"{folder}/images", f"{folder}/masks", f"{folder}/data", options, workers=1)
        >>> report.splits
        {'train': 3, 'val': 1}

    The folder gets ``SPLIT/images/NAME.png`` and ``SPLIT/masks/NAME.png`` (greys on the edges, as antialiased bicubic
    resizing leaves them), ``pairs.csv``, ``report.json``, ``dataset.json`` and a log.

    Args:
        images: folder of photographs, searched to its depth.
        masks: folder of masks; may be the same.
        out: data folder.
        options: what to write; None: the options of the earlier call where it is resumed, else the original's size,
            nine tenths for training. Other options than before write everything again and remove what was there.
        workers: threads; None: as many as CPUs.
        resume: keep what an earlier call has made of the same files.
        overwrite: replace what an earlier call has made.
        on_start: called once with the number of pairs.
        on_pair: called for each pair, with the message if it cannot be used.
        on_note: called with what a person should know before the work begins.
        should_stop: asked between pairs; once true, what is in flight is finished and the call ends.

    Raises:
        InputError: a folder is not there, nothing pairs, the split file is not one, none of the pairs can be used.
        OutputError: `out` holds something, lies inside a source, or cannot be written.
    """
    if options is None:
        options = (read_settings(out) if resume else None) or PrepareOptions()
    images, masks = require_path(images, "the folder of photographs"), require_path(masks, "the folder of masks")
    root = require_path(out, "the data folder")
    if resume and overwrite:
        raise ArgumentError("data is either gone on with (--resume) or written again (--overwrite); choose one")
    if workers is not None and (not isinstance(workers, int) or not 1 <= workers <= 1024):
        raise ArgumentError(f"the number of workers must be a whole number between 1 and 1024, got {workers!r}")
    pairing, report, split_of = _find_pairs(images, masks, options)
    _check_out(root, images, masks, resume, overwrite)
    atomic.make_folder(root)
    with locked(root, (1, 1), on_note):
        _check_out(root, images, masks, resume, overwrite)  # again: another call may just have ended
        before = _begin(root, options, resume)
        with contextlib.closing(LineWriter(root / LOG)) as log:  # ahead of all else: by it a folder is known
            job = PrepareJob(root, images, masks, options, split_of, before)
            pairs = [p for p in pairing.pairs if p.name in split_of]
            job.announce(pairs, log)
            prepared = list(job.run(pairs, workers, report, log, on_start, on_pair, should_stop))
        _finish(root, job, prepared, options, report)
    return report


def _find_pairs(images: Path, masks: Path, options: PrepareOptions) -> tuple[Pairing, PrepareReport, dict[str, str]]:
    """Pair the files by name, begin a report of them, and return the split of each pair."""
    pattern = None if options.pair_pattern is None else PairPattern.parse(options.pair_pattern)
    splits = None if options.split_file is not None else find_split_pairs(images, masks, pattern)
    if splits is not None and dict(options.splits) != DEFAULT_SPLITS:
        raise InputError(
            f"{printable(images)} or {printable(masks)} has splits of its own ({', '.join(splits)}), which no other "
            "split may mix; leave out --split to keep them, or give --split-file"
        )
    pairing = _drop_overlap(find_pairs(images, masks, pattern) if splits is None else _joined(splits.values()))
    if not pairing.pairs:
        raise InputError(_nothing_pairs(images, masks, pairing, options.pair_pattern))
    report = PrepareReport(
        pairs=len(pairing.pairs),
        images_without_mask=utf8_names(pairing.images_without_mask),
        masks_without_image=utf8_names(pairing.masks_without_image),
        ambiguous=utf8_names(pairing.ambiguous),
    )
    passed_over = describe_passed_over(pairing.passed_over)
    if passed_over is not None:
        report.warnings.append(passed_over)
    if splits is None:
        return pairing, report, split_pairs(pairing.pairs, options, report)
    report.warnings.append(f"the splits that lie in the folders are kept: {', '.join(splits)}")
    used = {pair.name for pair in pairing.pairs}
    split_of = {pair.name: split for split, one in splits.items() for pair in one.pairs if pair.name in used}
    check_groups(pairing.pairs, split_of, options, report)
    return pairing, report, split_of


def _joined(parts: Iterable[Pairing]) -> Pairing:
    """Return the pairs of several splits as one."""
    found = Pairing([])
    for part in parts:
        found = Pairing(
            found.pairs + part.pairs,
            found.images_without_mask + part.images_without_mask,
            found.masks_without_image + part.masks_without_image,
            found.ambiguous + part.ambiguous,
            found.passed_over + part.passed_over,
        )
    return replace(found, pairs=sorted(found.pairs))


def _begin(root: Path, options: PrepareOptions, resume: bool) -> dict[str, Prepared]:
    """Write the options, and return what an earlier call has made; it is removed unless it is resumed."""
    atomic.remove_leftovers(root, TAG)
    before = _earlier(root) if resume else {}
    if not resume:
        _clear(root)
    _write_settings(root, options)
    return before


def _finish(
    root: Path, job: PrepareJob, prepared: Sequence[Prepared], options: PrepareOptions, report: PrepareReport
) -> None:
    """Remove what no pair of now has, and write the tables and the report."""
    report.prepared = len(prepared)
    if not prepared and not report.was_stopped:
        job.remove_empty_folders()
        raise InputError(f"none of the {report.pairs} pairs can be used; the first: {report.left_out[0]}")
    if not report.was_stopped:
        _remove_stale(root, prepared)
        job.remove_empty_folders()
    fill_report(report, prepared, options)
    write_tables(root, prepared, options, report)


def _drop_overlap(pairing: Pairing) -> Pairing:
    """Leave out pairs whose names would become one: bytes that are not UTF-8 are written as escapes."""
    count = Counter(utf8(pair.name) for pair in pairing.pairs)
    one = [pair.name for pair in pairing.pairs if count[utf8(pair.name)] > 1]
    if not one:
        return pairing
    return replace(
        pairing,
        pairs=[pair for pair in pairing.pairs if count[utf8(pair.name)] == 1],
        ambiguous=sorted([*pairing.ambiguous, *one]),
    )


def _nothing_pairs(images: Path, masks: Path, pairing: Pairing, pattern: str | None) -> str:
    some = ", ".join([*pairing.images_without_mask[:2], *pairing.masks_without_image[:2], *pairing.ambiguous[:2]])
    seen = f"found {printable(some)}, ..." if some else "found no pictures"
    if pattern is None:
        expected = (
            "ISIC_0000000.jpg with ISIC_0000000_segmentation.png, IMD003.bmp with IMD003_lesion.bmp, or equal names "
            "(--pair-pattern tells others)"
        )
    else:
        expected = f"--pair-pattern says, '{printable(pattern)}': NAME is what both share, * stands for anything"
    return f"nothing pairs in {printable(images)} and {printable(masks)}: {seen}; expected names as {expected}"


def _check_out(root: Path, images: Path, masks: Path, resume: bool, overwrite: bool) -> None:
    resolved = root.resolve()
    for source in (images.resolve(), masks.resolve()):
        if resolved.is_relative_to(source) or source.is_relative_to(resolved):
            raise OutputError(f"{printable(root)} and {printable(source)} lie in one another; choose another folder")
    if root.exists() and not root.is_dir():
        raise OutputError(f"{printable(root)} is a file; expected a folder")
    if root.is_dir() and _holds_something(root):
        if not ((root / LOG).is_file() or (root / SETTINGS).is_file()):
            raise OutputError(f"{printable(root)} holds something that is no prepared data; choose another folder")
        if not (resume or overwrite) and _has_made_something(root):
            raise OutputError(f"{printable(root)} holds prepared data; --resume goes on, --overwrite begins anew")


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hold the fields of PrepareOptions, as `SETTINGS` has them."""

    size: int | str
    splits: dict[str, float]
    seed: int
    split_file: str | None
    combined: bool
    pair_pattern: str | None = None
    group_file: str | None = None
    group_column: str | None = None


def read_settings(out: str | os.PathLike[str]) -> PrepareOptions | None:
    """Read the options of the last call that wrote to a data folder; None if there are none.

    Raises:
        InputError: the file that has it is damaged.
    """
    path = require_path(out, "the data folder") / SETTINGS
    if not os.path.lexists(path):
        return None
    with reader_errors(InputError, path, "is damaged", "; --overwrite begins anew"):
        settings = msgspec.json.decode(read_plain(path, _MAX_SETTINGS_BYTES), type=_Settings)
        try:
            return PrepareOptions(**msgspec.structs.asdict(settings))
        except InputError as error:
            raise ValueError(*error.args) from None


def _write_settings(root: Path, options: PrepareOptions) -> None:
    split_file, group_file = (
        None if path is None else os.path.abspath(path)  # noqa: PTH100
        for path in (options.split_file, options.group_file)
    )
    found = _Settings(
        plain_sides(options.sides),
        dict(options.splits),
        options.seed,
        split_file,
        options.combined,
        options.pair_pattern,
        group_file,
        options.group_column,
    )
    content = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    atomic.write_file(root / SETTINGS, content, durable=True, tag=TAG)


def _holds_something(folder: Path) -> bool:
    """Look for anything but locks, temporary files and folders of such, which a call leaves that was killed early."""
    return any(
        _holds_something(entry) if entry.is_dir() and not entry.is_symlink() else not entry.name.startswith(".m2l-")
        for entry in folder.iterdir()
    )


def _has_made_something(root: Path) -> bool:
    """Tell whether a table, or a file that the log names, is there. A call that used no pair leaves none of them."""
    names = [PAIRS, REPORT, DATASET_FILE]
    logged = read_lines(root / LOG, Prepared) if (root / LOG).is_file() else ()
    return any(os.path.lexists(root / name) for name in itertools.chain(names, *(one.outputs for one in logged)))


def _earlier(root: Path) -> dict[str, Prepared]:
    if not (root / LOG).exists():
        return {}
    return {record.name: record for record in read_lines(root / LOG, Prepared) if record.problem is None}


def _clear(root: Path) -> None:
    """Remove what the log says was made, and then what it says."""
    if (root / LOG).exists():
        for record in read_lines(root / LOG, Prepared):
            for output in record.outputs:
                atomic.remove_inside(root, output)
    for name in (PAIRS, REPORT, DATASET_FILE):
        atomic.remove_inside(root, name)
    if (root / LOG).is_file():
        descriptor = open_log(root / LOG)
        try:
            with atomic.output_errors(root / LOG):
                os.truncate(descriptor, 0)  # it stays, so that the folder is still known
        finally:
            os.close(descriptor)


def _remove_stale(root: Path, made: Sequence[Prepared]) -> None:
    """Remove what the log says was made earlier and no pair of now has: other splits, pairs that are gone or bad."""
    held = {output for record in made for output in record.outputs}
    for record in read_lines(root / LOG, Prepared):
        for output in record.outputs:
            if output not in held:
                atomic.remove_inside(root, output)
