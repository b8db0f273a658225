"""Read and write sizes of pictures: one number for squares, HEIGHTxWIDTH for others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from m2l_runtime.errors import InputError

Sides: TypeAlias = int | str | tuple[int, int]
"""A size as it is given: the side of a square, words such as ``256x512`` (height x width), or (height, width)."""

_WORDS: Final = re.compile(r"\s*(\d{1,9})\s*(?:[xX×]\s*(\d{1,9})\s*)?", re.ASCII)


def read_sides(value: Any, what: str) -> tuple[int, int]:
    """Read a size in any of its forms, as (height, width) in pixels.

    Example:
        >>> read_sides(256, "the size"), read_sides("256x512", "the size"), read_sides((64, 32), "the size")
        ((256, 256), (256, 512), (64, 32))
        >>> read_sides("wide", "the size")
        Traceback (most recent call last):
        m2l_runtime.errors.InputError: the size must be a number of pixels, or height x width as 256x512, got 'wide'

    Args:
        value: such a size; what else there is, is refused.
        what: its name, for the message.

    Raises:
        InputError: it is no size, or not positive.
    """
    pair: Sequence[Any] = ()
    if isinstance(value, str):
        match = _WORDS.fullmatch(value)
        pair = () if match is None else (int(match[1]), int(match[2] or match[1]))
    elif isinstance(value, tuple | list):
        pair = value
    elif not isinstance(value, bool):
        pair = (value, value)
    try:
        height, width = (_whole(side) for side in pair)
        if min(height, width) > 0:
            return height, width
    except (TypeError, ValueError):
        pass
    raise InputError(f"{what} must be a number of pixels, or height x width as 256x512, got {value!r}")


def _whole(side: Any) -> int:
    if isinstance(side, bool) or not hasattr(side, "__index__"):
        raise TypeError
    return int(side.__index__())


def plain_sides(size: tuple[int, int]) -> int | str:
    """Write a size as files keep it: a number for a square, else ``HEIGHTxWIDTH``.

    Example:
        >>> plain_sides((256, 256)), plain_sides((256, 512))
        (256, '256x512')
    """
    height, width = size
    return height if height == width else f"{height}x{width}"


def shown_sides(size: tuple[int, int]) -> str:
    """Write a size for people, in the order that options take it.

    Example:
        >>> shown_sides((256, 256)), shown_sides((64, 96))
        ('256x256', '64x96 (height x width)')
    """
    height, width = size
    return f"{height}x{width}" + ("" if height == width else " (height x width)")


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a side or of both.

    Example:
        >>> both_sides(8), both_sides((8, 16))
        ((8, 8), (8, 16))
    """
    return size if isinstance(size, tuple) else (size, size)


def times_halved(size: tuple[int, int]) -> int:
    """Count how often both sides can be halved.

    Example:
        >>> times_halved((256, 512)), times_halved((96, 128))
        (8, 5)
    """
    together = size[0] | size[1]
    return (together & -together).bit_length() - 1
