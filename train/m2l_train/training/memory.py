"""Tell how much memory training takes, and when it runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from m2l_runtime.errors import M2LError, OutOfMemory


@contextlib.contextmanager
def _memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what PyTorch and NumPy raise when memory is short into an OutOfMemory with `advice`."""
    try:
        yield
    except M2LError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(advice()) from error


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    signs = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs)
