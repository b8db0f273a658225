"""Folders of photographs and masks, as challenges ship them, to a data folder for training, with a report."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils import atomic
from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime._version import __version__
from m2l_runtime.errors import InputError, OutputError
from m2l_runtime.runs.jsonl import LineWriter, read_lines
from m2l_runtime.runs.lock import locked
from m2l_train.data.data_folder import DATASET_FILE, IMAGES, MASKS, TRAIN
from m2l_train.data.near_duplicates import Descriptor, descriptor, near_duplicates
from m2l_train.data.pairing import Pair, Pairing, find_pairs
from m2l_train.data.photograph import DecodedPair, PairError, read_pair
from m2l_train.data.prepare_options import COMBINED, MAX_NAMED, PrepareOptions, PrepareReport, require_path, utf8_names
from m2l_train.data.splits import split_pairs

LOG: Final = "prepare-log.jsonl"

PAIRS: Final = "pairs.csv"

REPORT: Final = "report.json"

SETTINGS: Final = "prepare-settings.json"
"""What the last call was told, for the next one to go on with."""

TAG: Final = "prepare-"

ENLARGED_NOTE: Final = "smaller than --size, enlarged"

NOT_MADE_YET: Final = "was going to be made"
"""Problem of a record that is written ahead of its files."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log: a pair, and what was made of it, or is going to be."""

    name: str
    split: str
    size: int
    image: str
    """Source, relative to its folder; bytes that are not UTF-8 escaped."""
    mask: str
    image_sha256: str | None
    """Of the source."""
    mask_sha256: str | None
    outputs: dict[str, str]
    """SHA-256 by path relative to the data folder; empty before they are made."""
    original_size: tuple[int, int] | None = None
    """Height, width."""
    lesion_fraction: float | None = None
    notes: tuple[str, ...] = ()
    descriptor: bytes = b""
    problem: str | None = None


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
    should_stop: Callable[[], bool] = lambda: False,
) -> PrepareReport:
    """Pair photographs with masks, squash both to one size, split them, and write the data folder.

    The folder gets ``SPLIT/images/NAME.png`` and ``SPLIT/masks/NAME.png`` (greys on the edges, as antialiased bicubic
    resizing leaves them), ``pairs.csv``, ``report.json``, ``dataset.json`` and a log.

    Args:
        images: folder of photographs, searched to its depth.
        masks: folder of masks; may be the same.
        out: data folder.
        options: what is made; None: what the call before was told where it is gone on with, else the original's size,
            nine tenths for training. Other options than before make everything anew and remove what was there.
        workers: threads; None: as many as CPUs.
        resume: keep what an earlier call has made of the same files.
        overwrite: replace what an earlier call has made.
        on_start: called once with the number of pairs.
        on_pair: called for each pair, with the message if it cannot be used.
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
        raise InputError("data is either gone on with (--resume) or made anew (--overwrite); choose one")
    if workers is not None and (not isinstance(workers, int) or not 1 <= workers <= 1024):
        raise InputError(f"the number of workers must be a whole number between 1 and 1024, got {workers!r}")
    pairing = _drop_overlap(find_pairs(images, masks))
    if not pairing.pairs:
        raise InputError(_nothing_pairs(Path(images), Path(masks), pairing))
    report = PrepareReport(
        pairs=len(pairing.pairs),
        images_without_mask=utf8_names(pairing.images_without_mask),
        masks_without_image=utf8_names(pairing.masks_without_image),
        ambiguous=utf8_names(pairing.ambiguous),
    )
    split_of = split_pairs(pairing.pairs, options, report)
    _check_out(root, Path(images), Path(masks), resume, overwrite)
    atomic.make_folder(root)
    with locked(root, (1, 1)):
        _check_out(root, Path(images), Path(masks), resume, overwrite)  # again: another call may just have ended
        atomic.remove_leftovers(root, TAG)
        before = _earlier(root) if resume else {}
        if not resume:
            _clear(root)
        _write_settings(root, options)
        with contextlib.closing(LineWriter(root / LOG)) as log:  # ahead of all else: by it a folder is known
            job = _Job(root, Path(images), Path(masks), options, split_of, before)
            pairs = [p for p in pairing.pairs if p.name in split_of]
            job.announce(pairs, log)
            prepared = list(job.run(pairs, workers, report, log, on_start, on_pair, should_stop))
        report.prepared = len(prepared)
        if not prepared and not report.was_stopped:
            job.remove_empty_folders()
            raise InputError(f"none of the {len(pairing.pairs)} pairs can be used; the first: {report.left_out[0]}")
        if not report.was_stopped:
            _remove_stale(root, prepared)
            job.remove_empty_folders()
        _tell(report, prepared, options)
        _write_tables(root, prepared, options, report)
    return report


def _drop_overlap(pairing: Pairing) -> Pairing:
    """Without pairs whose names would become one: bytes that are not UTF-8 are written as escapes."""
    count = Counter(utf8(pair.name) for pair in pairing.pairs)
    one = [pair.name for pair in pairing.pairs if count[utf8(pair.name)] > 1]
    if not one:
        return pairing
    return replace(
        pairing,
        pairs=[pair for pair in pairing.pairs if count[utf8(pair.name)] == 1],
        ambiguous=sorted([*pairing.ambiguous, *one]),
    )


def _nothing_pairs(images: Path, masks: Path, pairing: Pairing) -> str:
    some = ", ".join([*pairing.images_without_mask[:2], *pairing.masks_without_image[:2], *pairing.ambiguous[:2]])
    seen = f"found {printable(some)}, ..." if some else "found no pictures"
    return (
        f"nothing pairs in {printable(images)} and {printable(masks)}: {seen}; expected names as ISIC_0000000.jpg with "
        "ISIC_0000000_segmentation.png, IMD003.bmp with IMD003_lesion.bmp, or equal names"
    )


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
        if not (resume or overwrite):
            raise OutputError(f"{printable(root)} holds prepared data; --resume goes on, --overwrite begins anew")


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document of `SETTINGS`: the fields of PrepareOptions."""

    size: int
    splits: dict[str, float]
    seed: int
    split_file: str | None
    combined: bool


def read_settings(out: str | os.PathLike[str]) -> PrepareOptions | None:
    """What the last call was told that wrote to a data folder; None if there is no word of it.

    Raises:
        InputError: the file that has it is damaged.
    """
    path = require_path(out, "the data folder") / SETTINGS
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=_Settings)
        return PrepareOptions(settings.size, settings.splits, settings.seed, settings.split_file, settings.combined)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, InputError) as error:
        raise InputError(f"{printable(path)} is damaged: {error}; --overwrite begins anew") from None


def _write_settings(root: Path, options: PrepareOptions) -> None:
    split_file = None if options.split_file is None else os.path.abspath(options.split_file)  # noqa: PTH100
    found = _Settings(options.size, dict(options.splits), options.seed, split_file, options.combined)
    content = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    atomic.write_file(root / SETTINGS, content, durable=True, tag=TAG)


def _holds_something(folder: Path) -> bool:
    """Anything but locks, temporary files, and folders of nothing else: what a call leaves that was killed early."""
    return any(
        _holds_something(entry) if entry.is_dir() and not entry.is_symlink() else not entry.name.startswith(".m2l-")
        for entry in folder.iterdir()
    )


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
        with atomic.output_errors(root / name):
            (root / name).unlink(missing_ok=True)
    if (root / LOG).is_file():
        with atomic.output_errors(root / LOG):
            os.truncate(root / LOG, 0)  # it stays, so that the folder is still known


def _remove_stale(root: Path, made: Sequence[Prepared]) -> None:
    """Remove what the log says was made earlier and no pair of now has: other splits, pairs that are gone or bad."""
    held = {output for record in made for output in record.outputs}
    for record in read_lines(root / LOG, Prepared):
        for output in record.outputs:
            if output not in held:
                atomic.remove_inside(root, output)


class _Job:
    """The pairs of one call on their way to the data folder."""

    def __init__(
        self,
        root: Path,
        images: Path,
        masks: Path,
        options: PrepareOptions,
        split_of: Mapping[str, str],
        before: Mapping[str, Prepared],
    ) -> None:
        self._root, self._images, self._masks = root, images, masks
        self._options, self._split_of, self._before = options, split_of, before
        for split in sorted(set(split_of.values())):
            for folder in (root / split / IMAGES, root / split / MASKS):
                atomic.make_folder(folder)
            if options.combined:
                atomic.make_folder(root / COMBINED / split)

    def remove_empty_folders(self) -> None:
        """Undo the making of folders that got no file."""
        for folder in sorted(self._root.rglob("*"), reverse=True):
            if folder.is_dir():
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def announce(self, pairs: Sequence[Pair], log: LineWriter) -> None:
        """Log every file that is going to be written and is not in the log: by it a call after a kill removes them.

        Without it, a file that was written but whose record was not would stay in its split when the next call puts
        the pair into another one.
        """
        known = {output for record in read_lines(self._root / LOG, Prepared) for output in record.outputs}
        records = []
        for pair in pairs:
            outputs = self._outputs(utf8(pair.name), self._split_of[pair.name])
            if not known.issuperset(outputs):
                common = self._common(pair, (None, None))
                records.append(
                    msgspec.convert(
                        {**common, "outputs": dict.fromkeys(outputs, ""), "problem": NOT_MADE_YET}, Prepared
                    )
                )
        if records:
            log.write(records)

    def run(
        self,
        pairs: Sequence[Pair],
        workers: int | None,
        report: PrepareReport,
        log: LineWriter,
        on_start: Callable[[int], None],
        on_pair: Callable[[str | None], None],
        should_stop: Callable[[], bool],
    ) -> Iterator[Prepared]:
        """Records in the order of names."""
        on_start(len(pairs))
        count = workers or usable_cpus()
        pending: deque[Future[tuple[Prepared, bool]]] = deque()

        def take_result() -> Iterator[Prepared]:
            record, is_kept = pending.popleft().result()
            if not is_kept:
                log.write([record])
            report.kept += is_kept
            if record.problem is not None:
                report.left_out.append(record.problem)
            else:
                yield record
            on_pair(record.problem)

        with ThreadPoolExecutor(count, "m2l-worker") as pool:
            try:
                for pair in pairs:
                    if should_stop():
                        report.was_stopped = True
                        break
                    pending.append(pool.submit(self._do, pair))
                    if len(pending) >= 4 * count:
                        yield from take_result()
                while pending:
                    yield from take_result()
            finally:
                for future in pending:
                    future.cancel()

    def _do(self, pair: Pair) -> tuple[Prepared, bool]:
        """(the record, whether an earlier call's files stand)."""
        hashes = file_sha256(pair.image), file_sha256(pair.mask)
        name, split = utf8(pair.name), self._split_of[pair.name]
        earlier = self._before.get(name)
        if earlier is not None and self._stands(earlier, split, hashes):
            return earlier, True
        common = self._common(pair, hashes)
        try:
            arrays = read_pair(pair, self._options.size)
        except PairError as error:
            return msgspec.convert({**common, "outputs": {}, "problem": str(error)}, Prepared), False
        pictures = zip(self._outputs(name, split), self._pictures(arrays), strict=True)
        outputs = {path: self._write(path, picture) for path, picture in pictures}
        return (
            msgspec.convert(
                {
                    **common,
                    "outputs": outputs,
                    "original_size": arrays.original_size,
                    "lesion_fraction": round(arrays.lesion_fraction, 6),
                    "notes": arrays.notes,
                    "descriptor": descriptor(arrays.image).astype(np.float16).tobytes(),
                },
                Prepared,
            ),
            False,
        )

    def _common(self, pair: Pair, hashes: tuple[str | None, str | None]) -> dict[str, object]:
        """What a record says of a pair whatever becomes of it."""
        return {
            "name": utf8(pair.name),
            "split": self._split_of[pair.name],
            "size": self._options.size,
            "image": utf8(_relative(pair.image, self._images)),
            "mask": utf8(_relative(pair.mask, self._masks)),
            "image_sha256": hashes[0],
            "mask_sha256": hashes[1],
        }

    def _stands(self, earlier: Prepared, split: str, hashes: tuple[str | None, str | None]) -> bool:
        expected = 3 if self._options.combined else 2
        return (
            (earlier.split, earlier.size, len(earlier.outputs)) == (split, self._options.size, expected)
            and (earlier.image_sha256, earlier.mask_sha256) == hashes
            and all(file_sha256(self._root / path) == sha256 for path, sha256 in earlier.outputs.items())
        )

    def _outputs(self, name: str, split: str) -> list[str]:
        """The files of a pair, relative to the data folder."""
        both = [f"{split}/{IMAGES}/{name}.png", f"{split}/{MASKS}/{name}.png"]
        return [*both, f"{COMBINED}/{split}/{name}.png"] if self._options.combined else both

    def _pictures(self, arrays: DecodedPair) -> Iterator[PillowImage.Image]:
        """What is in them, in their order."""
        yield PillowImage.fromarray(arrays.image)
        yield PillowImage.fromarray(arrays.mask)
        if self._options.combined:
            both = np.concatenate([np.repeat(arrays.mask[:, :, None], 3, 2), arrays.image], 1)
            yield PillowImage.fromarray(both)

    def _write(self, path: str, picture: PillowImage.Image) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=4)
        atomic.write_file(self._root / path, buffer.getvalue(), tag=TAG)
        return hashlib.sha256(buffer.getvalue()).hexdigest()


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()


def _tell(report: PrepareReport, prepared: Sequence[Prepared], options: PrepareOptions) -> None:
    splits = list(options.splits) if options.split_file is None else []
    report.splits = dict.fromkeys(splits, 0)
    for record in prepared:
        report.splits[record.split] = report.splits.get(record.split, 0) + 1
        named = {"empty": report.empty_masks, "full": report.full_masks, "sizes differ": report.sizes_differ}
        smaller = record.original_size is not None and min(record.original_size) < options.size
        for note in (*record.notes, *((ENLARGED_NOTE,) if smaller else ())):
            if note in named:
                named[note].append(record.name)
            else:
                report.other_notes[note] = report.other_notes.get(note, 0) + 1
    if TRAIN not in report.splits:
        report.warnings.append(f"there is no split called {TRAIN}, which is what m2l train reads")
    for split, count in report.splits.items():
        wanted = options.split_file is not None or options.splits.get(split, 0) > 0
        if not count and wanted and not report.was_stopped:
            report.warnings.append(f"no pair is in the split {split}")
    report.near_duplicates = [
        (f"{one.split}/{one.name}", f"{other.split}/{other.name}", round(likeness, 4))
        for one, other, likeness in _across_splits(prepared)
    ]


def _across_splits(made: Sequence[Prepared]) -> Iterator[tuple[Prepared, Prepared, float]]:
    by_split: dict[str, list[Prepared]] = {}
    for record in made:
        by_split.setdefault(record.split, []).append(record)
    for one, other in itertools.combinations(by_split.values(), 2):
        for row, column, likeness in near_duplicates(_stacked(one), _stacked(other)):
            yield one[row], other[column], likeness


def _stacked(records: Sequence[Prepared]) -> Descriptor:
    return np.stack([np.frombuffer(record.descriptor, np.float16).astype(np.float32) for record in records])


def _write_tables(root: Path, made: Sequence[Prepared], options: PrepareOptions, report: PrepareReport) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("name", "split", "image", "mask", "height", "width", "lesion_fraction", "notes"))
    for record in made:
        height, width = record.original_size or (0, 0)
        row = (record.name, record.split, record.image, record.mask, height, width, record.lesion_fraction)
        writer.writerow((*row, "; ".join(record.notes)))
    atomic.write_file(root / PAIRS, buffer.getvalue().encode(), tag=TAG)
    capped = {
        f: value[:MAX_NAMED] if isinstance(value := getattr(report, f), list) else value
        for f in report.__struct_fields__
    }
    atomic.write_file(root / REPORT, msgspec.json.format(msgspec.json.encode(capped), indent=2) + b"\n", tag=TAG)
    facts = {
        "format": 1,
        "m2l": __version__,
        "size": options.size,
        "seed": options.seed,
        "splits": report.splits,
        "resampling": "bicubic, antialiased, the frame squashed",
    }
    atomic.write_file(root / DATASET_FILE, msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n", tag=TAG)
