"""Read photographs as RGB pictures, and pairs of photograph and mask as two arrays of one size."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.sides import both_sides
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import PictureFileError
from m2l_runtime.masks import mask_file
from m2l_runtime.masks.image_file import decode, decode_deep, read_bytes
from m2l_runtime.types import Image, Mask
from m2l_train.data.pairing import Pair

MAX_ASPECT_DIFFERENCE: Final = 0.01
"""Relative difference of the aspects of a mask and its photograph, above which they cannot belong together."""

SEAM: Final = 16
"""Columns of a combined picture's mask into which JPEG may carry color of the photograph: a block of its chroma."""

_MIN_BRIGHTEST: Final = 32
_T = TypeVar("_T")


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


def read_pair(pair: Pair, size: int | tuple[int, int], *, mask_is_left: bool = True) -> DecodedPair:
    """Decode a pair and squash both to one size, bicubic with antialiasing, straight from their own.

    Args:
        pair: the files; a combined picture is cut in halves first.
        size: side in pixels, or (height, width).
        mask_is_left: of a combined picture.

    Raises:
        PairError: a file cannot be read, the mask is none, or their aspects differ.
    """
    try:
        return _read_pair(pair, both_sides(size), mask_is_left)
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


def _read_pair(pair: Pair, size: tuple[int, int], mask_is_left: bool) -> DecodedPair:
    if pair.is_combined:
        picture, *low = _open_deep(pair.image)
        mask_picture, image, notes = _halves(picture, pair.image, mask_is_left)
        low = [_half(each, is_left=mask_is_left) for each in low]
    else:
        mask_picture, *low = _open_deep(pair.mask)
        image, notes = _oriented_like(pair.image, mask_picture.size)
    try:
        gray, note = mask_file.to_gray(mask_picture, *low)
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
        mask=mask_file.resize(gray, size),
        image=np.array(image.resize(size[::-1], PillowImage.Resampling.BICUBIC)),
        original_size=(image.height, image.width),
        mask_size=(height, width),
        lesion_fraction=float((gray >= 128).mean()),
        notes=notes if note is None else (*notes, note),
    )


def _halves(
    picture: PillowImage.Image, path: Path, mask_is_left: bool
) -> tuple[PillowImage.Image, PillowImage.Image, tuple[str, ...]]:
    """Return the half that is the mask, the half that is the photograph as RGB, and notes."""
    if picture.width < 2:
        raise PairError(f"{printable(path)}: is 1 pixel wide; expected two pictures side by side")
    colors, notes = _rgb(picture, path)
    mask = mask_half(colors, is_left=mask_is_left)
    if picture.format in mask_file.LOSSY_FORMATS:
        mask.format = picture.format
    return mask, _half(colors, is_left=not mask_is_left), notes


def _half(picture: PillowImage.Image, *, is_left: bool) -> PillowImage.Image:
    width = picture.width // 2
    return picture.crop((0, 0, width, picture.height) if is_left else (width, 0, 2 * width, picture.height))


def mask_half(picture: PillowImage.Image, *, is_left: bool) -> PillowImage.Image:
    """Cut the mask out of a combined picture, without the color that ran over from the photograph beside it.

    JPEG and lossy WebP keep color for squares of 2x2 pixels, in blocks of 16, but lightness for each pixel: near the
    seam that alone is taken. A picture saved as PNG may have been a JPEG before.
    """
    half = _half(picture, is_left=is_left)
    width = min(SEAM, half.width // 2)
    place = (half.width - width, 0, half.width, half.height) if is_left else (0, 0, width, half.height)
    half = half.copy()
    half.paste(half.crop(place).convert("L").convert(half.mode), place)
    return half


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
    if not apply_exif:
        return _decoded(path, lambda content: decode(content, apply_exif=False))
    picture, *low = _open_deep(path)
    if low and np.asarray(picture).max() < _MIN_BRIGHTEST:
        raise PairError(
            f"{printable(path)}: uses only the low bits of 16: its brightest level is {int(np.asarray(picture).max())} "
            "of 255; expected a photograph of 8 bits: scale it to these"
        )
    return picture


def _open_deep(path: Path) -> tuple[PillowImage.Image, ...]:
    return _decoded(path, decode_deep)


def _decoded(path: Path, decoder: Callable[[bytes], _T]) -> _T:
    try:
        return decoder(read_bytes(path))
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
