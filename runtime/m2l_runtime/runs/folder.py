"""Synthesize a folder of masks into a folder of images, in a run that survives kills and can be resumed."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import check_workers
from m2l_runtime._utils.file_system import name_error
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.conditioning.conditions import AppearanceChoice, Condition, Conditions, rounded
from m2l_runtime.errors import ArgumentError, MaskFileError
from m2l_runtime.masks.mask_file import MaskFile
from m2l_runtime.masks.mask_folder import mask_set, passed_over_note
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import sampled, source_mask
from m2l_runtime.output.contact_sheet import ContactSheet
from m2l_runtime.output.encoding import encode_png, self_description
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers import open_writer
from m2l_runtime.output.writers.base import EncodableItem, RefusedNameError, Writer, Written
from m2l_runtime.output.writers.files import SingleFileWriter
from m2l_runtime.runs.checks import (
    Run,
    check_collisions,
    check_empty,
    check_log,
    check_masks_and_output,
    check_other_shards,
    check_sheet_path,
    check_single_file,
    is_file_name,
    remove_previous_run,
    run_settings,
    why_remade,
)
from m2l_runtime.runs.jsonl import LineWriter
from m2l_runtime.runs.lock import locked
from m2l_runtime.runs.log import LOG_FOLDER, LogIndex, Record, RunSettings, log_path
from m2l_runtime.runs.pairs_csv import write_pairs
from m2l_runtime.runs.pipeline import Clock, Input, Output, Result, at_output_size, condition_of, overlap
from m2l_runtime.runs.resume import PreviousGroup, remove_stale
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Image

_SHEET_LEVEL: Final = 4  # PNG, of drawings
MAX_MESSAGES: Final = 1000
"""Messages about bad masks that a summary keeps; all of them are in the log."""


@check_types()
@dataclass(frozen=True)
class RunCallbacks:
    """Follow a run, and stop it. All are called on the thread that called :func:`synthesize_folder`.

    Example:
        >>> done = []
        >>> callbacks = RunCallbacks(on_result=lambda result: done.append(result.name))
    """

    on_start: Callable[[int], None] = lambda _: None
    """Called once with the number of images of this shard."""
    on_result: Callable[[Result], None] = lambda _: None
    """Called for each mask as it is done, in input order."""
    on_note: Callable[[str], None] = lambda _: None
    """Called with what a person should know before the work begins: that the run to resume was made with other
    settings, so that its images are made again."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked between masks. Once it is true, what is in flight is finished and the run ends."""


@dataclass
class Summary:
    """Report what a run did.

    Example:
        >>> import tempfile
        >>> from m2l_runtime import DrawnMasks, Shapes, Synthesizer
        >>> with tempfile.TemporaryDirectory() as folder, Synthesizer.open(backend="fake") as synth:
        ...     summary = synthesize_folder(DrawnMasks(Shapes(), 2), folder, synth)
        >>> summary.image_count, summary.bad_count, summary.was_stopped
        (2, 0, False)
    """

    image_count: int = 0
    """Images made."""
    kept_count: int = 0
    """Images of an earlier run that were found as they were."""
    bad_count: int = 0
    """Masks that were skipped."""
    bad_masks: list[str] = field(default_factory=list)
    """Messages for the first `MAX_MESSAGES` masks that were skipped; each begins with the file's name."""
    empty_count: int = 0
    """Masks that are all background."""
    full_count: int = 0
    """Masks that are all lesion."""
    inverted_count: int = 0
    """Masks that look inverted: lesion all along the frame, background inside."""
    seconds: float = 0.0
    """Seconds from the first file read to the last one written."""
    engine_seconds: float = 0.0
    """Seconds of those while the engine was at work."""
    was_stopped: bool = False
    """Whether `should_stop` ended the run early; it can be resumed."""
    samples: int = 1
    """Images of each mask."""
    image_seed: int | None = None
    """Seed of the images; None where the generator takes the mask alone."""
    appearance: str | None = None
    """What was asked of appearances; None where the generator takes none."""
    unfinished_count: int = 0
    """Images made of a tar or Parquet file that a stop left unfinished; they are in none, and are made again."""

    @property
    def images_per_s(self) -> float:
        """Images per second from end to end: reading, synthesis, writing."""
        return self.image_count / self.seconds if self.seconds else 0.0

    @property
    def engine_images_per_s(self) -> float:
        """Images per second while the engine ran."""
        return self.image_count / self.engine_seconds if self.engine_seconds else 0.0


@check_types()
def synthesize_folder(
    masks: str | os.PathLike[str] | MaskSet,
    out: str | os.PathLike[str],
    synthesizer: Synthesizer,
    options: OutputOptions | None = None,
    *,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    samples: int = 1,
    appearance: AppearanceChoice | None = None,
    callbacks: RunCallbacks | None = None,
) -> Summary:
    """Synthesize a lesion image for every mask in a folder, or for one mask file.

    The output folder gets the images, and a log with a line for each (:mod:`m2l_runtime.runs.log`). Every file
    appears under its final name whole or not at all, so a run may be killed at any moment and resumed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from m2l_runtime import Synthesizer, open_source
        >>> with tempfile.TemporaryDirectory() as folder, Synthesizer.open(backend="fake") as synth:
        ...     summary = synthesize_folder(open_source("shapes:2"), folder, synth)  # or a folder of masks
        ...     sorted(path.name for path in Path(folder).glob("*.png"))
        ['000000-circle.png', '000001-ellipse.png']

    Args:
        masks: mask file, folder searched to its depth, or masks that are drawn (:mod:`m2l_runtime.masks.sources`).
        out: folder of the images, made if need be; for a single mask also a name with the format's ending.
        synthesizer: what to synthesize with; left open.
        options: what is written; None: PNG files whose names mirror the masks'.
        shard: (number from 1, of how many): this run's share. Any split gives the same files.
        workers: threads that read masks and encode images; None: as many as CPUs.
        resume: keep what an earlier run made with the same settings of the same masks, and make the rest.
        overwrite: replace what is there already.
        seed: seed of what is random, together with the mask's name, where the generator takes more than the mask.
        samples: images of each mask; several are named NAME_sample1, NAME_sample2, ..., and the first of them is the
            one that a run without samples makes.
        appearance: what appearances are to be; None: sampled from what the network was trained with.
        callbacks: what follows the run and stops it.

    Raises:
        InputError, OutputError: before any work: no masks, two of one image name, an output that holds images
            already (neither `resume` nor `overwrite`), is inside `masks`, or is in use by another run; a generator that
            takes the mask alone, and samples or an appearance asked for.
        EngineError, OutputError: during it; what is finished stays, and the run can be resumed.
    """
    options = options or OutputOptions()
    if not 1 <= shard[0] <= shard[1]:
        raise ArgumentError(f"a shard is I/N with I from 1 to N, got {shard[0]}/{shard[1]}")
    check_workers(workers)
    conditions = Conditions(synthesizer.extra, seed, appearance, samples)
    sampled_masks, target = sampled(mask_set(masks), samples), Path(out)
    text = self_description(synthesizer.bundle, synthesizer.settings)
    tag = f"{shard[0]}-of-{shard[1]}-"
    is_file = is_file_name(target, sampled_masks, options)
    root = target.parent if is_file else target
    writer = SingleFileWriter(target, options, text, tag) if is_file else open_writer(root, options, text, tag)
    run = Run(sampled_masks, root, options, shard, run_settings(synthesizer, sampled_masks, options, conditions))
    job = Job(run, writer, synthesizer, conditions, text, tag, workers, callbacks or RunCallbacks())
    return _make_file(job, target, overwrite) if is_file else _make_folder(job, resume, overwrite)


@dataclass(frozen=True)
class Job:
    """Hold all that a run works with."""

    run: Run
    writer: Writer
    synthesizer: Synthesizer
    conditions: Conditions
    text: dict[str, str]
    """What images say about themselves."""
    tag: str
    """Part of temporary names."""
    workers: int | None
    callbacks: RunCallbacks


def _make_file(job: Job, target: Path, overwrite: bool) -> Summary:
    """Make one image of a given name, without log or lock."""
    sheet_path = check_single_file(job.run, target, overwrite)
    atomic.make_folder(target.parent)
    summary, sheet = make_images(job, None, None)
    _write_sheet(job, sheet, sheet_path)
    return summary


def _make_folder(job: Job, resume: bool, overwrite: bool) -> Summary:
    """Make the images of a folder, with a log, while no other run works there."""
    run, writer, root = job.run, job.writer, job.run.out
    check_masks_and_output(run)
    passed_over = passed_over_note(run.masks)
    if passed_over is not None:
        job.callbacks.on_note(passed_over)
    check_collisions(run)
    sheet_path = check_sheet_path(run, writer)
    if resume and overwrite:
        raise ArgumentError("a run is either gone on with (--resume) or begun anew (--overwrite); choose one")
    if not resume and not overwrite:
        check_empty(run, writer)
    atomic.make_folder(root)
    if sheet_path is not None:
        atomic.make_folder(sheet_path.parent)
    with locked(root, run.shard, job.callbacks.on_note), contextlib.ExitStack() as stack:
        atomic.remove_leftovers(root, "" if run.shard[1] == 1 else job.tag)  # a whole run is alone in the folder
        index = stack.enter_context(contextlib.closing(LogIndex(root, run.masks.names))) if resume else None
        check_other_shards(run)
        if index is None:
            remove_previous_run(run)
        else:
            check_log(run, index)
            why = why_remade(run, index)
            if why is not None:
                job.callbacks.on_note(why)
        atomic.make_folder(root / LOG_FOLDER)
        log = stack.enter_context(contextlib.closing(LineWriter(log_path(root, run.shard))))
        stack.callback(writer.abandon)
        summary, sheet = make_images(job, index, log)
        if resume and not summary.was_stopped:
            remove_stale(run, writer)
        if run.options.pairs and not summary.was_stopped:
            write_pairs(run, writer, job.tag)
    _write_sheet(job, sheet, sheet_path)
    return summary


def make_images(job: Job, index: LogIndex | None, log: LineWriter | None) -> tuple[Summary, ContactSheet]:
    """Read, synthesize, encode and write all items of a run; those that `index` shows as done are kept."""
    run, conditions, clock = job.run, job.conditions, Clock()
    summary = Summary(samples=conditions.samples, image_seed=conditions.seed, appearance=conditions.label)
    bundle = job.synthesizer.bundle
    sheet = ContactSheet(f"{bundle.manifest.name}, bundle {bundle.sha256[:12]}", job.text["Description"])
    job.callbacks.on_start(sum(len(items) for _, items in run.groups()))
    began = time.perf_counter()
    group_writer = _GroupWriter(run, job.writer, log)
    outputs = overlap(
        _items(run, job.writer, index, job.callbacks.should_stop, summary),
        job.synthesizer,
        functools.partial(_read, run, conditions, job.synthesizer.image_size, _targets_by_name(job)),
        functools.partial(_encode, job.writer),
        workers=job.workers,
        clock=clock,
    )
    with contextlib.closing(outputs):
        for output in outputs:
            result = group_writer.write(output)
            _count(summary, result)
            if result.mask is not None and result.image is not None:
                sheet.add(result.name, result.mask, result.image)
            job.callbacks.on_result(result)
    summary.unfinished_count = group_writer.unfinished_count
    summary.engine_seconds = clock.seconds
    summary.seconds = time.perf_counter() - began
    return summary, sheet


def _write_sheet(job: Job, sheet: ContactSheet, path: Path | None) -> None:
    if path is not None and sheet.count:
        atomic.make_folder(path.parent)
        atomic.write_file(path, encode_png(np.asarray(sheet.draw()), job.text, _SHEET_LEVEL), tag=job.tag)


def _count(summary: Summary, result: Result) -> None:
    if result.problem is not None:
        summary.bad_count += 1
        if len(summary.bad_masks) < MAX_MESSAGES:
            summary.bad_masks.append(result.problem)
    elif result.is_kept:
        summary.kept_count += 1
    else:
        summary.image_count += 1
    summary.empty_count += result.note == "empty"
    summary.full_count += result.note == "full"
    summary.inverted_count += result.note == "inverted?"


@dataclass(frozen=True)
class _Item:
    """Describe a mask to be done."""

    previous: PreviousGroup
    group: int
    index: int
    """Place in the sorted input, from 0."""
    name: str
    is_last: bool
    """Whether it is the last of its group."""


@dataclass(frozen=True)
class _ReadResult:
    """Hold what reading an item came to: a mask, a problem, or a record of an earlier run to keep."""

    item: _Item
    mask_sha256: str | None = None
    problem: str | None = None
    kept: Record | None = None
    condition: Condition | None = None
    """What the image depends on beside the mask; None where the generator takes the mask alone."""


def _items(
    run: Run, writer: Writer, index: LogIndex | None, should_stop: Callable[[], bool], summary: Summary
) -> Iterator[_Item]:
    for group, items in run.groups():
        previous = PreviousGroup(run, writer, index, items)
        for place, name in items:
            if should_stop():
                summary.was_stopped = True
                return
            yield _Item(previous, group, place, name, place == items[-1][0])


def _targets_by_name(job: Job) -> Callable[[_Item], list[str]]:
    """Return what finds the files whose names come from a mask's; none do where files hold many."""
    if job.run.options.is_container:
        return lambda _: []
    return lambda item: job.writer.targets(item.name, item.index)


def _read(
    run: Run,
    conditions: Conditions,
    image_size: tuple[int, int],
    targets: Callable[[_Item], list[str]],
    item: _Item,
) -> Input[_ReadResult]:
    record = item.previous.kept().get(item.name)
    if record is not None:
        return Input(_ReadResult(item, kept=record))
    for target in targets(item):
        refused = name_error(run.out / target)
        if refused is not None:
            problem = _about(run, item.name, RefusedNameError.of(target, refused))
            return Input(_ReadResult(item, run.masks.sha256(item.name), problem=problem))
    try:
        mask_file = run.masks.read(item.name, image_size, keep_original=run.options.original_size)
    except MaskFileError as error:
        return Input(_ReadResult(item, run.masks.sha256(item.name), problem=str(error)))
    condition = condition_of(conditions, run.masks, item.name)
    return Input(_ReadResult(item, mask_file.sha256, condition=condition), mask_file, condition)


def _about(run: Run, name: str, error: RefusedNameError) -> str:
    """Write the problem of a mask whose image cannot have its name."""
    return f"{printable((run.masks.base or Path()) / source_mask(run.masks, name)[0])}: {error}"


def _encode(writer: Writer, key: _ReadResult, mask_file: MaskFile, image: Image) -> object:
    """Encode and, where each image is a file of its own, write it; or return why the disk takes no such name."""
    text_fields = {} if key.condition is None else key.condition.text_fields
    item = EncodableItem(
        key.item.index, key.item.name, *at_output_size(mask_file, image), mask_file.sha256, text_fields
    )
    try:
        return writer.encode(item)
    except RefusedNameError as error:
        return error


class _GroupWriter:
    """Enter what is done into the writer's groups and, when a group is finished, into the log if there is one."""

    def __init__(self, run: Run, writer: Writer, log: LineWriter | None) -> None:
        self._run, self._writer, self._log = run, writer, log
        self._settings = {f: getattr(run.settings, f) for f in RunSettings.__struct_fields__}
        self._group: int | None = None
        self._added: list[tuple[_ReadResult, str | None]] = []
        self._bad: list[Record] = []

    @property
    def unfinished_count(self) -> int:
        """Images of a group that is not finished."""
        return len(self._added)

    def write(self, output: Output[_ReadResult, object]) -> Result:
        read, item, mask_file = output.key, output.key.item, output.mask_file
        if read.kept is not None:
            return _previous_result(item.name, read.kept)
        if self._group != item.group:
            self._group = item.group
            self._writer.begin(item.group)
        problem = read.problem
        if isinstance(output.encoded, RefusedNameError):
            problem = _about(self._run, item.name, output.encoded)
        if problem is None and mask_file is not None:
            self._writer.add(output.encoded)
            self._added.append((read, mask_file.note))
        else:
            self._bad.append(
                Record(**self._settings, name=utf8(item.name), mask_sha256=read.mask_sha256, problem=problem)
            )
        if item.is_last:
            self._finish()
        if problem is not None or mask_file is None:
            return Result(item.name, problem=problem)
        return Result(
            name=item.name,
            mask=mask_file.mask,
            image=output.image,
            output=self._writer.targets(item.name, item.index)[0],
            note=mask_file.note,
            seed=None if read.condition is None else read.condition.seed,
            appearance=None if read.condition is None else read.condition.appearance,
        )

    def _finish(self) -> None:
        written: list[Written] = self._writer.finish()
        records = [
            Record(
                **self._settings,
                name=utf8(read.item.name),
                mask_sha256=read.mask_sha256,
                output=utf8(one.output),
                output_sha256=one.output_sha256,
                mask_output=None if one.mask_output is None else utf8(one.mask_output),
                mask_output_sha256=one.mask_output_sha256,
                note=note,
                appearance=_appearance(read.condition),
            )
            for (read, note), one in zip(self._added, written, strict=True)
        ]
        if self._log is not None:
            self._log.write(records + self._bad)
        self._added, self._bad, self._group = [], [], None


def _appearance(condition: Condition | None) -> tuple[float, ...] | None:
    return None if condition is None or condition.appearance is None else rounded(condition.appearance)


def _previous_result(name: str, record: Record) -> Result:
    if record.problem is not None:
        return Result(name, problem=record.problem)
    return Result(name, output=record.output, note=record.note, is_kept=True)
