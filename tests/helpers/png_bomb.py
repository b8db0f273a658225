"""A small file whose header promises a huge picture."""

from __future__ import annotations

import struct
import zlib


def png_bomb() -> bytes:
    """A PNG whose header says 60,000 pixels a side."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
