"""Write the pictures of a data folder, and a log of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

import msgspec
import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils import atomic
from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.file_system import is_name_error, name_error
from m2l_runtime._utils.held_folder import remove_folder
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.errors import OutputError
from m2l_runtime.runs.jsonl import LineWriter, read_lines
from m2l_train.data.data_folder import IMAGES, MASKS
from m2l_train.data.near_duplicates import descriptor
from m2l_train.data.pairing import Pair
from m2l_train.data.photograph import DecodedPair, PairError, read_pair
from m2l_train.data.prepare_options import COMBINED, PrepareOptions, PrepareReport

LOG: Final = "prepare-log.jsonl"

PAIRS: Final = "pairs.csv"

REPORT: Final = "report.json"

SETTINGS: Final = "prepare-settings.json"
"""Options of the last call, for the next one to resume with."""

TAG: Final = "prepare-"

NOT_MADE_YET: Final = "was going to be made"
"""Problem of a record that is written ahead of its files."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Describe a pair and the files written of it, or about to be: a line of the log."""

    name: str
    split: str
    size: int | str
    """As :func:`m2l_runtime._utils.sides.plain_sides` writes it."""
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


class PrepareJob:
    """Decode, resize and write the pairs of one call."""

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
        """Remove folders that got no file."""
        for folder in sorted(self._root.rglob("*"), reverse=True):
            if folder.is_dir():
                with contextlib.suppress(OSError):
                    remove_folder(folder)

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
        """Yield records in the order of names."""
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
        """Return (the record, whether an earlier call's files stand)."""
        hashes = file_sha256(pair.image), file_sha256(pair.mask)
        name, split = utf8(pair.name), self._split_of[pair.name]
        earlier = self._before.get(name)
        if earlier is not None and self._stands(earlier, split, hashes):
            return earlier, True
        common = self._common(pair, hashes)
        outputs: dict[str, str] = {}
        try:
            self._require_names(pair, split)
            arrays = read_pair(pair, self._options.sides)
            for path, picture in zip(self._outputs(name, split), self._pictures(arrays), strict=True):
                outputs[path] = self._write(path, picture)
        except PairError as error:
            return msgspec.convert({**common, "outputs": {}, "problem": str(error)}, Prepared), False
        except OutputError as error:
            if not is_name_error(error.__cause__):
                raise
            for path in outputs:
                atomic.remove_inside(self._root, path)
            problem = _refused_name(pair, cast(OSError, error.__cause__))
            return msgspec.convert({**common, "outputs": {}, "problem": problem}, Prepared), False
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

    def _require_names(self, pair: Pair, split: str) -> None:
        """Make sure, ahead of the work, that the disk takes the names of a pair's files.

        Raises:
            PairError: it does not.
        """
        for path in self._outputs(utf8(pair.name), split):
            refused = name_error(self._root / path)
            if refused is not None:
                raise PairError(_refused_name(pair, refused))

    def _common(self, pair: Pair, hashes: tuple[str | None, str | None]) -> dict[str, object]:
        """Return what a record says of a pair whatever becomes of it."""
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
        """Return the files of a pair, relative to the data folder."""
        both = [f"{split}/{IMAGES}/{name}.png", f"{split}/{MASKS}/{name}.png"]
        return [*both, f"{COMBINED}/{split}/{name}.png"] if self._options.combined else both

    def _pictures(self, arrays: DecodedPair) -> Iterator[PillowImage.Image]:
        """Yield the pictures of these files, in their order."""
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


def _refused_name(pair: Pair, why: OSError) -> str:
    return f"{printable(pair.image)}: the disk takes no file of its name ({why.strerror}); rename the pair"


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()
