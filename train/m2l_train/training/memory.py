"""Turn errors of short memory into one that says what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from m2l_runtime.errors import M2LError, OutOfMemory


@contextlib.contextmanager
def memory_errors(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what PyTorch and NumPy raise when memory is short into an OutOfMemory.

    Args:
        advice: called for the message of that error.

    Raises:
        OutOfMemory: memory ran out within the block.
    """
    try:
        yield
    except M2LError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(advice()) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of PyTorch or NumPy says that memory is short."""
    text = str(error)
    signs = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs)
