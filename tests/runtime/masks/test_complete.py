"""A file that lacks a part of its picture is refused: Pillow leaves that part black."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from picture_files import tiff
from support import disc

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import read_mask

SIZE = (64, 64)
DISC = disc(64, 20, 28, 34)
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(rows: bytes, bits: int, color_type: int, *, interlaced: bool = False, before: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 64, 64, bits, color_type, 0, 0, int(interlaced))
    packed = zlib.compress(rows)
    half = len(packed) // 2
    body = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])  # as writers split what is long
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + body + chunk(b"IEND", b"")


def rows_of(samples: np.ndarray, bits: int) -> list[bytes]:
    if bits < 8:
        return [b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in samples]
    return [b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in samples]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_complete__rows_that_a_png_lacks(bits: int) -> None:
    rows = rows_of((DISC > 0).astype(np.uint8), bits)
    np.testing.assert_array_equal(read_mask(png(b"".join(rows), bits, 0), SIZE).mask, DISC)
    np.testing.assert_array_equal(read_mask(png(b"".join(rows) + b"more", bits, 0), SIZE).mask, DISC)
    for count in (32, 63):
        with pytest.raises(MaskFileError, match=r"damaged or truncated: it unpacks to [\d,]+ bytes of"):
            read_mask(png(b"".join(rows[:count]), bits, 0), SIZE)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_complete__of_an_interlaced_png_the_passes_are_counted(color_type: int, channels: int) -> None:
    samples = np.repeat(DISC[:, :, None], channels, 2)
    if color_type in (4, 6):
        samples[:, :, -1] = 255
    parts = [b"".join(rows_of(samples[row::down, column::right], 8)) for column, row, right, down in PASSES]
    whole = png(b"".join(parts), 8, color_type, interlaced=True)
    np.testing.assert_array_equal(read_mask(whole, SIZE).mask, DISC)
    with pytest.raises(MaskFileError, match="it unpacks to"):
        read_mask(png(b"".join(parts[:6]), 8, color_type, interlaced=True), SIZE)


@pytest.mark.parametrize("channels", [1, 3])
def test_complete__strips_that_a_tiff_lacks(channels: int) -> None:
    samples = np.repeat(DISC[:, :, None], channels, 2)
    tags = {258: (8,) * channels, 262: (1 if channels == 1 else 2,), 277: (channels,), 278: (16,)}
    strips = [samples[start : start + 16].tobytes() for start in range(0, 64, 16)]
    np.testing.assert_array_equal(read_mask(tiff(tags, *strips), SIZE).mask, DISC)
    with pytest.raises(
        MaskFileError, match="damaged or truncated: it has 3 strips or tiles, fewer than its size takes"
    ):
        read_mask(tiff(tags, *strips[:3]), SIZE)


def test_complete__planes_that_a_tiff_lacks() -> None:
    tags = {258: (8, 8, 8), 262: (2,), 277: (3,), 284: (2,)}
    planes = [DISC.tobytes()] * 3
    np.testing.assert_array_equal(read_mask(tiff(tags, *planes), SIZE).mask, DISC)
    with pytest.raises(MaskFileError, match="damaged or truncated"):
        read_mask(tiff(tags, *planes[:2]), SIZE)
