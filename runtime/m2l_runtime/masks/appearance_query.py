"""Parse an appearance query, either numbers (`lesion_L=35,skin_a=12`, `ita=tan`) or a reference photograph.

A photograph is squashed to the model's size, as in training, and measured, lesion and skin apart. What cannot be
measured in a photograph (the styles) is sampled from training images that are near in what can. Its mask is given, or
found beside it by the names that ISIC, PH2 and others use: NAME_segmentation, NAME_lesion or NAME_mask, in the same
folder or one named ``masks`` (there NAME itself too).

Without a mask, Otsu's threshold of L* divides lesion and skin: N. Otsu, "A threshold selection method from gray-level
histograms", IEEE Transactions on Systems, Man, and Cybernetics 9(1), 1979.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.text import printable
from m2l_runtime.conditioning.appearance import lab
from m2l_runtime.conditioning.conditions import AppearanceChoice
from m2l_runtime.conditioning.numbers import MEASURED_NAMES, measure_numbers
from m2l_runtime.errors import ArgumentError, InputError, PictureFileError
from m2l_runtime.masks.image_file import decode, read_bytes
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.masks.mask_folder import SUFFIXES
from m2l_runtime.types import NAMES, Image, Mask

MASK_SUFFIXES: Final = ("_segmentation", "_lesion", "_mask")
"""What a mask's name may add to its photograph's, in any letter case."""

MASK_FOLDER: Final = "masks"
MAX_ASPECT_DIFFERENCE: Final = 0.01
"""Largest relative difference of the aspect ratios of a mask and its photograph."""

_LEVELS: Final = 256


def resolve_appearance_query(
    text: str,
    image_size: tuple[int, int],
    mask: str | os.PathLike[str] | None = None,
    names: Sequence[str] = NAMES,
) -> tuple[AppearanceChoice, list[str]]:
    """Turn an appearance query into a choice, and notes that explain it.

    Args:
        text: a photograph's file, or numbers by name.
        image_size: height and width of the model in pixels. Photographs are measured at this size.
        mask: the photograph's mask file; None: look for one.
        names: numbers that the bundle's appearances have; those of them that can be are measured in a photograph.

    Raises:
        InputError: not numbers by name, an unknown name, or a number out of range.
        PictureFileError, MaskFileError: the photograph or its mask cannot be used; the message begins with its name.
    """
    if not os.path.lexists(text) and "=" in text:
        if mask is not None:
            raise ArgumentError("the mask of an appearance goes with a photograph; numbers need none, leave it out")
        return AppearanceChoice.parse(text), []
    return measure_photograph(Path(text), image_size, None if mask is None else Path(mask), names)


def measure_photograph(
    path: Path, image_size: tuple[int, int], mask: Path | None = None, names: Sequence[str] = NAMES
) -> tuple[AppearanceChoice, list[str]]:
    """Measure the appearance of a photograph; see :func:`resolve_appearance_query`."""
    image, size = _read(path, image_size)
    source = _find_mask(path) if mask is None else mask
    if source is None:
        note = (
            f"{printable(path)}: no mask beside it, so lesion and skin are told apart by Otsu's threshold of "
            "lightness; with its mask the measurement is better"
        )
        return _measured(image, split_by_lightness(image), names), [note]
    mask_file = read_mask(source, image_size)
    height, width = mask_file.original_size
    if abs(size[1] * height / (size[0] * width) - 1) > MAX_ASPECT_DIFFERENCE:
        raise InputError(
            f"{printable(source)}: is {width} x {height} pixels, its photograph {size[1]} x {size[0]}; expected the "
            "same size, or at least the same aspect; name its mask, or move it away"
        )
    notes = [] if mask is not None else [f"{printable(path)}: its mask is {printable(source)}"]
    if mask_file.note in ("empty", "full"):
        notes.append(f"{printable(source)} is {mask_file.note}, so lesion and skin have the same numbers")
    return _measured(image, mask_file.mask, names), notes


def _measured(image: Image, mask: Mask, names: Sequence[str]) -> AppearanceChoice:
    """Choose what can be measured of an image, among the names."""
    measured = [name for name in names if name in MEASURED_NAMES]
    return AppearanceChoice.fixed(measure_numbers(image, mask, measured), measured)


def split_by_lightness(image: Image) -> Mask:
    """Split an image by Otsu's threshold of L*: uint8 (H, W), 255 where darker; all 0 if L* is constant."""
    lightness = lab(image)[..., 0]
    bins = np.clip(lightness * (_LEVELS / 100), 0, _LEVELS - 1).astype(np.int64)
    counts = np.bincount(bins.ravel(), minlength=_LEVELS).astype(np.float64)
    below = counts.cumsum()[:-1]
    above = counts.sum() - below
    sums = (counts * np.arange(_LEVELS)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    if not between.any():
        return np.zeros(lightness.shape, np.uint8)
    return np.where(bins <= int(between.argmax()), np.uint8(255), np.uint8(0))


def _read(path: Path, image_size: tuple[int, int]) -> tuple[Image, tuple[int, int]]:
    """Read a photograph: RGB at the model's size (bicubic, antialiased, squashed), and the file's height and width."""
    try:
        picture = decode(read_bytes(path))
        if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
            raise PictureFileError(f"has the color mode {picture.mode}; expected an 8-bit color photograph")
        colors = picture.convert("RGB")
        resized = colors.resize(image_size[::-1], PillowImage.Resampling.BICUBIC)
    except PictureFileError as error:
        meant = "" if os.path.lexists(path) else "; expected a photograph, or NAME=NUMBER,..., as in hair=0,ita=tan"
        raise PictureFileError(f"{printable(path)}: {error}{meant}") from None
    except MemoryError:
        raise PictureFileError(f"{printable(path)}: does not fit in memory") from None
    return np.array(resized), (colors.height, colors.width)


def _find_mask(path: Path) -> Path | None:
    """Find the mask file of a photograph; None if there is none.

    Raises:
        InputError: there are several.
    """
    own = path.stem.lower()
    marked = {own + suffix for suffix in MASK_SUFFIXES}
    folder = path.absolute().parent
    for place, names in (
        (folder, marked),
        (folder / MASK_FOLDER, marked | {own}),
        (folder.parent / MASK_FOLDER, marked | {own}),
    ):
        try:
            files = sorted(place.iterdir()) if place.is_dir() else []
        except OSError:
            continue
        files = [file for file in files if file.suffix.lower() in SUFFIXES and file != folder / path.name]
        matches = [file for file in files if file.stem.lower() in names]
        if len(matches) > 1:
            raise InputError(
                f"{printable(path)} has several masks ({printable(matches[0])}, {printable(matches[1])}); say "
                "which is its"
            )
        if matches:
            return matches[0]
    return None
