"""Find and read the files that hold pairs: each part is a file of many pairs, or a folder of single ones."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from m2l_runtime._utils.npz import read_npz
from m2l_runtime._utils.reading import open_input, read_at_most, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import EngineNotInstalled, InputError, PictureFileError
from m2l_runtime.masks.image_file import MAX_FILE_BYTES, MAX_PIXELS, decode
from m2l_runtime.output.formats import FORMATS
from m2l_runtime.runs.checks import PAIRS
from m2l_runtime.types import Image, Mask

_MAX_ARRAY_BYTES: Final = 4 * MAX_PIXELS + (1 << 16)
_MASK: Final = ".mask.png"
_ABOUT: Final = ".json"
_IMAGES: Final = tuple(
    suffix
    for entry in FORMATS.values()
    if entry.encoder is not None and not entry.holds_mask
    for suffix in entry.suffixes
)


class Part(Protocol):
    """Hold pairs, numbered from 0. Nothing stays open but in the process that reads."""

    def __len__(self) -> int: ...

    def read(self, place: int) -> tuple[Image, Mask]:
        """Return (image uint8 (H, W, 3), mask uint8 (H, W)), owned by the caller."""
        ...

    def name(self, place: int) -> str:
        """Return the name of the mask."""
        ...

    def runs(self, length: int) -> list[range]:
        """Cut the places into runs that are read best one after another."""
        ...


def find_parts(folder: Path) -> list[Part]:
    """Find what holds pairs in an output folder of `m2l synth`; or open one tar or Parquet file.

    Raises:
        InputError: there is no such folder, no pairs are in it, pairs of several formats, or a damaged file.
        EngineNotInstalled: Parquet files need pyarrow.
    """
    name = printable(folder)
    if folder.is_file() and folder.suffix in (".tar", ".parquet"):
        return _some([TarPart(folder) if folder.suffix == ".tar" else ParquetPart(folder)], name)
    if not folder.is_dir():
        what = "is no tar or Parquet file" if os.path.lexists(folder) else "does not exist"
        raise InputError(f"{name} {what}; expected an output folder of m2l synth")
    tars, tables, arrays = (sorted(folder.glob(pattern)) for pattern in ("*.tar", "*.parquet", "**/*.npz"))
    has_table = (folder / PAIRS).is_file()
    kinds = {"tars": bool(tars), "Parquet files": bool(tables), "npz files": bool(arrays), PAIRS: has_table}
    there = [kind for kind, is_there in kinds.items() if is_there]
    if len(there) > 1:
        raise InputError(f"{name} holds {' and '.join(there)}; expected the output of one run of m2l synth")
    if tars:
        return _some([TarPart(path) for path in tars], name)
    if tables:
        return _some([ParquetPart(path) for path in tables], name)
    if arrays:
        return _some([ArraysPart(folder, arrays)], name)
    if has_table:
        return _some([FilesPart(folder)], name)
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        raise InputError(f"{name} has no {PAIRS}: its run has not ended; go on with m2l synth --resume")
    raise InputError(
        f"{name} holds no pairs; expected an output folder of m2l synth with --pairs, or --format npz, webdataset or "
        "parquet"
    )


def _some(parts: Sequence[Part], name: str) -> list[Part]:
    found = [part for part in parts if len(part)]
    if not found:
        raise InputError(f"{name} holds no pairs: no mask of its run could be used")
    return found


def _runs(count: int, length: int) -> list[range]:
    return [range(start, min(start + length, count)) for start in range(0, count, length)]


def _decoded(content: bytes, mode: str, where: str) -> Image:
    try:
        return np.array(decode(content, apply_exif=False).convert(mode))
    except PictureFileError as error:
        raise InputError(f"{where}: {error}") from None


def _pair(image: bytes, mask: bytes, where: str) -> tuple[Image, Mask]:
    return _decoded(image, "RGB", where), _decoded(mask, "L", where)


def _read(path: Path, start: int = 0, size: int = -1) -> bytes:
    with reader_errors(InputError, path, "cannot be read"), open_input(path) as file:
        file.seek(start)
        content = file.read(size) if size >= 0 else read_at_most(file, MAX_FILE_BYTES + 1)
    if size < 0 and len(content) > MAX_FILE_BYTES:
        raise InputError(f"{printable(path)} has more than {MAX_FILE_BYTES:,} bytes; no more are read")
    if size >= 0 and len(content) != size:
        raise InputError(f"{printable(path)} ends too early: it was cut off, or has changed since it was opened")
    return content


class FilesPart:
    """Hold the pairs of pairs.csv."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        table_file = folder / PAIRS
        content = _read(table_file).decode("utf-8", "replace")
        with reader_errors(InputError, table_file, "is damaged"), io.StringIO(content, newline="") as file:
            table = csv.DictReader(file)
            if not {"image", "mask", "source"} <= set(table.fieldnames or ()):
                raise InputError(f"{printable(table_file)} has no columns image, mask and source, as m2l writes them")
            self._rows = [(row["image"], row["mask"], row["source"]) for row in table]
        for number, row in enumerate(self._rows):
            if not all(row):
                raise InputError(f"{printable(table_file)} is damaged: row {number + 1} has no image, mask or source")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, place: int) -> tuple[Image, Mask]:
        """See Part."""
        image, mask, _ = self._rows[place]
        return _pair(_read(self._folder / image), _read(self._folder / mask), printable(self._folder / image))

    def name(self, place: int) -> str:
        """See Part."""
        return self._rows[place][2]

    def runs(self, length: int) -> list[range]:
        """See Part: each alone, as any order is as good."""
        return _runs(len(self), 1)


class ArraysPart:
    """Hold npz files, of one pair each."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self._folder, self._paths = folder, list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, place: int) -> tuple[Image, Mask]:
        """See Part."""
        path = self._paths[place]
        with reader_errors(InputError, path, "is damaged, or no pair of m2l"):
            arrays = read_npz(_read(path), _MAX_ARRAY_BYTES)
            image, mask = arrays["image"], arrays["mask"]
        if image.dtype != np.uint8 or mask.dtype != np.uint8 or mask.ndim != 2 or image.shape != (*mask.shape, 3):
            raise InputError(f"{printable(path)} holds other arrays than image (H, W, 3) and mask (H, W), uint8")
        return image, mask

    def name(self, place: int) -> str:
        """See Part."""
        return self._paths[place].relative_to(self._folder).with_suffix("").as_posix()

    def runs(self, length: int) -> list[range]:
        """See Part."""
        return _runs(len(self), 1)


class TarPart:
    """Hold a WebDataset tar: where image, mask and description of each pair lie in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found: dict[str, dict[str, tuple[int, int]]] = {}
        with (
            reader_errors(InputError, path, "is damaged or cut off", "; expected a tar of m2l synth"),
            open_input(path) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            size = os.fstat(file.fileno()).st_size
            for member in tar:
                key, dot, kind = member.name.partition(".")
                if not member.isfile() or not 0 <= member.size <= size - member.offset_data:
                    raise ValueError(f"{member.name} is no file, or ends behind the tar")
                found.setdefault(key, {})[dot + kind] = (member.offset_data, member.size)
        rows = [self._row(key, kinds) for key, kinds in found.items()]
        self._places = np.array(rows, np.int64).reshape(-1, 3, 2)

    def _row(self, key: str, kinds: dict[str, tuple[int, int]]) -> list[tuple[int, int]]:
        image = next((kinds[suffix] for suffix in _IMAGES if suffix in kinds), None)
        if image is None or _MASK not in kinds or _ABOUT not in kinds:
            raise InputError(
                f"{printable(self._path)}: {printable(key)} is no pair of m2l synth; expected "
                f"{printable(key)}{_ABOUT}, {_MASK} and an image"
            )
        return [image, kinds[_MASK], kinds[_ABOUT]]

    def __len__(self) -> int:
        return len(self._places)

    def _member(self, place: int, which: int) -> bytes:
        start, size = self._places[place, which].tolist()
        return _read(self._path, start, size)

    def read(self, place: int) -> tuple[Image, Mask]:
        """See Part."""
        return _pair(self._member(place, 0), self._member(place, 1), f"{printable(self._path)}, pair {place}")

    def name(self, place: int) -> str:
        """See Part."""
        with reader_errors(InputError, self._path, f"what is said of pair {place} is damaged"):
            return str(json.loads(self._member(place, 2))["name"])

    def runs(self, length: int) -> list[range]:
        """See Part."""
        return _runs(len(self), length)


def _group_sizes(metadata: Any) -> list[int]:
    """Return the number of rows of each row group."""
    sizes = [int(metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
    if min(sizes, default=0) < 0:
        raise ValueError("a row group has fewer than no rows")
    return sizes


class ParquetPart:
    """Hold a Parquet file; the row group that was read last is kept, encoded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, Any] | None = None
        self._group: tuple[int, list[dict[str, Any]]] | None = None
        names = set(self._call(lambda file: file.schema_arrow.names))
        if not {"image", "mask", "name"} <= names:
            raise InputError(f"{printable(path)} has no columns image, mask and name, as m2l synth writes them")
        self._ends = np.cumsum(self._call(lambda file: _group_sizes(file.metadata)), dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _call(self, work: Callable[[Any], Any]) -> Any:
        """Work with the file as this process has opened it."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise EngineNotInstalled(
                f'Parquet files need {error.name}, which is not installed: pip install "m2l[parquet]"'
            ) from error
        with reader_errors(InputError, self._path, "is damaged or cannot be read"):
            if self._file is None or self._file[0] != os.getpid():
                open_input(self._path).close()  # a pipe is refused, and not waited for
                self._file = (os.getpid(), pyarrow.parquet.ParquetFile(self._path))
            return work(self._file[1])

    def _row(self, place: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._ends, place, side="right"))
        if self._group is None or self._group[0] != group:
            columns = ["image", "mask", "name"]
            rows = self._call(lambda file: file.read_row_group(group, columns=columns, use_threads=False).to_pylist())
            self._group = (group, rows)
        rows = self._group[1]
        with reader_errors(InputError, self._path, f"row {place} is missing"):
            return dict(rows[place - int(self._ends[group]) + len(rows)])

    def read(self, place: int) -> tuple[Image, Mask]:
        """See Part."""
        row, where = self._row(place), f"{printable(self._path)}, row {place}"
        with reader_errors(InputError, self._path, f"row {place} has no bytes of an image and a mask"):
            image, mask = (memoryview(row[column]["bytes"]).tobytes() for column in ("image", "mask"))
        return _pair(image, mask, where)

    def name(self, place: int) -> str:
        """See Part."""
        return str(self._row(place)["name"])

    def runs(self, length: int) -> list[range]:
        """See Part: row groups."""
        starts = [0, *self._ends[:-1].tolist()]
        return [range(start, int(end)) for start, end in zip(starts, self._ends, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle neither what is open nor what was read."""
        return {**self.__dict__, "_file": None, "_group": None}
