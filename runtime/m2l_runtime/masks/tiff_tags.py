"""Check the directories of a TIFF file, or of EXIF data, before Pillow reads them.

Pillow reads the bytes of every tag of a directory, and they may overlap: 65,535 tags that all point to one megabyte
are 64 GB of a file of 2 MB. libtiff allocates a whole tile, however large the file says that it is. So the directories
are walked first, which takes a few bytes of each entry.
"""

from __future__ import annotations

import struct
from typing import Final

PREFIXES: Final = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x00\x2a", b"MM\x2a\x00", b"II\x2b\x00", b"MM\x00\x2b")
"""What such data begins with, as Pillow knows it; the last two are BigTIFF."""

MAX_DIRECTORIES: Final = 10
"""Directories that are walked; of a file with more, no more are read."""

_SLACK: Final = 1 << 20
_TILE_WIDTH: Final = 322
_TILE_LENGTH: Final = 323
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value, by its type."""


def check_tags(content: bytes, max_pixels: int) -> None:
    r"""Check that reading the directories takes no more memory than the file suggests.

    Example:
        >>> entry = struct.pack("<HHI4s", 256, 4, 1, bytes(4))
        >>> check_tags(b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4), 100)

    Args:
        content: of a TIFF file, or EXIF data without the word "Exif". What is damaged is left to Pillow to refuse.
        max_pixels: that a tile may have.

    Raises:
        ValueError: values of tags overlap so that they are many times the file, or a tile is too large.
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"\x2b\x00", b"\x00\x2b")
    first, entry, count, step = ("Q", "HHQ8s", "Q", 20) if is_big else ("I", "HHI4s", "H", 12)
    budget = len(content) * 2 + _SLACK
    try:
        (at,) = struct.unpack_from(f"{order}{first}", content, 8 if is_big else 4)
        for _ in range(MAX_DIRECTORIES):
            if not at:
                return
            (entries,) = struct.unpack_from(f"{order}{count}", content, at)
            at += 8 if is_big else 2
            tile = {_TILE_WIDTH: 1, _TILE_LENGTH: 1}
            for number in range(min(entries, len(content) // step)):
                tag, kind, values, raw = struct.unpack_from(f"{order}{entry}", content, at + number * step)
                budget -= min(values * _SIZES.get(kind, 1), len(content))
                if tag in tile and kind in (3, 4):
                    (tile[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", raw)
            if budget < 0:
                raise ValueError(f"its tags have many times the bytes of the file, {len(content):,}")
            if tile[_TILE_WIDTH] * tile[_TILE_LENGTH] > max_pixels:
                raise ValueError(f"its tiles have {tile[_TILE_WIDTH]:,} x {tile[_TILE_LENGTH]:,} pixels")
            (at,) = struct.unpack_from(f"{order}{first}", content, at + entries * step)
    except struct.error:
        return  # it ends too early, where Pillow stops as well
