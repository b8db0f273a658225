"""A folder of masks to a folder of lesion images: read, synthesize and write at once, and go on where it stopped.

Threads: a pool reads masks and encodes images; the calling thread runs the engine, which brings its own threads.
Queues between them are bounded, so memory does not grow with the number of masks. Results come in input order.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime import atomic
from m2l_runtime.arrays import Image, Mask
from m2l_runtime.contactsheet import ContactSheet
from m2l_runtime.cpu import usable_cpus
from m2l_runtime.encoders import encode_image, encode_png, self_description
from m2l_runtime.errors import InputError, MaskFileError, OutputError
from m2l_runtime.lock import locked
from m2l_runtime.maskfile import MaskFile, read_mask
from m2l_runtime.maskfolder import MaskFolder, find_masks
from m2l_runtime.pairs import write_pairs
from m2l_runtime.run import (
    Run,
    check_collisions,
    check_nothing_there,
    check_places,
    check_sheet_name,
    check_sheet_path,
    forget,
    is_file_name,
    run_settings,
)
from m2l_runtime.runlog import LogIndex, LogWriter, Record, RunSettings, log_path
from m2l_runtime.sinks import Finished, OutputOptions, Sink, Written, open_sink
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.terminal import printable, utf8

MOST_MESSAGES: Final = 1000
"""Messages about bad masks that a summary keeps; all of them are in the log."""


@dataclass(frozen=True)
class Result:
    """What became of a mask: an image, one kept from an earlier run, or the reason why there is none."""

    name: str
    """Of the mask file, relative to its folder."""
    mask: Mask | None = None
    """uint8 (H, W) at the model's size, owned by the caller; None if kept or bad."""
    image: Image | None = None
    """uint8 (H, W, 3) at the model's size, owned by the caller; None if kept or bad."""
    output: str | None = None
    """The file that holds the image, relative to the output folder."""
    note: str | None = None
    """'empty' or 'full' where the mask is legal but unusual."""
    problem: str | None = None
    """Why the mask was skipped; begins with the file's name."""
    is_kept: bool = False
    """Whether an earlier run made the image, and it was found as it was."""


@dataclass
class Summary:
    """What a run did."""

    image_count: int = 0
    """Images made."""
    kept_count: int = 0
    """Images of an earlier run that were found as they were."""
    bad_count: int = 0
    bad_masks: list[str] = field(default_factory=list)
    """Messages for the first `MOST_MESSAGES` masks that were skipped; each begins with the file's name."""
    empty_count: int = 0
    full_count: int = 0
    seconds: float = 0.0
    """From the first file read to the last one written."""
    engine_seconds: float = 0.0
    """Of those, in the engine."""
    was_stopped: bool = False
    """Whether `should_stop` ended the run early; it can be resumed."""

    @property
    def images_per_s(self) -> float:
        """End to end: reading, synthesis, writing."""
        return self.image_count / self.seconds if self.seconds else 0.0

    @property
    def engine_images_per_s(self) -> float:
        """While the engine ran."""
        return self.image_count / self.engine_seconds if self.engine_seconds else 0.0


def synthesize_folder(
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    synthesizer: Synthesizer,
    options: OutputOptions | None = None,
    *,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    contact_sheet: str | os.PathLike[str] | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_result: Callable[[Result], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Synthesize a lesion image for every mask in a folder, or for one mask file.

    The output folder gets the images, and a log with a line for each (:mod:`m2l_runtime.runlog`). Every file
    appears under its final name whole or not at all, so a run may be killed at any moment and resumed.

    Args:
        masks: mask file, or folder searched to its depth.
        out: folder of the images, made if need be; for a single mask also a name with the format's ending.
        synthesizer: what to synthesize with; left open.
        options: what is written; None: PNG files whose names mirror the masks'.
        shard: (number from 1, of how many): this run's share. Any split gives the same files.
        workers: threads that read masks and encode images; None: as many as CPUs.
        resume: keep what an earlier run made with the same settings of the same masks, and make the rest.
        overwrite: replace what is there already.
        contact_sheet: also write a sheet of mask | lesion pairs, of images made now, to this PNG file.
        on_start: called once with the number of masks of this shard.
        on_result: called for each mask as it is done, in input order.
        should_stop: asked between masks; once it is true, what is in flight is finished and the run ends.

    Raises:
        InputError, OutputError: before any work: no masks, two of one image name, an output that holds images
            already (neither `resume` nor `overwrite`), is inside `masks`, or is in use by another run.
        EngineError, OutputError: during it; what is finished stays, and the run can be resumed.
    """
    options = options or OutputOptions()
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"a shard is I/N with I from 1 to N, got {shard[0]}/{shard[1]}")
    if workers is not None and not 1 <= workers <= 1024:
        raise InputError(f"the number of workers must be between 1 and 1024, got {workers}")
    found, root = find_masks(masks), Path(out)
    text = self_description(synthesizer.bundle, synthesizer.settings)
    if is_file_name(root, found, options):
        return _one_file(found, root, synthesizer, options, text, overwrite, contact_sheet, on_start, on_result)
    sink = open_sink(root, options, text, f"{shard[0]}-of-{shard[1]}-")
    run = Run(found, root, options, shard, run_settings(synthesizer, options))
    check_places(Path(masks), run)
    check_collisions(run)
    sheet_path = None if contact_sheet is None else check_sheet_path(Path(contact_sheet), run, sink)
    if not resume and not overwrite:
        check_nothing_there(run, sink)
    atomic.make_folder(root)
    if sheet_path is not None:
        atomic.make_folder(sheet_path.parent)
    with locked(root, shard):
        atomic.sweep_files(root, f"{shard[0]}-of-{shard[1]}-")
        if not resume:
            forget(run)
        index = LogIndex(root) if resume else None
        log = LogWriter(log_path(root, shard))
        summary, sheet = Summary(), _sheet(synthesizer, text)
        on_start(sum(len(items) for _, items in run.groups()))
        began = time.perf_counter()
        try:
            for result in _results(run, synthesizer, sink, log, index, workers, should_stop, summary):
                _count(summary, result)
                if result.mask is not None and result.image is not None:
                    sheet.add(result.name, result.mask, result.image)
                on_result(result)
        finally:
            sink.abandon()
            log.close()
            if index is not None:
                index.close()
        summary.seconds = time.perf_counter() - began
        if options.pairs and not summary.was_stopped:
            write_pairs(run, sink)
    if sheet_path is not None and sheet.count:
        atomic.write_file(sheet_path, encode_png(np.asarray(sheet.draw()), text))
    return summary


def _count(summary: Summary, result: Result) -> None:
    if result.problem is not None:
        summary.bad_count += 1
        if len(summary.bad_masks) < MOST_MESSAGES:
            summary.bad_masks.append(result.problem)
    elif result.is_kept:
        summary.kept_count += 1
    else:
        summary.image_count += 1
    summary.empty_count += result.note == "empty"
    summary.full_count += result.note == "full"


def _one_file(
    masks: MaskFolder,
    target: Path,
    synthesizer: Synthesizer,
    options: OutputOptions,
    text: dict[str, str],
    overwrite: bool,
    contact_sheet: str | os.PathLike[str] | None,
    on_start: Callable[[int], None],
    on_result: Callable[[Result], None],
) -> Summary:
    """One mask to one image of a given name: no log, no lock."""
    (source,) = masks.paths
    if os.path.lexists(target):
        if target.resolve() == source.resolve():
            raise OutputError(f"{printable(target)} is the mask itself; choose another output")
        if not overwrite:
            raise OutputError(f"{printable(target)} exists already; choose another name or give --overwrite")
    atomic.make_folder(target.parent)
    summary, began = Summary(), time.perf_counter()
    on_start(1)
    try:
        found = read_mask(source, synthesizer.image_size, keep_original=options.original_size)
    except MaskFileError as error:
        result = Result(source.name, problem=str(error))
    else:
        image = synthesizer.synthesize_checked(found.mask[None])[0]
        summary.engine_seconds = time.perf_counter() - began
        mask, final = found.mask, image
        if found.original is not None:
            mask, final = found.original, _resize(image, found.original_size)
        atomic.write_file(target, encode_image(final, mask, options.image_encoding, text))
        result = Result(source.name, found.mask, image, target.name, found.note)
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
        atomic.write_file(path, encode_png(np.asarray(sheet.draw()), text))
    return summary


def _sheet(synthesizer: Synthesizer, text: dict[str, str]) -> ContactSheet:
    bundle = synthesizer.bundle
    return ContactSheet(f"{bundle.manifest.name}, bundle {bundle.sha256[:12]}", text["Description"])


class _Group:
    """Whether an earlier run's files of a group are as they should be; found out once, by whoever asks first."""

    def __init__(self, run: Run, sink: Sink, index: LogIndex | None, items: list[tuple[int, str]]) -> None:
        self._run, self._sink, self._index, self._items = run, sink, index, items
        self._lock = threading.Lock()
        self._kept: dict[str, Record] | None = None

    def kept(self) -> dict[str, Record]:
        """Records of the whole group by name; empty if any of it must be made again."""
        with self._lock:
            if self._kept is None:
                self._kept = {} if self._index is None else self._find(self._index)
            return self._kept

    def _find(self, index: LogIndex) -> dict[str, Record]:
        records: dict[str, Record] = {}
        hashes: dict[str, str] = {}
        for place, name in self._items:
            record = index.get(utf8(name))
            if record is None:
                return {}
            if record.problem is not None and len(self._items) > 1:
                records[name] = record  # a bad mask in a tar: fine if it is still the same file
            elif not record.was_made_with(self._run.settings):
                return {}
            if record.mask_sha256 != _sha256(self._run.masks.path(name)):
                return {}
            if record.problem is None:
                for target, expected in zip(self._sink.targets(name, place), record.sha256s, strict=False):
                    if target not in hashes:
                        hashes[target] = _sha256(self._run.out / target) or ""
                    if hashes[target] != expected:
                        return {}
            records[name] = record
        return records


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@dataclass(frozen=True)
class _Read:
    """A mask on its way: read, bad, or kept."""

    group: int
    is_last: bool
    index: int
    name: str
    found: MaskFile | None = None
    problem: str | None = None
    mask_sha256: str | None = None
    kept: Record | None = None


@dataclass(frozen=True)
class _Write:
    read: _Read
    image: Image | None = None
    encoded: Future[object] | None = None


def _results(
    run: Run,
    synthesizer: Synthesizer,
    sink: Sink,
    log: LogWriter,
    index: LogIndex | None,
    workers: int | None,
    should_stop: Callable[[], bool],
    summary: Summary,
) -> Iterator[Result]:
    """Results in input order. The engine runs on this thread, everything else on a pool."""
    count, batch_size = workers or usable_cpus(), synthesizer.settings.batch_size
    pool = ThreadPoolExecutor(count, "m2l")
    try:
        writes: deque[_Write] = deque()
        waiting: list[_Read] = []
        book = _Book(run, sink, log)
        for read in _ahead(_reads(run, synthesizer, sink, index, should_stop, summary), pool, 2 * count + batch_size):
            waiting.append(read)
            if sum(r.found is not None for r in waiting) == batch_size or len(waiting) >= 64 * batch_size:
                writes.extend(_make(waiting, synthesizer, sink, run.options, pool, summary))
                waiting = []
            while len(writes) > 2 * count + batch_size or (writes and _is_ready(writes[0])):
                yield book.enter(writes.popleft())
        writes.extend(_make(waiting, synthesizer, sink, run.options, pool, summary))
        while writes:
            yield book.enter(writes.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _is_ready(write: _Write) -> bool:
    return write.encoded is None or write.encoded.done()


def _ahead(tasks: Iterable[Callable[[], _Read]], pool: ThreadPoolExecutor, most: int) -> Iterator[_Read]:
    """Results of tasks in their order, at most `most` of them under way."""
    pending: deque[Future[_Read]] = deque()
    for task in tasks:
        pending.append(pool.submit(task))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _reads(
    run: Run,
    synthesizer: Synthesizer,
    sink: Sink,
    index: LogIndex | None,
    should_stop: Callable[[], bool],
    summary: Summary,
) -> Iterator[Callable[[], _Read]]:
    for number, items in run.groups():
        group = _Group(run, sink, index, items)
        for place, name in items:
            if should_stop():
                summary.was_stopped = True
                return
            yield functools.partial(
                _read, run, synthesizer.image_size, group, _Read(number, place == items[-1][0], place, name)
            )


def _read(run: Run, image_size: tuple[int, int], group: _Group, read: _Read) -> _Read:
    record = group.kept().get(read.name)
    if record is not None:
        return replace(read, kept=record)
    path = run.masks.path(read.name)
    try:
        found = read_mask(path, image_size, keep_original=run.options.original_size)
    except MaskFileError as error:
        return replace(read, problem=str(error), mask_sha256=_sha256(path) if path.is_file() else None)
    return replace(read, found=found, mask_sha256=found.sha256)


def _make(
    reads: list[_Read],
    synthesizer: Synthesizer,
    sink: Sink,
    options: OutputOptions,
    pool: ThreadPoolExecutor,
    summary: Summary,
) -> list[_Write]:
    """Run the engine on what was read, and hand the images to the pool."""
    masks = [read.found.mask for read in reads if read.found is not None]
    began = time.perf_counter()
    images: Iterator[Image] = iter(synthesizer.synthesize_checked(np.stack(masks)) if masks else ())
    summary.engine_seconds += time.perf_counter() - began
    writes = []
    for read in reads:
        if read.found is None:
            writes.append(_Write(read))
            continue
        image = next(images)
        writes.append(_Write(read, image, pool.submit(_encode, sink, options, read, read.found, image)))
    return writes


def _encode(sink: Sink, options: OutputOptions, read: _Read, found: MaskFile, image: Image) -> object:
    mask = found.mask
    if options.original_size and found.original is not None:
        mask, image = found.original, _resize(image, found.original_size)
    return sink.encode(Finished(read.index, read.name, mask, image, found.sha256))


def _resize(image: Image, size: tuple[int, int]) -> Image:
    """Undo the squash: `image` at (height, width), bicubic with antialiasing."""
    height, width = size
    return np.asarray(PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BICUBIC))


class _Book:
    """Enters what is done into the sink's groups and, when a group is finished, into the log."""

    def __init__(self, run: Run, sink: Sink, log: LogWriter) -> None:
        self._run, self._sink, self._log = run, sink, log
        self._settings = {f: getattr(run.settings, f) for f in RunSettings.__struct_fields__}
        self._group: int | None = None
        self._added: list[_Read] = []
        self._bad: list[Record] = []

    def enter(self, write: _Write) -> Result:
        read = write.read
        if read.kept is not None:
            return self._kept_result(read.name, read.kept)
        if self._group != read.group:
            self._group = read.group
            self._sink.begin(read.group)
        if write.encoded is not None:
            self._sink.add(write.encoded.result())
            self._added.append(read)
        else:
            self._bad.append(
                Record(**self._settings, name=utf8(read.name), mask_sha256=read.mask_sha256, problem=read.problem)
            )
        if read.is_last:
            self._finish()
        found = read.found
        output = self._sink.targets(read.name, read.index)[0]
        return Result(
            name=read.name,
            mask=None if found is None else found.mask,
            image=write.image,
            output=None if found is None else output,
            note=None if found is None else found.note,
            problem=read.problem,
        )

    def _finish(self) -> None:
        written: list[Written] = self._sink.finish()
        records = [
            Record(
                **self._settings,
                name=utf8(read.name),
                mask_sha256=read.mask_sha256,
                output=utf8(one.output),
                output_sha256=one.output_sha256,
                mask_output=None if one.mask_output is None else utf8(one.mask_output),
                mask_output_sha256=one.mask_output_sha256,
                note=None if read.found is None else read.found.note,
            )
            for read, one in zip(self._added, written, strict=True)
        ]
        self._log.write(records + self._bad)
        self._added, self._bad, self._group = [], [], None

    @staticmethod
    def _kept_result(name: str, record: Record) -> Result:
        if record.problem is not None:
            return Result(name=name, problem=record.problem)
        return Result(name=name, output=record.output, note=record.note, is_kept=True)
