"""Read mask files and resize them to the model's size. Training reads masks with it too.

The rule, on the samples that a file decodes to (:mod:`m2l_runtime.masks.channels`):

- exactly two colors: the darker becomes 0 and the brighter 255, whatever they were (0/1, 0/255, palette);
- one color: black is an empty mask, anything else a full one (legal, with a note);
- more: kept as greys if the color channels agree within `MAX_CHANNEL_DIFFERENCE` levels, or are shades of one color on
  black, and at most `MAX_GRAY_FRACTION` of the pixels lie in 16..239, as after resampling or JPEG; otherwise it is not
  a mask;
- unless the values are those of class labels (:mod:`m2l_runtime.masks.labels`): 0, 1 and a border of 255 are no mask.

Then it is resized with Pillow's antialiased bicubic filter, as in training.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import MaskFileError, PictureFileError
from m2l_runtime.masks.channels import Samples, mask_samples
from m2l_runtime.masks.image_file import decode_deep, read_bytes
from m2l_runtime.masks.labels import check_is_no_label_map
from m2l_runtime.masks.one_color import shades_of_one_color
from m2l_runtime.masks.row_parts import extremes, row_parts
from m2l_runtime.types import Mask

MAX_CHANNEL_DIFFERENCE: Final = 8
MAX_GRAY_FRACTION: Final = 0.20
BLACK_BELOW: Final = 16
WHITE_FROM: Final = 240
LOSSY_FORMATS: Final = ("JPEG", "WEBP")
"""Formats whose noise can turn one value into several."""


@dataclass(frozen=True)
class MaskFile:
    """Hold a mask read from a file.

    Example:
        >>> from m2l_runtime import DrawnMasks, Shapes
        >>> file = DrawnMasks(Shapes(kinds=("circle",)), 1).read("000000-circle.png", (64, 64))
        >>> file.mask.shape, file.original_size, file.note
        ((64, 64), (256, 256), None)
    """

    mask: Mask
    """uint8 (H, W) at the size asked for, owned by the caller."""
    sha256: str
    """SHA-256 of the file's bytes."""
    original_size: tuple[int, int]
    """Height and width of the image in the file, turned as its EXIF orientation says."""
    original: Mask | None
    """uint8 (H, W) of `original_size`, the mask before it was resized; None unless it was asked for."""
    note: str | None
    """What is unusual about a legal mask, None otherwise: 'empty'; 'full'; 'inverted?' (lesion all along the frame,
    background inside); 'opacity' (its colors alone would say the opposite); 'gray areas'; 'one color' (its shades are
    taken as greys)."""


@check_types()
def read_mask(path: str | os.PathLike[str], image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
    """Read a mask file and resize it to `image_size`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (100, 80), 255).save(f"{folder}/mask.png")
        ...     file = read_mask(f"{folder}/mask.png", (64, 64))
        >>> file.mask.shape, file.original_size, file.note
        ((64, 64), (80, 100), 'full')

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP, GIF or PGM file.
        image_size: height and width in pixels.
        keep_original: also return the mask before it was resized.

    Raises:
        MaskFileError: it cannot be read, is not an image of a known format, is too large, or is not a mask. The message
            begins with the file's name and says what was found and what was expected.
    """
    try:
        return parse_mask(read_bytes(Path(path)), image_size, keep_original=keep_original)
    except PictureFileError as error:
        raise MaskFileError(f"{printable(path)}: {error}") from None
    except MemoryError:
        raise MaskFileError(f"{printable(path)}: does not fit in memory") from None


def parse_mask(content: bytes, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
    """Read a mask from the bytes of a file; see :func:`read_mask`.

    Raises:
        PictureFileError, MaskFileError: as there, without the file's name.
    """
    gray, note = to_gray(*decode_deep(content))
    return MaskFile(
        mask=resize(gray, image_size),
        sha256=hashlib.sha256(content).hexdigest(),
        original_size=(gray.shape[0], gray.shape[1]),
        original=gray if keep_original else None,
        note=note,
    )


def to_gray(picture: PillowImage.Image, low: PillowImage.Image | None = None) -> tuple[Mask, str | None]:
    """Turn an image into a mask of its size, and a note; see the rule at the top of this module.

    Args:
        picture: decoded.
        low: the low bytes of its 16-bit color samples, see :func:`m2l_runtime.masks.image_file.decode_deep`.

    Raises:
        MaskFileError: more colors or greys than a mask has, or class labels.
    """
    channels, is_by_opacity = mask_samples(picture, low)
    gray, note = _to_gray(channels, picture.format)
    return gray, "opacity" if is_by_opacity and note is None else note


def _to_gray(channels: Samples, file_format: str | None) -> tuple[Mask, str | None]:
    """Turn samples into a mask; without a format, dark ones may be noise that was decoded before."""
    is_noisy = file_format in LOSSY_FORMATS
    first = channels[0, 0]
    is_first = _equal(channels, first)
    if is_first.all():
        return (_constant(is_first, 255), "full") if first.any() else (_constant(is_first, 0), "empty")
    row, column = np.unravel_index(int(np.argmin(is_first)), is_first.shape)
    second = channels[row, column]
    if (is_first | _equal(channels, second)).all():
        first_is_lesion = _brightness(first) > _brightness(second)
        mask = np.where(is_first == first_is_lesion, np.uint8(255), np.uint8(0))
        return mask, _looks_inverted(mask)
    unit = 257 if channels.dtype == np.uint16 and int(channels.max()) > 255 else 1  # samples per 8-bit level
    highest, unscaled = extremes(channels)
    difference = round(unscaled / unit)
    if difference > MAX_CHANNEL_DIFFERENCE:
        levels = channels if unit == 1 else _rounded(channels, lambda part: part / unit, channels.shape)
        shades = shades_of_one_color(levels, MAX_CHANNEL_DIFFERENCE, is_noisy=is_noisy)
        if shades is not None:
            gray, note = _to_gray(shades[:, :, None], file_format)
            return gray, note or "one color"
    gray = _rounded(channels, lambda part: part.astype(np.float32).mean(axis=2) / unit, channels.shape[:2])
    middle = float(((gray >= BLACK_BELOW) & (gray < WHITE_FROM)).mean())
    areas = None
    is_dark = int(gray.max()) < BLACK_BELOW
    if difference <= MAX_CHANNEL_DIFFERENCE and not is_noisy and not (is_dark and file_format is None):
        areas = check_is_no_label_map(highest)
    if middle > MAX_GRAY_FRACTION:
        raise MaskFileError(
            f"looks like a photograph: {len(np.unique(gray))} grey levels, {middle * 100:.0f} % of pixels "
            "neither black nor white; expected a mask of black background and white lesion, with greys on at "
            f"most {MAX_GRAY_FRACTION * 100:.0f} % of the pixels"
        )
    if difference > MAX_CHANNEL_DIFFERENCE:
        raise MaskFileError(
            f"is colored: its channels differ by up to {difference} levels; "
            f"expected black, white and greys, within {MAX_CHANNEL_DIFFERENCE} levels, or shades of one color on "
            "black; save the channel that shows the lesion as a greyscale PNG"
        )
    if is_noisy and not is_dark and int(gray.max()) < 128:
        raise MaskFileError(
            f"is dark: its brightest grey is {int(gray.max())} of 255; expected 0 (background) and 255 (lesion), so "
            "brighten it"
        )
    if is_dark:
        return _constant(is_first, 0), "empty"
    return gray, "full" if int(gray.min()) >= WHITE_FROM else _looks_inverted(gray) or areas


def _looks_inverted(mask: Mask) -> str | None:
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return "inverted?" if min(int(edge.min()) for edge in edges) >= WHITE_FROM else None


def resize(gray: Mask, image_size: tuple[int, int]) -> Mask:
    """Resize a mask to `image_size` (height, width): bicubic with antialiasing, the frame squashed to fit."""
    height, width = image_size
    if gray.shape == (height, width):
        return gray
    picture = PillowImage.fromarray(gray).resize((width, height), PillowImage.Resampling.BICUBIC)
    return np.array(picture)


def _equal(channels: Samples, color: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = channels[:, :, 0] == color[0]
    for channel in range(1, len(color)):
        equal &= channels[:, :, channel] == color[channel]
    return equal


def _rounded(
    channels: Samples, compute: Callable[[Samples], npt.NDArray[np.floating[Any]]], shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """Compute levels from samples by parts, rounded."""
    levels = np.empty(shape, np.uint8)
    for rows in row_parts(channels):
        levels[rows] = np.round(compute(channels[rows]))
    return levels


def _constant(like: npt.NDArray[np.bool_], value: int) -> Mask:
    return np.full(like.shape, value, np.uint8)


def _brightness(color: npt.NDArray[np.generic]) -> float:
    """Compute the ITU-R BT.601 luma, as Pillow's conversion to grey does."""
    weights = (0.299, 0.587, 0.114) if len(color) == 3 else (1.0,)
    return sum(float(c) * w for c, w in zip(color, weights, strict=True))
