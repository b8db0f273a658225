"""Read the lesions of masks, each with its place and size, to learn shapes from."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import plural, printable, stem
from m2l_runtime.errors import InputError, MaskFileError
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.output.encoding import encode_gray_mask
from m2l_runtime.types import Mask

LESION_FROM: Final = 128
"""Levels of a mask from here on are lesion."""


@dataclass(frozen=True)
class Pose:
    """Hold the place and size of a lesion, in pixels of a square frame."""

    y: float
    """Center of mass, from the top."""
    x: float
    radius: float
    """Radius of the disc of the same area."""


@dataclass(frozen=True)
class Lesion:
    """Hold a mask that shows a lesion and some background."""

    label: str
    """From its file's name, for the names of masks made from it: ASCII letters, digits, - and _."""
    png: bytes
    """The mask at `side` pixels, compressed: a few kilobytes, so that thousands fit in memory."""
    side: int
    """In pixels."""
    pose: Pose
    touches_frame: bool

    def mask(self) -> Mask:
        """Decode the mask: uint8 (side, side), greys on edges."""
        with PillowImage.open(io.BytesIO(self.png)) as picture:
            return np.array(picture)


@dataclass(frozen=True)
class Lesions:
    """Hold the usable masks of a set, at one size."""

    side: int
    lesions: tuple[Lesion, ...]
    left_out: tuple[str, ...]
    """Messages about masks that cannot be used: empty, full, unreadable. Each begins with the file's name."""


def read_lesions(
    masks: MaskSet, side: int, *, max_count: int | None = None, on_mask: Callable[[], None] = lambda: None
) -> Lesions:
    """Read the lesions of a set of masks, squashed to (side, side).

    Args:
        masks: where they come from.
        side: in pixels.
        max_count: read so many, evenly spaced by name, if there are more.
        on_mask: called after each mask.

    Raises:
        InputError: none of them can be used.
    """
    names = list(masks.names)
    if max_count is not None and len(names) > max_count:
        names = [names[place] for place in np.linspace(0, len(names) - 1, max_count).astype(int)]
    lesions: list[Lesion] = []
    left_out: list[str] = []
    with ThreadPoolExecutor(usable_cpus(), "m2l-worker") as pool:
        for one in pool.map(lambda name: _read(masks, name, side), names):
            if isinstance(one, str):
                left_out.append(one)
            else:
                lesions.append(one)
            on_mask()
    if not lesions:
        where = "there are no masks" if masks.base is None else f"{printable(masks.base)} has no mask to go by"
        more = f", and {plural(len(left_out) - 1, 'more mask')}" if len(left_out) > 1 else ""
        first = f" (got {left_out[0]}{more})" if left_out else ""
        raise InputError(f"{where}; expected masks of a lesion with some background{first}")
    return Lesions(side, tuple(lesions), tuple(left_out))


def _read(masks: MaskSet, name: str, side: int) -> Lesion | str:
    try:
        file = masks.read(name, (side, side))
    except MaskFileError as error:
        return str(error)
    inside = file.mask >= LESION_FROM
    if inside.all() or not inside.any():
        return f"{printable(name)}: is {'all lesion' if inside.any() else 'empty'}"
    return Lesion(_word(stem(name)), encode_gray_mask(file.mask), side, pose(inside), touches_frame(inside))


def pose(inside: npt.NDArray[np.bool_]) -> Pose:
    """Measure the place and size of the lesion in a mask (H, W), which must not be empty."""
    area = float(inside.sum())
    y = float(inside.sum(1) @ (np.arange(inside.shape[0]) + 0.5)) / area
    x = float(inside.sum(0) @ (np.arange(inside.shape[1]) + 0.5)) / area
    return Pose(y, x, float(np.sqrt(area / np.pi)))


def touches_frame(inside: npt.NDArray[np.bool_], margin: int = 1) -> bool:
    """Tell whether a pixel of the lesion (H, W) is one of the outermost `margin` along the frame."""
    within = inside[margin:-margin, margin:-margin]
    return bool(np.count_nonzero(within) < np.count_nonzero(inside))


def _word(name: str) -> str:
    """Write the last part of a name in characters that every file system has."""
    base = name.rpartition("/")[2]
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in base)[:80] or "mask"
