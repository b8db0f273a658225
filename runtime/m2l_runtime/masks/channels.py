"""Take the samples of a decoded picture, without losing a mask that is in them.

What is transparent is background. Opacity that is the same everywhere says nothing, and is not heeded: 32-bit files
whose fourth byte was never written have 0 there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.row_parts import extremes, row_parts

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(H, W, 1 or 3)."""

_Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Opacity = _Plane | None
_LOSSY_TOLERANCE: Final = 8
_EXTRA_SAMPLES: Final = 338
_SAMPLE_FORMAT: Final = 339


def mask_samples(picture: PillowImage.Image, low: PillowImage.Image | None = None) -> tuple[Samples, bool]:
    """Return the samples of a mask, what is transparent black, and whether its opacity alone shows the shape.

    Args:
        picture: as :func:`m2l_runtime.masks.image_file.decode_deep` returns it.
        low: the low bytes of its 16-bit color samples.

    Raises:
        MaskFileError: of a color mode that no mask has, or samples that differ in the file became equal.
    """
    colors, opacity = _split(picture, low)
    _check_nothing_is_lost(picture, colors, opacity)
    if opacity is None or (opacity == opacity[0, 0]).all():
        return colors, False
    return _flatten(colors, opacity, _LOSSY_TOLERANCE if picture.format == "WEBP" else 0)


def _flatten(colors: Samples, opacity: _Plane, tolerance: int) -> tuple[Samples, bool]:
    """Lay colors on black by their opacity, unless the shape is in the opacity alone.

    Raises:
        MaskFileError: colors and opacity say opposite things, and neither is likelier.
    """
    hidden, brightness = opacity == 0, extremes(colors)[0]
    seen = colors[~hidden]
    if int(np.ptp(seen, axis=0).max()) <= tolerance:  # one color, and nothing else: drawn on a transparent background
        is_brighter_hidden = bool(hidden.any() and brightness[hidden].max() > seen.max())
        edges = (hidden[0], hidden[-1], hidden[:, 0], hidden[:, -1])
        if is_brighter_hidden and not any(edge.any() for edge in edges):
            raise MaskFileError(
                "is transparent where its colors are brightest, and opaque all along the frame; expected an opaque "
                "lesion on a transparent background, or no transparency: save it without"
            )
        return opacity[:, :, None], is_brighter_hidden
    highest = int(max(opacity.max(), 1))
    laid = np.empty_like(colors)
    for rows in row_parts(colors):
        product = colors[rows].astype(np.uint32) * opacity[rows][:, :, None].astype(np.uint32)
        laid[rows] = (product + np.uint32(highest // 2)) // np.uint32(highest)
    return laid, False


def _split(picture: PillowImage.Image, low: PillowImage.Image | None) -> tuple[Samples, _Opacity]:
    """Return colors, and opacity where the file has any."""
    mode, marked = picture.mode, picture.info.get("transparency")
    if low is not None:
        high = np.asarray(picture).astype(np.uint16)
        deep = high << 8 | np.asarray(low)
        colors, opacity = deep[:, :, :3], deep[:, :, 3] if deep.shape[2] == 4 else None
        return colors, _unmarked(colors, marked) if opacity is None else opacity
    if mode in ("La", "RGBa"):
        picture = picture.convert(mode.upper())
        mode = picture.mode
    if mode in ("LA", "PA", "RGBA") or (mode == "P" and (marked is not None or _has_opaque_palette(picture))):
        rgba = np.asarray(picture.convert("RGBA"))
        return rgba[:, :, :3], rgba[:, :, 3]
    if mode in ("1", "L"):
        colors = np.asarray(picture.convert("L"))[:, :, None]
        return colors, _unmarked(colors, marked)
    if mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr"):
        colors = np.asarray(picture.convert("RGB"))
        return colors, _unmarked(colors, marked) if mode == "RGB" else None
    if mode.startswith("I;16"):
        wide = np.asarray(picture).astype(np.uint16)[:, :, None]
        return wide, _unmarked(wide, marked)
    if mode in ("I", "F"):
        return from_wide(np.asarray(picture))[:, :, None], None
    raise MaskFileError(f"has the color mode {mode}; expected black and white")


def _has_opaque_palette(picture: PillowImage.Image) -> bool:
    return picture.palette is not None and picture.palette.mode == "RGBA"


def _unmarked(colors: Samples, marked: object) -> _Opacity:
    """Return the opacity that a color marked as transparent (tRNS) gives; None if none is marked."""
    if marked is None or isinstance(marked, bytes):
        return None
    is_transparent = np.empty(colors.shape[:2], np.bool_)
    for rows in row_parts(colors):
        is_transparent[rows] = (colors[rows] == np.array(marked)).all(axis=2)
    return np.where(is_transparent, np.uint8(0), np.uint8(255))


def _check_nothing_is_lost(picture: PillowImage.Image, colors: Samples, opacity: _Opacity) -> None:
    """Refuse a picture that comes out as one color and is not one in the file, and numbers that wrapped round.

    Raises:
        MaskFileError: samples that differ became equal, a channel that is not read may hold the mask, or numbers below
            0 became high ones.
    """
    tags = getattr(picture, "tag_v2", {})
    if 2 in _tuple(tags.get(_SAMPLE_FORMAT)) and picture.mode == "L" and int(colors.max()) > 127:
        raise MaskFileError("holds numbers below 0; expected 0 (background) and 255 (lesion)")
    if not _is_one(colors) or not (opacity is None or _is_one(opacity)):
        return
    as_one = {"P": "its palette gives them", "CMYK": "its inks add up to", "F": "its numbers round to"}
    if picture.mode in as_one and picture.format not in ("JPEG", "MPO") and not _is_one(np.asarray(picture)):
        raise MaskFileError(
            f"holds several values, but {as_one[picture.mode]} one color; expected 0 (background) and 255 (lesion): "
            "save it as a greyscale PNG with these"
        )
    if 0 in _tuple(tags.get(_EXTRA_SAMPLES)):
        raise MaskFileError(
            "is one color, and has a channel beside that is not read; expected the mask as greys: save it as a "
            "greyscale PNG"
        )


def _tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_one(values: npt.NDArray[np.generic]) -> bool:
    return bool((values == values[0, 0]).all())


def from_wide(values: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Convert 32-bit samples to uint16, so that equal ones stay equal; fractions of 1 are stretched."""
    if not np.isfinite(values).all():
        raise MaskFileError("holds infinite or undefined values; expected 0 (background) and 255 (lesion)")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise MaskFileError(f"holds values from {low:g} to {high:g}; expected 0 (background) to 255 (lesion)")
    if values.dtype.kind == "f" and high <= 1:
        return np.round(values * 65535).astype(np.uint16)
    return np.round(values).astype(np.uint16)
