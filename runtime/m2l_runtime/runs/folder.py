"""A folder of masks to a folder of lesion images that survives kills, and goes on where it stopped."""

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
from m2l_runtime._utils.cpu import check_workers
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.conditioning.conditions import AppearanceChoice, Condition, Conditions, rounded, stack_conditions
from m2l_runtime.errors import InputError, MaskFileError, OutputError
from m2l_runtime.masks.mask_file import MaskFile
from m2l_runtime.masks.mask_folder import mask_set
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import sampled
from m2l_runtime.output.contact_sheet import ContactSheet
from m2l_runtime.output.encoding import encode_image, encode_png, self_description
from m2l_runtime.output.formats import OutputOptions
from m2l_runtime.output.writers import open_sink
from m2l_runtime.output.writers.base import EncodableItem, Sink, Written
from m2l_runtime.runs.checks import (
    Run,
    check_collisions,
    check_empty,
    check_log,
    check_masks_and_output,
    check_other_shards,
    check_sheet_name,
    check_sheet_path,
    is_file_name,
    remove_previous_run,
    run_settings,
    why_remade,
)
from m2l_runtime.runs.jsonl import LineWriter
from m2l_runtime.runs.lock import locked
from m2l_runtime.runs.log import LogIndex, Record, RunSettings, log_path
from m2l_runtime.runs.pairs_csv import write_pairs
from m2l_runtime.runs.pipeline import Clock, Input, Output, Result, at_output_size, condition_of, overlap
from m2l_runtime.runs.resume import PreviousGroup, remove_stale
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Image

_SHEET_LEVEL: Final = 4  # PNG, of drawings
MAX_MESSAGES: Final = 1000
"""Messages about bad masks that a summary keeps; all of them are in the log."""


@dataclass
class Summary:
    """What a run did."""

    image_count: int = 0
    """Images made."""
    kept_count: int = 0
    """Images of an earlier run that were found as they were."""
    bad_count: int = 0
    bad_masks: list[str] = field(default_factory=list)
    """Messages for the first `MAX_MESSAGES` masks that were skipped; each begins with the file's name."""
    empty_count: int = 0
    full_count: int = 0
    inverted_count: int = 0
    """Masks that look inverted: lesion all along the frame, background inside."""
    seconds: float = 0.0
    """From the first file read to the last one written."""
    engine_seconds: float = 0.0
    """Of those, while the engine was at work."""
    was_stopped: bool = False
    """Whether `should_stop` ended the run early; it can be resumed."""
    samples: int = 1
    """Images of each mask."""
    image_seed: int | None = None
    """What images were drawn with; None where the generator takes the mask alone."""
    appearance: str | None = None
    """What was asked of appearances; None where the generator takes none."""

    @property
    def images_per_s(self) -> float:
        """End to end: reading, synthesis, writing."""
        return self.image_count / self.seconds if self.seconds else 0.0

    @property
    def engine_images_per_s(self) -> float:
        """While the engine ran."""
        return self.image_count / self.engine_seconds if self.engine_seconds else 0.0


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
    contact_sheet: str | os.PathLike[str] | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_result: Callable[[Result], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Synthesize a lesion image for every mask in a folder, or for one mask file.

    The output folder gets the images, and a log with a line for each (:mod:`m2l_runtime.runs.log`). Every file
    appears under its final name whole or not at all, so a run may be killed at any moment and resumed.

    Args:
        masks: mask file, folder searched to its depth, or masks that are drawn (:mod:`m2l_runtime.masks.sources`).
        out: folder of the images, made if need be; for a single mask also a name with the format's ending.
        synthesizer: what to synthesize with; left open.
        options: what is written; None: PNG files whose names mirror the masks'.
        shard: (number from 1, of how many): this run's share. Any split gives the same files.
        workers: threads that read masks and encode images; None: as many as CPUs.
        resume: keep what an earlier run made with the same settings of the same masks, and make the rest.
        overwrite: replace what is there already.
        seed: what is left to chance is drawn with it and the mask's name, where the generator takes more than the mask.
        samples: images of each mask; several are named NAME_sample1, NAME_sample2, ..., and the first of them is the
            one that a run without samples makes.
        appearance: what appearances are to be; None: drawn from what the network was trained with.
        contact_sheet: also write a sheet of mask | lesion pairs, of images made now, to this PNG file.
        on_start: called once with the number of images of this shard.
        on_result: called for each mask as it is done, in input order.
        on_note: called with what a person should know before the work begins: that a run that is resumed was made with
            other settings, so that its images are made again.
        should_stop: asked between masks; once it is true, what is in flight is finished and the run ends.

    Raises:
        InputError, OutputError: before any work: no masks, two of one image name, an output that holds images
            already (neither `resume` nor `overwrite`), is inside `masks`, or is in use by another run; a generator that
            takes the mask alone, and samples or an appearance asked for.
        EngineError, OutputError: during it; what is finished stays, and the run can be resumed.
    """
    options = options or OutputOptions()
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"a shard is I/N with I from 1 to N, got {shard[0]}/{shard[1]}")
    check_workers(workers)
    conditions = Conditions(synthesizer.extra, seed, appearance, samples)
    sampled_masks, root = sampled(mask_set(masks), samples), Path(out)
    text = self_description(synthesizer.bundle, synthesizer.settings)
    if is_file_name(root, sampled_masks, options):
        return _one_file(
            sampled_masks, root, synthesizer, options, conditions, text, overwrite, contact_sheet, on_start, on_result
        )
    tag = f"{shard[0]}-of-{shard[1]}-"
    sink = open_sink(root, options, text, tag)
    run = Run(sampled_masks, root, options, shard, run_settings(synthesizer, sampled_masks, options, conditions))
    check_masks_and_output(run)
    check_collisions(run)
    sheet_path = None if contact_sheet is None else check_sheet_path(Path(contact_sheet), run, sink)
    if resume and overwrite:
        raise InputError("a run is either gone on with (--resume) or begun anew (--overwrite); choose one")
    if not resume and not overwrite:
        check_empty(run, sink)
    atomic.make_folder(root)
    if sheet_path is not None:
        atomic.make_folder(sheet_path.parent)
    with locked(root, shard), contextlib.ExitStack() as stack:
        atomic.remove_leftovers(root, "" if shard[1] == 1 else tag)  # a whole run is alone in the folder
        index = stack.enter_context(contextlib.closing(LogIndex(root, sampled_masks.names))) if resume else None
        check_other_shards(run)
        if index is None:
            remove_previous_run(run)
        else:
            check_log(run, index)
            why = why_remade(run, index)
            if why is not None:
                on_note(why)
        log = stack.enter_context(contextlib.closing(LineWriter(log_path(root, shard))))
        stack.callback(sink.abandon)
        summary, sheet, clock = _summary(conditions), _sheet(synthesizer, text), Clock()
        on_start(sum(len(items) for _, items in run.groups()))
        began = time.perf_counter()
        writer = _GroupWriter(run, sink, log)
        outputs = overlap(
            _items(run, sink, index, should_stop, summary),
            synthesizer,
            functools.partial(_read, run, conditions, synthesizer.image_size),
            functools.partial(_encode, sink),
            workers=workers,
            clock=clock,
        )
        for output in stack.enter_context(contextlib.closing(outputs)):
            result = writer.write(output)
            _count(summary, result)
            if result.mask is not None and result.image is not None:
                sheet.add(result.name, result.mask, result.image)
            on_result(result)
            summary.engine_seconds = clock.seconds
        summary.seconds = time.perf_counter() - began
        if resume and not summary.was_stopped:
            remove_stale(run, sink)
        if options.pairs and not summary.was_stopped:
            write_pairs(run, sink, tag)
    if sheet_path is not None and sheet.count:
        atomic.write_file(sheet_path, encode_png(np.asarray(sheet.draw()), text, _SHEET_LEVEL), tag=tag)
    return summary


def _summary(conditions: Conditions) -> Summary:
    return Summary(samples=conditions.samples, image_seed=conditions.seed, appearance=conditions.label)


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


def _one_file(
    masks: MaskSet,
    target: Path,
    synthesizer: Synthesizer,
    options: OutputOptions,
    conditions: Conditions,
    text: dict[str, str],
    overwrite: bool,
    contact_sheet: str | os.PathLike[str] | None,
    on_start: Callable[[int], None],
    on_result: Callable[[Result], None],
) -> Summary:
    """One mask to one image of a given name: no log, no lock."""
    (name,) = masks.names
    source = (masks.base or Path()) / name
    if os.path.lexists(target):
        if target.resolve() == source.resolve():
            raise OutputError(f"{printable(target)} is the mask itself; choose another output")
        if not overwrite:
            raise OutputError(f"{printable(target)} exists already; choose another name or give --overwrite")
    atomic.make_folder(target.parent)
    summary, began = _summary(conditions), time.perf_counter()
    on_start(1)
    try:
        mask_file = masks.read(name, synthesizer.image_size, keep_original=options.original_size)
    except MaskFileError as error:
        result = Result(name, problem=str(error))
    else:
        condition = condition_of(conditions, masks, name)
        image = synthesizer.synthesize_checked(mask_file.mask[None], *stack_conditions([condition]))[0]
        summary.engine_seconds = time.perf_counter() - began
        mask, final = at_output_size(mask_file, image)
        text_fields = text if condition is None else {**text, **condition.text_fields}
        atomic.write_file(target, encode_image(final, mask, options.image_encoding, text_fields))
        result = Result(name, mask_file.mask, image, target.name, mask_file.note)
    _count(summary, result)
    on_result(result)
    summary.seconds = time.perf_counter() - began
    if contact_sheet is not None and result.mask is not None and result.image is not None:
        path = Path(contact_sheet)
        check_sheet_name(path)
        if path.resolve() in (source.resolve(), target.resolve()):
            raise OutputError(f"the contact sheet would overwrite {printable(path)}; choose another name")
        atomic.make_folder(path.parent)
        sheet = _sheet(synthesizer, text)
        sheet.add(result.name, result.mask, result.image)
        atomic.write_file(path, encode_png(np.asarray(sheet.draw()), text, _SHEET_LEVEL))
    return summary


def _sheet(synthesizer: Synthesizer, text: dict[str, str]) -> ContactSheet:
    bundle = synthesizer.bundle
    return ContactSheet(f"{bundle.manifest.name}, bundle {bundle.sha256[:12]}", text["Description"])


@dataclass(frozen=True)
class _Item:
    """A mask to be done."""

    previous: PreviousGroup
    group: int
    index: int
    """Place in the sorted input, from 0."""
    name: str
    is_last: bool
    """Of its group."""


@dataclass(frozen=True)
class _ReadResult:
    """What reading an item came to: a mask, a problem, or a record of an earlier run to keep."""

    item: _Item
    mask_sha256: str | None = None
    problem: str | None = None
    kept: Record | None = None
    condition: Condition | None = None
    """What the image depends on beside the mask; None where the generator takes the mask alone."""


def _items(
    run: Run, sink: Sink, index: LogIndex | None, should_stop: Callable[[], bool], summary: Summary
) -> Iterator[_Item]:
    for group, items in run.groups():
        previous = PreviousGroup(run, sink, index, items)
        for place, name in items:
            if should_stop():
                summary.was_stopped = True
                return
            yield _Item(previous, group, place, name, place == items[-1][0])


def _read(run: Run, conditions: Conditions, image_size: tuple[int, int], item: _Item) -> Input[_ReadResult]:
    record = item.previous.kept().get(item.name)
    if record is not None:
        return Input(_ReadResult(item, kept=record))
    try:
        mask_file = run.masks.read(item.name, image_size, keep_original=run.options.original_size)
    except MaskFileError as error:
        return Input(_ReadResult(item, run.masks.sha256(item.name), problem=str(error)))
    condition = condition_of(conditions, run.masks, item.name)
    return Input(_ReadResult(item, mask_file.sha256, condition=condition), mask_file, condition)


def _encode(sink: Sink, key: _ReadResult, mask_file: MaskFile, image: Image) -> object:
    text_fields = {} if key.condition is None else key.condition.text_fields
    return sink.encode(
        EncodableItem(key.item.index, key.item.name, *at_output_size(mask_file, image), mask_file.sha256, text_fields)
    )


class _GroupWriter:
    """Enters what is done into the sink's groups and, when a group is finished, into the log."""

    def __init__(self, run: Run, sink: Sink, log: LineWriter) -> None:
        self._run, self._sink, self._log = run, sink, log
        self._settings = {f: getattr(run.settings, f) for f in RunSettings.__struct_fields__}
        self._group: int | None = None
        self._added: list[tuple[_ReadResult, str | None]] = []
        self._bad: list[Record] = []

    def write(self, output: Output[_ReadResult, object]) -> Result:
        mask_file, item, mask = output.key, output.key.item, output.mask_file
        if mask_file.kept is not None:
            return _previous_result(item.name, mask_file.kept)
        if self._group != item.group:
            self._group = item.group
            self._sink.begin(item.group)
        if mask is not None:
            self._sink.add(output.encoded)
            self._added.append((mask_file, mask.note))
        else:
            self._bad.append(
                Record(
                    **self._settings, name=utf8(item.name), mask_sha256=mask_file.mask_sha256, problem=mask_file.problem
                )
            )
        if item.is_last:
            self._finish()
        if mask is None:
            return Result(item.name, problem=mask_file.problem)
        return Result(
            name=item.name,
            mask=mask.mask,
            image=output.image,
            output=self._sink.targets(item.name, item.index)[0],
            note=mask.note,
            seed=None if mask_file.condition is None else mask_file.condition.seed,
            appearance=None if mask_file.condition is None else mask_file.condition.appearance,
        )

    def _finish(self) -> None:
        written: list[Written] = self._sink.finish()
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
        self._log.write(records + self._bad)
        self._added, self._bad, self._group = [], [], None


def _appearance(condition: Condition | None) -> tuple[float, ...] | None:
    return None if condition is None or condition.appearance is None else rounded(condition.appearance)


def _previous_result(name: str, record: Record) -> Result:
    if record.problem is not None:
        return Result(name, problem=record.problem)
    return Result(name, output=record.output, note=record.note, is_kept=True)
