"""Masks and images: the two array types that cross every boundary, and their checks."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from m2l_runtime.errors import ArrayError

Masks: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (N, H, W): 0 background, 255 lesion; greys between are legal, resampling makes them on edges."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (H, W): one of Masks."""

Images: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 3): RGB, 0..255."""

Image: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (H, W, 3): one of Images."""


def describe(value: object) -> str:
    """'(1, 5, 6) float32' for an array, the type's name for anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return f"a {type(value).__name__}"


def check_masks(masks: Any, image_size: tuple[int, int]) -> Masks:
    """The same array, once it is sure to be Masks of `image_size` (height, width).

    Raises:
        ArrayError: not an array, wrong shape or type, boolean, or a maximum of 1 (a mask of 0 and 1 would
            be read as black; whoever calls knows whether 1 meant lesion).
    """
    height, width = image_size
    expected = f"masks must be (N, {height}, {width}) uint8"
    if not isinstance(masks, np.ndarray):
        raise ArrayError(f"{expected}, got {describe(masks)}; numpy.stack a list of masks first")
    if masks.dtype == np.bool_:
        raise ArrayError(f"{expected}, got {describe(masks)}; write masks.astype(numpy.uint8) * 255")
    if masks.ndim == 2 and masks.shape == (height, width):
        raise ArrayError(f"{expected}, got {describe(masks)}; a single mask is masks[None]")
    if masks.ndim != 3 or masks.shape[1:] != (height, width) or masks.dtype != np.uint8:
        raise ArrayError(f"{expected}, got {describe(masks)}")
    if masks.size and masks.max() == 1:
        raise ArrayError(f"{expected} from 0 to 255, got a maximum of 1; write masks * 255 if 1 means lesion")
    return masks


Appearance = npt.NDArray[np.float32]
"""float32 (`len(NAMES)`,), in the order of `NAMES`."""


NAMES: Final = (
    *(f"lesion_{channel}" for channel in "Lab"),
    *(f"lesion_spread_{channel}" for channel in "Lab"),
    *(f"skin_{channel}" for channel in "Lab"),
    *(f"skin_spread_{channel}" for channel in "Lab"),
)
"""Of each region: the mean of CIE L*, a*, b* (D65) over its pixels, then their standard deviation."""
