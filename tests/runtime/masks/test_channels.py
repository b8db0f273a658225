"""No way of storing a mask may lose it when it is decoded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import tiff
from PIL import Image
from support import disc, save

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import read_mask, to_gray

SIZE = (64, 64)
DISC = disc(64, 20, 28, 34)
INSIDE = DISC == 255
WIDE = {"RGB": (2, 3), "LA": (4, 2), "RGBA": (6, 4)}


def png(samples: np.ndarray, color_type: int, bits: int, *chunks: tuple[bytes, bytes], width: int = 0) -> bytes:
    """Write a PNG file: samples (H, W, C), big-endian; Pillow writes no colors of 16 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height = len(samples)
    header = struct.pack(">IIBBBBB", width or samples.shape[1], height, bits, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2" if bits == 16 else "u1"))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def deep(mode: str, low: int, high: int, opacity: int = 65535) -> bytes:
    color_type, count = WIDE[mode]
    samples = np.repeat(np.where(INSIDE, high, low)[:, :, None], count, 2)
    if mode != "RGB":
        samples[:, :, -1] = opacity
    return png(samples, color_type, 16)


def check_disc(path: Path) -> None:
    found = read_mask(path, SIZE)
    np.testing.assert_array_equal(found.mask, DISC)
    assert found.note is None


@pytest.mark.parametrize("mode", list(WIDE))
@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 256), (0, 65535), (256, 257)])
@pytest.mark.parametrize("opacity", [65535, 255, 1, 0])
def test_channels__sixteen_bits_of_color(tmp_path: Path, mode: str, values: tuple[int, int], opacity: int) -> None:
    (tmp_path / "mask.png").write_bytes(deep(mode, *values, opacity))
    check_disc(tmp_path / "mask.png")


def test_channels__sixteen_bits_with_labels_or_a_marked_color(tmp_path: Path) -> None:
    samples = np.repeat(np.where(INSIDE, 1, 0)[:, :, None], 3, 2)
    samples[0, :5] = 65535
    (tmp_path / "labels.png").write_bytes(png(samples, 2, 16))
    with pytest.raises(MaskFileError, match="class labels"):
        read_mask(tmp_path / "labels.png", SIZE)
    samples = np.repeat(np.where(INSIDE, 1, 2)[:, :, None], 3, 2)
    (tmp_path / "marked.png").write_bytes(png(samples, 2, 16, (b"tRNS", struct.pack(">HHH", 2, 2, 2))))
    found = read_mask(tmp_path / "marked.png", SIZE)
    np.testing.assert_array_equal(found.mask, DISC)
    assert found.note == "opacity"


def tiff16(path: Path, samples: np.ndarray, byte_order: str = "<", photometric: int = 2, planar: int = 1) -> Path:
    """Write an uncompressed TIFF of 16-bit samples (H, W, C)."""
    height, width, count = samples.shape
    stored = samples.transpose(2, 0, 1) if planar == 2 else samples
    data = stored.astype(f"{byte_order}u2").tobytes()
    bits_at, strips_at = 8 + len(data), 8 + len(data) + 2 * count
    strip = len(data) // (count if planar == 2 else 1)
    offsets = [8 + k * strip for k in range(count if planar == 2 else 1)]
    many = len(offsets) > 1
    entries: list[tuple[int, int, int, int]] = [(256, 4, 1, width), (257, 4, 1, height)]
    entries.append((258, 3, count, bits_at if count > 1 else 16))
    entries += [(259, 3, 1, 1), (262, 3, 1, photometric)]
    entries.append((273, 4, len(offsets), strips_at if many else offsets[0]))
    entries += [(277, 3, 1, count), (278, 4, 1, height)]
    entries.append((279, 4, len(offsets), strips_at + 4 * len(offsets) if many else strip))
    entries.append((284, 3, 1, planar))
    if count == 4:
        entries.append((338, 3, 1, 2))
    body = struct.pack(f"{byte_order}H", len(entries))
    for tag, kind, number, value in entries:
        short = struct.pack(f"{byte_order}HH", value, 0) if kind == 3 and number == 1 else None
        body += struct.pack(f"{byte_order}HHI", tag, kind, number) + (short or struct.pack(f"{byte_order}I", value))
    tables = struct.pack(f"{byte_order}{count}H", *[16] * count)
    tables += struct.pack(f"{byte_order}{len(offsets)}I", *offsets)
    tables += struct.pack(f"{byte_order}{len(offsets)}I", *[strip] * len(offsets))
    head = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(f"{byte_order}I", 8 + len(data) + len(tables))
    path.write_bytes(head + data + tables + body + b"\0\0\0\0")
    return path


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("high", [1, 255, 65535])
@pytest.mark.parametrize("count", [3, 4])
def test_channels__sixteen_bits_of_color_in_tiff(tmp_path: Path, byte_order: str, high: int, count: int) -> None:
    samples = np.repeat(np.where(INSIDE, high, 0)[:, :, None], count, 2)
    if count == 4:
        samples[:, :, 3] = 65535
    check_disc(tiff16(tmp_path / "mask.tif", samples, byte_order))


def test_channels__tiff_that_pillow_misreads(tmp_path: Path) -> None:
    samples = np.repeat(np.where(INSIDE, 65535, 0)[:, :, None], 3, 2)
    with pytest.raises(MaskFileError, match="16-bit samples in a plane for each channel; save it"):
        read_mask(tiff16(tmp_path / "planar.tif", samples, planar=2), SIZE)
    check_disc(tiff16(tmp_path / "white-is-zero.tif", 65535 - samples[:, :, :1], photometric=0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("opacity", [0, 1, 128, 255])
def test_channels__opacity_that_is_the_same_everywhere_says_nothing(tmp_path: Path, suffix: str, opacity: int) -> None:
    for high in (1, 255):
        colors = np.repeat(np.where(INSIDE, high, 0)[:, :, None], 4, 2).astype(np.uint8)
        colors[:, :, 3] = opacity
        check_disc(save(tmp_path / f"mask{suffix}", colors))
    gray = np.dstack([DISC, np.full_like(DISC, opacity)])
    Image.fromarray(gray, "LA").save(tmp_path / f"la{suffix}")
    check_disc(tmp_path / f"la{suffix}")


def bmp32(path: Path, rgba: np.ndarray, *, bit_fields: bool) -> Path:
    """Write a 32-bit BMP file: with bit fields that name the fourth byte opacity, or as plain 32 bits."""
    height, width = rgba.shape[:2]
    data = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    size = 108 if bit_fields else 40
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, 32, 3 if bit_fields else 0, len(data), 0, 0, 0, 0)
    if bit_fields:
        header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + size + len(data), 0, 0, 14 + size) + header + data)
    return path


@pytest.mark.parametrize("bit_fields", [True, False])
@pytest.mark.parametrize("opacity", [0, 255])
def test_channels__bmp_of_32_bits(tmp_path: Path, bit_fields: bool, opacity: int) -> None:
    rgba = np.repeat(DISC[:, :, None], 4, 2)
    rgba[:, :, 3] = opacity
    check_disc(bmp32(tmp_path / "mask.bmp", rgba, bit_fields=bit_fields))
    rgba[:, :, :3], rgba[:, :, 3] = opacity, DISC  # the mask is the fourth byte
    check_disc(bmp32(tmp_path / "mask.bmp", rgba, bit_fields=bit_fields))


def test_channels__a_marked_color_is_transparent_in_every_mode(tmp_path: Path) -> None:
    """One picture, stored in five ways: the same mask."""
    black_on_white = np.where(INSIDE, 0, 255).astype(np.uint8)
    rgb = np.repeat(black_on_white[:, :, None], 3, 2)
    ways: dict[str, Any] = {
        "rgba": (np.dstack([rgb, DISC]), {}),
        "rgb": (rgb, {"transparency": (255, 255, 255)}),
        "gray": (black_on_white, {"transparency": 255}),
        "deep": (black_on_white.astype(np.uint16) * 257, {"transparency": 65535}),
        "bit": (black_on_white > 0, {"transparency": 1}),
    }
    for name, (array, options) in ways.items():
        found = read_mask(save(tmp_path / f"{name}.png", array, **options), SIZE)
        np.testing.assert_array_equal(found.mask, DISC, err_msg=name)
        assert found.note == "opacity"
    palette = Image.fromarray(INSIDE.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png", SIZE).mask, DISC)
    samples = np.where(INSIDE, 0, 3).reshape(64, 16, 4) @ np.array([64, 16, 4, 1])  # four pixels a byte
    two_bits = png(samples[:, :, None], 0, 2, (b"tRNS", struct.pack(">H", 3)), width=64)
    (tmp_path / "two-bits.png").write_bytes(two_bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "two-bits.png", SIZE).mask, DISC)


def test_channels__a_bright_hole_in_an_opaque_frame_is_refused(tmp_path: Path) -> None:
    rgb = np.repeat(DISC[:, :, None], 3, 2)
    path = save(tmp_path / "mask.png", np.dstack([rgb, 255 - DISC]))
    with pytest.raises(MaskFileError, match="transparent where its colors are brightest.*save it without"):
        read_mask(path, SIZE)


def test_channels__what_would_come_out_as_one_color_is_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(INSIDE.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0] * 256)
    picture.save(tmp_path / "palette.png")
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:, :, 3], inks[:, :, 0] = 255, DISC
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.tif")
    save(tmp_path / "small.tif", np.where(INSIDE, np.float32(1e-7), np.float32(0)))
    for name in ("palette.png", "inks.tif", "small.tif"):
        with pytest.raises(MaskFileError, match="several values, but its .* one color; expected 0"):
            read_mask(tmp_path / name, SIZE)


def test_channels__premultiplied_grey() -> None:
    picture = Image.fromarray(np.dstack([DISC, np.full_like(DISC, 255)]), "LA").convert("La")
    np.testing.assert_array_equal(to_gray(picture)[0], DISC)


@pytest.mark.parametrize("colors", [1, 3])
def test_channels__a_mask_in_a_channel_that_is_not_read_is_refused(colors: int) -> None:
    samples = np.zeros((64, 64, colors + 1), np.uint8)
    samples[:, :, colors] = DISC
    tags = {258: (8,) * (colors + 1), 262: (1 if colors == 1 else 2,), 277: (colors + 1,), 338: (0,)}
    with pytest.raises(MaskFileError, match="a channel beside that is not read"):
        read_mask(tiff(tags, samples.tobytes()), SIZE)


def test_channels__bytes_below_0_are_refused() -> None:
    with pytest.raises(MaskFileError, match="numbers below 0"):
        read_mask(
            tiff({258: (8,), 262: (1,), 277: (1,), 339: (2,)}, np.where(INSIDE, -1, 0).astype("i1").tobytes()), SIZE
        )


@pytest.mark.parametrize("kind", ["P6", "P3"])
@pytest.mark.parametrize("highest", [256, 1000, 65535])
def test_channels__a_ppm_of_wide_samples(kind: str, highest: int) -> None:
    for high in (1, 255, highest):
        samples = np.repeat(np.where(INSIDE, high, 0)[:, :, None], 3, 2)
        data = samples.astype(">u2").tobytes() if kind == "P6" else " ".join(map(str, samples.ravel())).encode()
        found = read_mask(f"{kind}\n64 64\n{highest}\n".encode() + data, SIZE)
        np.testing.assert_array_equal(found.mask, DISC)
        assert found.note is None
    samples[:5, :5, 0] += 1
    data = samples.astype(">u2").tobytes() if kind == "P6" else " ".join(map(str, samples.ravel())).encode()
    with pytest.raises(MaskFileError, match=r"samples of color in a PPM file|too large for this mode"):
        read_mask(f"{kind}\n64 64\n{highest}\n".encode() + data, SIZE)
