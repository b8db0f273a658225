"""Read photographs as RGB pictures, and pairs of photograph and mask as two arrays of one size."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import PictureFileError
from m2l_runtime.masks import mask_file
from m2l_runtime.masks.image_file import decode, read_bytes
from m2l_runtime.types import Image, Mask
from m2l_train.data.pairing import Pair

MAX_ASPECT_DIFFERENCE: Final = 0.01
"""Relative difference of the aspects of a mask and its photograph, above which they cannot belong together."""


class PairError(PictureFileError):
    """Report a pair that cannot be used; the message begins with the file's name."""


@dataclass(frozen=True)
class DecodedPair:
    """Hold a photograph and its mask, decoded and resized to one size."""

    mask: Mask
    """uint8 (H, W), 0 background, 255 lesion, greys on edges."""
    image: Image
    """uint8 (H, W, 3) RGB."""
    original_size: tuple[int, int]
    """Height, width in pixels of the photograph."""
    mask_size: tuple[int, int]
    """Height, width in pixels of the mask's file."""
    lesion_fraction: float
    """Of the mask's pixels, before it was resized."""
    notes: tuple[str, ...]
    """What is legal but unusual: empty, full, grey, CMYK, turned, ..."""


def read_pair(pair: Pair, side: int, *, mask_is_left: bool = True) -> DecodedPair:
    """Decode a pair and squash both to (side, side), bicubic with antialiasing, straight from their own size.

    Args:
        pair: the files; a combined picture is cut in halves first.
        side: in pixels.
        mask_is_left: of a combined picture.

    Raises:
        PairError: a file cannot be read, the mask is none, or their aspects differ.
    """
    try:
        return _read_pair(pair, side, mask_is_left)
    except MemoryError:
        raise PairError(f"{printable(pair.image)}: does not fit in memory, or its mask does not") from None


def with_margins(arrays: DecodedPair, margin: int) -> DecodedPair:
    """Pad mask and image by `margin` pixels on each side, reflected at the first and last row and column."""
    if not margin:
        return arrays
    around = ((margin, margin), (margin, margin))
    return replace(
        arrays,
        mask=np.pad(arrays.mask, around, mode="reflect"),
        image=np.pad(arrays.image, (*around, (0, 0)), mode="reflect"),
    )


def _read_pair(pair: Pair, side: int, mask_is_left: bool) -> DecodedPair:
    if pair.is_combined:
        picture, notes = _rgb(_open(pair.image), pair.image)
        width, height = picture.width // 2, picture.height
        if width < 1:
            raise PairError(f"{printable(pair.image)}: is 1 pixel wide; expected two pictures side by side")
        left, right = picture.crop((0, 0, width, height)), picture.crop((width, 0, 2 * width, height))
        mask_picture, image = (left, right) if mask_is_left else (right, left)
        mask_picture.format = "JPEG"  # its edges may have noise whatever the file is now
    else:
        mask_picture = _open(pair.mask)
        image, notes = _oriented_like(pair.image, mask_picture.size)
    try:
        gray, note = mask_file.to_gray(mask_picture)
    except PictureFileError as error:
        half = f" (its {'left' if mask_is_left else 'right'} half, the mask)" if pair.is_combined else ""
        raise PairError(f"{printable(pair.mask)}{half}: {error}") from None
    height, width = gray.shape
    if not _fits(image.size, (width, height)):
        raise PairError(
            f"{printable(pair.mask)}: is {width} x {height} pixels, its photograph {image.width} x {image.height}; "
            "expected the same size, or at least the same aspect"
        )
    if (image.width, image.height) != (width, height):
        notes = (*notes, "sizes differ")
    return DecodedPair(
        mask=mask_file.resize(gray, (side, side)),
        image=np.array(image.resize((side, side), PillowImage.Resampling.BICUBIC)),
        original_size=(image.height, image.width),
        mask_size=(height, width),
        lesion_fraction=float((gray >= 128).mean()),
        notes=notes if note is None else (*notes, note),
    )


def _oriented_like(path: Path, mask_size: tuple[int, int]) -> tuple[PillowImage.Image, tuple[str, ...]]:
    """Return (the photograph as RGB, rotated as its EXIF orientation says; notes).

    Unless only as it is stored does it fit the mask: some annotation tools do not heed EXIF.
    """
    picture = _open(path)
    if not _fits(picture.size, mask_size) and _fits(picture.size[::-1], mask_size):
        stored = _open(path, apply_exif=False)
        if stored.size != picture.size:
            image, notes = _rgb(stored, path)
            return image, (*notes, "EXIF orientation ignored, as its mask does")
    return _rgb(picture, path)


def _fits(size: tuple[int, int], mask_size: tuple[int, int]) -> bool:
    return abs(size[0] * mask_size[1] / (size[1] * mask_size[0]) - 1) <= MAX_ASPECT_DIFFERENCE


def _open(path: Path, *, apply_exif: bool = True) -> PillowImage.Image:
    try:
        return decode(read_bytes(path), apply_exif=apply_exif)
    except PictureFileError as error:
        raise PairError(f"{printable(path)}: {error}") from None


def _rgb(picture: PillowImage.Image, path: str | os.PathLike[str]) -> tuple[PillowImage.Image, tuple[str, ...]]:
    """Return (the picture as RGB, notes)."""
    mode = picture.mode
    if mode == "RGB":
        return picture, ()
    if mode in ("1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA", "RGBX"):
        note = {"1": "greyscale", "L": "greyscale", "LA": "greyscale", "CMYK": "CMYK"}.get(mode, mode)
        return picture.convert("RGB"), (note,)
    raise PairError(f"{printable(path)}: has the colour mode {mode}; expected an 8-bit colour photograph")
