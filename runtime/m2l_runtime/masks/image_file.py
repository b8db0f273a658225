"""Decode image files: seven formats, with limits, and one kind of error for everything else."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime._utils.placeholder import describe_placeholder
from m2l_runtime._utils.reading import open_input, read_at_most, read_input, reason
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import PictureFileError
from m2l_runtime.masks import tiff_tags
from m2l_runtime.masks.complete import check_rows, check_tiles

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what is logged and nobody handles

FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Decoders that may run. Pillow has more, and some of them start other programs (EPS)."""

MAX_PIXELS: Final = 40_000_000
"""What is decoded; the largest ISIC image has 30 million. A few hundred bytes can ask for as many pixels as there are,
and reading a mask takes some 20 bytes for each."""

MAX_SCANS: Final = 100
"""Passes over a JPEG picture; encoders write about ten. Each takes as long as decoding it once, in as little as 60
bytes."""

MAX_FILE_BYTES: Final = 1 << 29

_MAX_PREVIEWS: Final = 7
"""Pictures behind the first that are looked at; each step through a TIFF file costs time."""

_PREVIEW_SIDE: Final = 32
_PREVIEW_DIFFERENCE: Final = 8.0
"""Mean difference in levels, at so many pixels a side, up to which a picture is a preview of another."""

_PREVIEW_CORRELATION: Final = 0.8
"""Of the same squares. The lesions of two masks may be small, so that hardly anything differs."""

_NEW_SUBFILE_TYPE: Final = 254
_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
_PLANAR_CONFIGURATION: Final = 284

_LOW_NATIVE: Final = "16B" if sys.byteorder == "little" else "16L"
_LOW_BYTES: Final = {
    f"{bands};{high}": f"{bands};{low}"
    for bands in ("RGB", "RGBX", "RGBA")
    for high, low in (("16B", "16L"), ("16L", "16B"), ("16N", _LOW_NATIVE))
} | {"LA;16B": "RGBA"}
"""Pillow's raw modes that drop the low bytes of samples, and those that take them for the high ones."""

_DEEP: Final = re.compile(r"(RGBa|RGBaX|CMYK|LA);16[BLN]")
"""Raw modes that drop the low bytes of samples and have no counterpart."""

_LEVELS_PER_UNIT: Final = {"L;2": 85, "L;4": 17}


def read_bytes(path: Path) -> bytes:
    """Read a plain file.

    Raises:
        PictureFileError: it cannot be read, is not a plain file, or has more than `MAX_FILE_BYTES`.
    """
    try:
        return read_input(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise PictureFileError(f"cannot be read: {printable(getattr(error, 'strerror', None) or str(error))}") from None


@contextlib.contextmanager
def open_header(path: Path) -> Iterator[PillowImage.Image]:
    """Open a picture to look at its size and what it says of itself; it is not decoded.

    Raises:
        Exception: of any class, as decoders raise whatever a damaged file leads them to.
    """
    with open_input(path) as file:
        start = file.read(4)
        if start.startswith((b"II", b"MM")):
            content = start + read_at_most(file, MAX_FILE_BYTES)
            _check_structure(content)
            with PillowImage.open(io.BytesIO(content), formats=FORMATS) as picture:
                yield picture
            return
        file.seek(0)
        with PillowImage.open(file, formats=FORMATS) as picture:
            yield picture


def decode(content: bytes, *, apply_exif: bool = True) -> PillowImage.Image:
    """Decode the image in `content`, and turn it as its EXIF orientation says unless `apply_exif` is off.

    Of 16-bit color samples the high bytes are kept, which is right for photographs; :func:`decode_deep` has all.

    Raises:
        PictureFileError: of an unknown format, truncated, too large, or with pictures that are no previews of the
            first.
    """
    return _decode(content, apply_exif=apply_exif, with_low_bytes=False)[0]


def decode_deep(content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[PillowImage.Image, ...]:
    """Decode as :func:`decode` does; of 16-bit color samples return the low bytes as a second picture.

    Pillow has no mode for such samples and keeps one byte of each, by which a mask of 0 and 1, or of 0 and 255, comes
    out empty.

    Args:
        content: the file.
        max_pixels: pixels that are decoded, at most `MAX_PIXELS`.

    Raises:
        PictureFileError: as there, or the low bytes cannot be had.
    """
    return _decode(content, apply_exif=True, with_low_bytes=True, max_pixels=max_pixels)


def _decode(
    content: bytes, *, apply_exif: bool, with_low_bytes: bool, max_pixels: int = MAX_PIXELS
) -> tuple[PillowImage.Image, ...]:
    picture = _open(content, max_pixels)
    width, height = picture.size
    if width * height > max_pixels:
        raise PictureFileError(
            f"is too large: {width:,} x {height:,} pixels; at most {max_pixels:,} are decoded, for want of memory; "
            "make it smaller"
        )
    low = fourth = None
    try:
        _check_others_are_previews(content, picture)
        _check_is_decoded_right(picture)
        check_tiles(picture)
        if with_low_bytes:
            picture = _wide_ppm(content, picture)
            low, fourth = _low_bytes(content, _rawmode(picture)), _fourth_bytes(content, picture)
        levels = _LEVELS_PER_UNIT.get(_rawmode(picture), 1)
        picture.load()
        check_rows(content, picture)
        if fourth is not None and _is_one_color(picture):
            picture.putalpha(fourth)
        if levels > 1 and "transparency" in picture.info:  # it is told in the file's units
            picture.info["transparency"] *= levels
        file_format = "JPEG" if picture.format == "MPO" else picture.format
        picture = _white_is_high(picture)
        if apply_exif:
            _check_exif(picture)
            picture, low = turned(picture), low and turned(low)
    except PictureFileError:
        raise
    except MemoryError:
        raise PictureFileError(f"does not fit in memory: {width} x {height} pixels") from None
    except Exception as error:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        if is_out_of_memory(error):
            raise PictureFileError(f"does not fit in memory: {width} x {height} pixels") from None
        raise PictureFileError(f"is damaged or truncated: {reason(error)}") from None
    picture.format = file_format
    return (picture,) if low is None else (picture, low)


def turned(picture: PillowImage.Image) -> PillowImage.Image:
    """Turn a picture as its EXIF orientation says, and keep the tags of a TIFF file, which Pillow drops.

    Example:
        >>> turned(PillowImage.new("L", (3, 2))).size
        (3, 2)
    """
    upright = ImageOps.exif_transpose(picture)
    if hasattr(picture, "tag_v2"):
        upright.tag_v2 = picture.tag_v2  # type: ignore[attr-defined]
    return upright


def _open(content: bytes, max_pixels: int = MAX_PIXELS) -> PillowImage.Image:
    """Read the header of a picture."""
    if not content:
        raise PictureFileError("is empty (0 bytes); expected a picture")
    try:
        _check_structure(content)
        return PillowImage.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        placeholder = describe_placeholder(content)
        if placeholder is not None:
            raise PictureFileError(f"is {placeholder}; expected a picture") from None
        if content.startswith(tiff_tags.PREFIXES):
            raise PictureFileError(
                "is a TIFF picture of a kind that is not read, or a damaged one; save it with 8 or 16 bits, as PNG"
            ) from None
        raise PictureFileError("is not a PNG, JPEG, BMP, TIFF, WebP, GIF or PGM picture") from None
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning):
        raise PictureFileError(
            f"is too large; at most {max_pixels:,} pixels are decoded, for want of memory; make it smaller"
        ) from None
    except MemoryError:
        raise PictureFileError(f"does not fit in memory: a file of {len(content):,} bytes") from None
    except Exception as error:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        raise PictureFileError(f"cannot be decoded: {reason(error)}") from None


def _check_structure(content: bytes) -> None:
    """Refuse what would take many times the memory or the time that the size of the file suggests.

    Raises:
        ValueError: the tags of a TIFF file overlap, its tiles are huge, or a JPEG file has scans without end.
    """
    if content.startswith(tiff_tags.PREFIXES):
        _silence_libtiff()
        tiff_tags.check_tags(content, MAX_PIXELS)
    elif content.startswith(b"\xff\xd8"):
        scans = content.count(b"\xff\xda")  # among the samples, a byte of 255 is followed by 0
        if scans > MAX_SCANS:
            raise ValueError(f"it is a JPEG picture in {scans:,} scans; at most {MAX_SCANS} are read")
        tiff_tags.check_tags(_exif_of_jpeg(content), MAX_PIXELS)


def _exif_of_jpeg(content: bytes) -> bytes:
    """Return the EXIF data of a JPEG file, which Pillow puts together from its segments and reads when it opens it."""
    exif, at = b"", 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != b"\xda":
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + size]
        if content[at + 1] == 0xE1 and segment.startswith(b"Exif\x00\x00"):
            exif += segment[6:]
        at += 2 + size
    return exif


def _check_exif(picture: PillowImage.Image) -> None:
    """Refuse EXIF data whose tags overlap, as of a TIFF file."""
    exif = picture.info.get("exif")
    if isinstance(exif, bytes):
        tiff_tags.check_tags(exif.removeprefix(b"Exif\x00\x00"), MAX_PIXELS)


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing what Pillow raises anyway."""
    import ctypes

    from PIL import _imaging

    with contextlib.suppress(OSError, AttributeError):  # where it is built otherwise, it goes on printing
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            function = getattr(library, name)
            function.restype = ctypes.c_void_p
            function(None)


def _rawmode(picture: PillowImage.Image) -> str:
    """Return how the samples lie in the file, in Pillow's words; empty where a decoder has no such setting."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0].args
    first = arguments[0] if isinstance(arguments, tuple | list) and arguments else arguments
    return first if isinstance(first, str) else ""


def _low_bytes(content: bytes, rawmode: str) -> PillowImage.Image | None:
    """Decode the low bytes of 16-bit color samples as RGB or RGBA; None if there are no such samples."""
    if _DEEP.fullmatch(rawmode) and rawmode not in _LOW_BYTES:
        raise PictureFileError("has 16-bit samples of ink or premultiplied colors; save it as a greyscale PNG")
    if rawmode not in _LOW_BYTES:
        return None
    low = _LOW_BYTES[rawmode]
    picture = _with_rawmode(_open(content), low)
    if low == "RGBA":  # bytes of L and of A, high and low
        _, of_gray, _, of_alpha = picture.split()
        turned = PillowImage.merge("RGBA", (of_gray, of_gray, of_gray, of_alpha))
        turned.info = picture.info
        return turned
    return picture


def _wide_ppm(content: bytes, picture: PillowImage.Image) -> PillowImage.Image:
    """Decode color samples above 255 of a PPM file as greys, which they must be; other pictures are returned.

    Pillow scales them to 8 bits, by which 0 and 1 become one. Of greys it keeps all, so it is told that the three
    samples of a pixel are three pixels.

    Raises:
        PictureFileError: they are colors.
    """
    tiles = getattr(picture, "tile", None)
    if picture.format != "PPM" or picture.mode != "RGB" or not tiles:
        return picture
    width, height = picture.size
    highest = tiles[0].args[-1] if isinstance(tiles[0].args, tuple) else 255
    if highest < 256:
        return picture
    wide = _open(content)
    wide._mode, wide._size = "I", (3 * width, height)
    wide.tile = [tiles[0]._replace(extents=(0, 0, 3 * width, height), args=("I", highest))]  # type: ignore[attr-defined]
    samples = np.asarray(wide).reshape(height, width, 3)
    if (samples[:, :, :1] != samples).any():
        raise PictureFileError("has 16-bit samples of color in a PPM file; save it as a greyscale PNG")
    gray = PillowImage.fromarray(samples[:, :, 0].astype(np.uint16))
    gray.format = picture.format
    return gray


def _fourth_bytes(content: bytes, picture: PillowImage.Image) -> PillowImage.Image | None:
    """Return the fourth byte of each pixel of a 32-bit BMP file, which Pillow drops; None of other files."""
    if picture.format != "BMP" or _rawmode(picture) != "BGRX":
        return None
    return _with_rawmode(_open(content), "XBGR").getchannel("R")


def _with_rawmode(picture: PillowImage.Image, rawmode: str) -> PillowImage.Image:
    """Decode with the samples taken otherwise."""
    picture.tile = [  # type: ignore[attr-defined]
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))
        for tile in picture.tile  # type: ignore[attr-defined]
    ]
    picture.load()
    return picture


def _is_one_color(picture: PillowImage.Image) -> bool:
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]


def _check_is_decoded_right(picture: PillowImage.Image) -> None:
    """Refuse TIFF files whose samples Pillow misreads without a word.

    Raises:
        PictureFileError: 16-bit colors in a plane each, or 8-bit numbers below 0.
    """
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return
    bits = tags.get(_BITS_PER_SAMPLE, (1,))
    if tags.get(_PLANAR_CONFIGURATION) == 2 and len(bits) > 1 and max(bits) > 8:
        raise PictureFileError(
            f"has {max(bits)}-bit samples in a plane for each channel; save it interleaved, or with 8 bits"
        )


def _white_is_high(picture: PillowImage.Image) -> PillowImage.Image:
    """Turn samples of more than 8 bits whose 0 means white; Pillow does so with fewer bits only.

    Raises:
        PictureFileError: they have no largest number to turn them at.
    """
    tags = getattr(picture, "tag_v2", None)
    if tags is None or tags.get(_PHOTOMETRIC) != 0 or picture.mode in ("1", "L"):
        return picture
    if not picture.mode.startswith("I;16"):
        raise PictureFileError("says that its highest number is black; save it the other way round, or with 8 bits")
    turned = PillowImage.fromarray(65535 - np.asarray(picture).astype(np.uint16))
    turned.info = picture.info
    return turned


def _check_others_are_previews(content: bytes, picture: PillowImage.Image) -> None:
    """Make sure that the file holds one picture, or others that only repeat it: previews of cameras and scanners.

    Raises:
        PictureFileError: one of the others is another picture.
    """
    if picture.format not in ("MPO", "TIFF"):
        if picture.format == "GIF":  # where counting takes a look at each
            count, more = 1 + bool(getattr(picture, "is_animated", False)), " or more"
        else:
            count, more = getattr(picture, "n_frames", 1), ""
        if count != 1:
            raise PictureFileError(f"holds {count} pictures{more}; expected one")
        return
    others = _open(content)
    for number in range(1, _MAX_PREVIEWS + 2):
        try:
            others.seek(number)
        except EOFError:
            return
        if number > _MAX_PREVIEWS or _is_reduced(picture) or not _is_preview(others, content):
            break
    raise PictureFileError(
        f"holds {number + 1} pictures or more, and number {number + 1} is no smaller copy of the first; expected one"
    )


def _is_preview(other: PillowImage.Image, content: bytes) -> bool:
    """Tell whether a picture repeats the first: it says so, or is alike and not larger."""
    first = _open(content)
    if other.width > first.width or other.height > first.height:
        return False
    if _is_reduced(other) or (other.format == "MPO" and other.width * other.height < first.width * first.height):
        return True  # cameras add previews, and maps of depth or light, which are smaller
    side = min(_PREVIEW_SIDE, *other.size)
    small = [_small(each, side) for each in (first, other)]
    if np.abs(small[0] - small[1]).mean() > _PREVIEW_DIFFERENCE:
        return False
    spread = [each.std() for each in small]
    if not all(spread):  # one color, as an empty mask is
        return not any(spread)
    products = (small[0] - small[0].mean()) * (small[1] - small[1].mean())
    return bool(products.mean() >= _PREVIEW_CORRELATION * spread[0] * spread[1])


def _small(picture: PillowImage.Image, side: int) -> npt.NDArray[np.float64]:
    """Return the brightness of a picture in squares, as many a side; of greys as they are in the file."""
    is_gray = picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;16")
    gray = picture if is_gray else picture.convert("RGB").convert("L")
    samples = np.asarray(gray).astype(np.float32)
    levels = PillowImage.fromarray(samples / np.float32(257 if samples.max() > 255 else 1))
    return np.asarray(levels.resize((side, side), PillowImage.Resampling.BOX), np.float64)


def _is_reduced(picture: PillowImage.Image) -> bool:
    """Tell whether a TIFF file says of a picture that it is another one at less resolution."""
    tags = getattr(picture, "tag_v2", None)
    return bool(picture.format == "TIFF" and tags is not None and int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1)
