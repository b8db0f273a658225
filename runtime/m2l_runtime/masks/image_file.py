"""Decode image files: five formats, with limits, and one kind of error for everything else."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Final

from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import PictureFileError

FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""Decoders that may run. Pillow has more, and some of them start other programs (EPS)."""

MAX_PIXELS: Final = 89_478_485
"""Pillow's limit for decompression bombs; the largest ISIC image has a third of it."""

MAX_FILE_BYTES: Final = 1 << 29


def read_bytes(path: Path) -> bytes:
    """Read a plain file.

    Raises:
        PictureFileError: it cannot be read, is not a plain file, or has more than `MAX_FILE_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PictureFileError("is not a plain file; expected a picture")
        if status.st_size > MAX_FILE_BYTES:
            raise PictureFileError(f"has {status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, PictureFileError):
            raise
        raise PictureFileError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def decode(content: bytes, *, apply_exif: bool = True) -> PillowImage.Image:
    """Decode the image in `content`, and turn it as its EXIF orientation says unless `apply_exif` is off.

    Raises:
        PictureFileError: of an unknown format, truncated, with several frames, or too large.
    """
    if not content:
        raise PictureFileError("is empty (0 bytes); expected a picture")
    try:
        picture = PillowImage.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise PictureFileError("is not a PNG, JPEG, BMP, TIFF or WebP picture") from None
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning):
        raise PictureFileError(f"is too large; at most {MAX_PIXELS:,} pixels are decoded") from None
    except MemoryError:
        raise PictureFileError(f"does not fit in memory: a file of {len(content):,} bytes") from None
    except Exception as error:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        raise PictureFileError(f"cannot be decoded: {printable(str(error))}") from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureFileError(f"is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")
    try:
        frames = getattr(picture, "n_frames", 1)
        if frames != 1:
            raise PictureFileError(f"holds {frames} pictures; expected one")
        picture.load()
        upright = ImageOps.exif_transpose(picture) if apply_exif else picture
    except PictureFileError:
        raise
    except MemoryError:
        raise PictureFileError(f"does not fit in memory: {width} x {height} pixels") from None
    except Exception as error:  # noqa: BLE001 - as above
        raise PictureFileError(f"is damaged or truncated: {printable(str(error))}") from None
    upright.format = picture.format
    return upright
