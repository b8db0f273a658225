"""Read files of tensors, numbers and strings without running any code in them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError

MAX_FILE_BYTES: Final = 1 << 29


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
    name = printable(path)
    try:
        if not Path(path).is_file():
            what = "is no file" if os.path.lexists(path) else "does not exist"
            raise InputError(f"{name} {what}; expected {expected}")
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{name} has more than {MAX_FILE_BYTES:,} bytes; expected {expected}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{name} is damaged: what it holds is not what was written; expected {expected}")
    except zipfile.BadZipFile:
        pass  # an older kind of file, or none; told below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds, which are refused below
            value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        raise InputError(f"{name} is no file of tensors that PyTorch reads; expected {expected}") from None
    return TensorFile(value, hashlib.sha256(content).hexdigest())
