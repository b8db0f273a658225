"""Write picture files that Pillow does not write."""

from __future__ import annotations

import struct


def tiff(tags: dict[int, tuple[int, ...]], *strips: bytes) -> bytes:
    """Write an uncompressed TIFF file of 8-bit samples, 64 x 64, with the strips given."""
    data = b"".join(strips)
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    entries = {256: (64,), 257: (64,), 259: (1,), 273: tuple(starts), 279: tuple(map(len, strips)), **tags}
    body, more, at = struct.pack("<H", len(entries)), b"", 8 + len(data) + 6 + 12 * len(entries)
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        value = packed if len(packed) == 4 else struct.pack("<I", at + len(more))
        more += packed if len(packed) > 4 else b""
        body += struct.pack("<HHI", tag, 4, len(values)) + value
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + body + b"\0\0\0\0" + more
