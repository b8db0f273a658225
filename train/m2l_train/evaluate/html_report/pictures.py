"""Encode pictures for the page, and hold galleries of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from scipy.ndimage import binary_dilation, binary_erosion

from m2l_runtime.types import Image, Mask

MAX_SIDE: Final = 320
"""Pictures are shrunk to this side: 200 of them stay under 15 MB."""
QUALITY: Final = 88

MASK_COLOR: Final = (255, 255, 255)
FOUND_COLOR: Final = (255, 196, 0)
"""Of outlines: that of the mask, and that of the lesion found."""


@dataclass(frozen=True)
class Picture:
    """Hold one picture of the page, or the words that stand in its place."""

    label: str
    """Below it."""
    alt: str
    src: str
    """A data: URI; empty: there is none, and `label` says why."""
    width: int
    height: int


@dataclass(frozen=True)
class PictureRow:
    """Hold pictures that belong together."""

    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Hold a gallery: rows of pictures, or words that say why there are none."""

    title: str
    intro: str
    rows: tuple[PictureRow, ...] = ()
    missing: str = ""


def photograph(image: Image, label: str, alt: str) -> Picture:
    """Encode an image (S, S, 3) as JPEG."""
    picture = _shrunk(PillowImage.fromarray(image))
    return _encoded(picture, "JPEG", "image/jpeg", label, alt)


def mask_picture(mask: Mask, label: str, alt: str) -> Picture:
    """Encode a mask (S, S) as PNG."""
    return _encoded(_shrunk(PillowImage.fromarray(mask)), "PNG", "image/png", label, alt)


def no_picture(words: str) -> Picture:
    """Put words where a picture could not be read."""
    return Picture(words, words, "", 0, 0)


def outlined(image: Image, *outlines: tuple[npt.NDArray[np.bool_], tuple[int, int, int]]) -> Image:
    """Draw outlines of regions (S, S) in their colors over a copy of an image (S, S, 3), two pixels wide at 256.

    Example:
        >>> region = np.zeros((8, 8), bool)
        >>> region[2:6, 2:6] = True
        >>> drawn = outlined(np.zeros((8, 8, 3), np.uint8), (region, (255, 0, 0)))
        >>> int((drawn[..., 0] == 255).sum())
        12
    """
    drawn = image.copy()
    rounds = max(1, len(image) // 128)
    for region, color in outlines:
        edge = region & ~binary_erosion(region, border_value=1)
        if rounds > 1:
            edge = binary_dilation(edge, iterations=rounds - 1)
        drawn[edge] = color
    return drawn


def _shrunk(picture: PillowImage.Image) -> PillowImage.Image:
    side = max(picture.size)
    if side <= MAX_SIDE:
        return picture
    size = (round(picture.width * MAX_SIDE / side), round(picture.height * MAX_SIDE / side))
    return picture.resize(size, PillowImage.Resampling.LANCZOS)


def _encoded(picture: PillowImage.Image, file_format: str, media_type: str, label: str, alt: str) -> Picture:
    file = io.BytesIO()
    picture.save(file, file_format, quality=QUALITY, optimize=True)
    content = base64.b64encode(file.getvalue()).decode()
    return Picture(label, alt, f"data:{media_type};base64,{content}", picture.width, picture.height)
