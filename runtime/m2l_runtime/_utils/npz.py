"""Read .npz files of arrays, bounded in memory and without running code."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt


def read_npz(content: bytes, max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an .npz by name.

    It is called within :func:`m2l_runtime._utils.reading.reader_errors`, as what a damaged file leads to has many
    classes.

    Example:
        >>> buffer = io.BytesIO()
        >>> np.savez(buffer, a=np.arange(3))
        >>> read_npz(buffer.getvalue(), 1000)["a"].tolist()
        [0, 1, 2]

    Args:
        content: of the file.
        max_bytes: that it may unpack to in all.

    Raises:
        ValueError: it unpacks to more, is packed otherwise than NumPy does, or an array's header says another size
            than there is; and whatever zipfile and NumPy raise.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > max_bytes:
            raise ValueError(f"it unpacks to {size:,} bytes; at most {max_bytes:,} are read")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may ask for gigabytes
                raise ValueError(f"'{member.filename[:80]}' is packed in a way that NumPy does not write")
            arrays[member.filename.removesuffix(".npy")] = read_array(archive.read(member), member.filename)
    return arrays


def read_array(content: bytes, name: str) -> npt.NDArray[Any]:
    """Read an array whose header says the size that it has: NumPy allocates what the header says first."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    expected = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or not dtype.itemsize or expected != len(content) - file.tell():
        raise ValueError(f"'{name[:80]}' is damaged: its header says another size or type than it has")
    file.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
