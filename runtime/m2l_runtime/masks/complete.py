"""Tell whether all of a picture is in its file, where Pillow leaves what is missing black without a word."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime.errors import PictureFileError

_PLANAR_CONFIGURATION: Final = 284
_SAMPLES_PER_PIXEL: Final = 277
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels of a PNG file, by its color type."""
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps to the next, of the seven passes of an interlaced PNG file."""
_STEP: Final = 1 << 20


def check_tiles(picture: PillowImage.Image) -> None:
    """Refuse a TIFF file that is not compressed and has fewer strips or tiles than its size takes.

    Args:
        picture: opened, not decoded.

    Raises:
        PictureFileError: strips or tiles are missing.
    """
    tiles: list[Any] = getattr(picture, "tile", [])
    if picture.format != "TIFF" or not tiles or tiles[0][0] != "raw":
        return
    tags = getattr(picture, "tag_v2", {})
    planes = int(tags.get(_SAMPLES_PER_PIXEL, 1)) if tags.get(_PLANAR_CONFIGURATION) == 2 else 1
    covered = sum((right - left) * (below - top) for _, (left, top, right, below), *_ in tiles)
    if covered < picture.width * picture.height * planes:
        raise PictureFileError(
            f"is damaged or truncated: it has {len(tiles)} strips or tiles, fewer than its size takes"
        )


def check_rows(content: bytes, picture: PillowImage.Image) -> None:
    """Refuse a PNG file whose packed samples end before the picture does.

    Rows that are missing come out as zeros, so only files whose last row has nothing else are unpacked.

    Args:
        content: of the file.
        picture: decoded from it.

    Raises:
        PictureFileError: rows are missing.
    """
    if picture.format != "PNG":
        return
    width, height, bits, color_type, *_, is_interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    last = picture.crop((0, height - 1, width, height))
    if not is_interlaced and np.asarray(last).any():
        return
    passes = _PASSES if is_interlaced else ((0, 0, 1, 1),)
    expected = 0
    for column, row, right, down in passes:
        columns, rows = -((column - width) // right), -((row - height) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * bits * _CHANNELS[color_type] + 7) // 8)
    unpacked = _unpacked_size(content, expected)
    if unpacked < expected:
        raise PictureFileError(f"is damaged or truncated: it unpacks to {unpacked:,} bytes of {expected:,}")


def _unpacked_size(content: bytes, enough: int) -> int:
    """Return how many bytes the samples of a PNG file unpack to; it is not counted on after `enough`."""
    unpacking, unpacked, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(content) and unpacked < enough and not unpacking.eof:
        (size,) = struct.unpack_from(">I", content, at)
        if content[at + 4 : at + 8] == b"IDAT":
            packed = content[at + 8 : at + 8 + size]
            while packed and unpacked < enough and not unpacking.eof:
                unpacked += len(unpacking.decompress(packed, _STEP))
                packed = unpacking.unconsumed_tail
        at += 12 + size
    return unpacked
