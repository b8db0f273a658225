"""Read safetensors files: a length, a JSON table, and the numbers. Nothing in them can run."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Final

import msgspec
import torch
from torch import Tensor

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import CheckpointError

MAX_TABLE_BYTES: Final = 1 << 24
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def is_safetensors(content: bytes) -> bool:
    """Tell a safetensors file by its first bytes.

    Example:
        >>> is_safetensors((2).to_bytes(8, "little") + b"{}")
        True
    """
    return len(content) >= 10 and content[8:9] == b"{" and struct.unpack("<Q", content[:8])[0] <= len(content) - 8


def read_safetensors(content: bytes) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, each with memory of its own.

    Raises:
        CheckpointError: its table is not one, or says of a tensor what cannot be.
    """
    (length,) = struct.unpack("<Q", content[:8])
    if length > MAX_TABLE_BYTES:
        raise CheckpointError(f"has a table of {length:,} bytes; at most {MAX_TABLE_BYTES:,} are read")
    try:
        table = msgspec.json.decode(content[8 : 8 + length], type=dict[str, msgspec.Raw])
        table.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in table.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"is a damaged safetensors file: {printable(str(error))}; download it again") from None
    numbers = memoryview(content)[8 + length :]
    return {name: _tensor(name, entry, numbers) for name, entry in entries.items()}


def _tensor(name: str, entry: _Entry, numbers: memoryview) -> Tensor:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(
            f"has {printable(name)} as {printable(entry.dtype)}; expected floating-point weights, as they were trained"
        )
    start, end = entry.data_offsets
    is_size = len(entry.shape) <= 8 and all(0 <= side <= len(numbers) for side in entry.shape)
    count = math.prod(entry.shape) if is_size else -1
    if not 0 <= start <= end <= len(numbers) or count * dtype.itemsize != end - start:
        raise CheckpointError(
            f"is a truncated or damaged safetensors file: {printable(name)} does not lie in it; download it again"
        )
    if count == 0:
        return torch.zeros(entry.shape, dtype=dtype)
    return torch.frombuffer(bytearray(numbers[start:end]), dtype=dtype).reshape(entry.shape)
