"""Read files of tensors, numbers and strings without running any code in them, in bounded time and memory."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from m2l_runtime._utils.reading import read_input, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError
from m2l_train.pickle_scan import PickleProblem, check_pickle

MAX_FILE_BYTES: Final = 1 << 32
MAX_UNPACKED_RATIO: Final = 4
"""Bytes that a file may unpack to, to one of its own. PyTorch packs nothing, and weights hardly shrink if others do."""

MIN_UNPACKED_BYTES: Final = 1 << 26
"""Bytes that any file may unpack to."""

_MAX_PICKLE_BYTES: Final = 1 << 26
_OF_ZIP: Final = b"PK\x03\x04"
_OF_PICKLE: Final = b"\x80"
_PICKLES_IN_FRONT: Final = 4
"""Of PyTorch's older format: a magic number, a version, facts of the machine, and what was saved."""


@dataclass(frozen=True)
class TensorFile:
    """Hold what is in a file."""

    value: Any
    sha256: str


def read_tensors(path: str | os.PathLike[str], expected: str) -> TensorFile:
    """Read what torch.save has written.

    Args:
        path: the file.
        expected: what an error says after "expected".

    Raises:
        InputError: it is not there, cannot be read, is too large, or holds other things than tensors.
    """
    if not Path(path).is_file():
        what = "is no file" if os.path.lexists(path) else "does not exist"
        raise InputError(f"{printable(path)} {what}; expected {expected}")
    with reader_errors(
        InputError, path, "is damaged, or no file of tensors that PyTorch reads", f"; expected {expected}"
    ):
        content = read_input(path, MAX_FILE_BYTES)
        return TensorFile(load_tensors(content), hashlib.sha256(content).hexdigest())


def load_tensors(content: bytes, device: torch.device | str = "cpu") -> Any:
    """Load the tensors, numbers, strings, lists and dicts that torch.save has written.

    What takes more than the file's size suggests is refused before it is loaded: packed entries that unpack to many
    times the file, and pickles that :func:`m2l_train.pickle_scan.check_pickle` refuses. It is called within
    :func:`m2l_runtime._utils.reading.reader_errors`.

    Example:
        >>> buffer = io.BytesIO()
        >>> torch.save({"a": torch.ones(2)}, buffer)
        >>> load_tensors(buffer.getvalue())["a"].tolist()
        [1.0, 1.0]

    Args:
        content: of the file.
        device: where the tensors are put.

    Raises:
        PickleProblem: it names, or asks for, what no file of weights does.
        ValueError: it unpacks to too much, its entries are damaged, or it is no file of PyTorch; and whatever PyTorch
            raises.
    """
    if content[:4] == _OF_ZIP:
        _check_archive(content)
    elif content[:1] == _OF_PICKLE:
        _check_old_format(content)
    else:
        raise ValueError("it begins as no file of PyTorch does")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of other kinds, which are refused
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _check_archive(content: bytes) -> None:
    """Check sizes, hashes and pickle of PyTorch's zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        limit = max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * len(content))
        if size > limit:
            raise ValueError(f"its {len(content):,} bytes unpack to {size:,}; at most {limit:,} are read")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"'{member.filename[:80]}' is packed in a way that PyTorch does not write")
        pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
        for member in pickles:
            if member.file_size > _MAX_PICKLE_BYTES:
                raise ValueError(f"its pickle has {member.file_size:,} bytes; at most {_MAX_PICKLE_BYTES:,} are read")
            check_pickle(archive.read(member))
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"what it holds is not what was written ('{damaged[:80]}')")


def _check_old_format(content: bytes) -> None:
    """Check the pickles in front of PyTorch's older format; what follows are plain numbers."""
    file = io.BytesIO(content)
    for _ in range(_PICKLES_IN_FRONT):
        check_pickle(file)
        if file.tell() > _MAX_PICKLE_BYTES:
            raise PickleProblem(f"its pickles have more than {_MAX_PICKLE_BYTES:,} bytes")
    check_pickle(file)  # the keys of the storages
