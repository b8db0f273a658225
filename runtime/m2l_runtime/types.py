"""Define and check masks and images: the two array types that cross every boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from m2l_runtime.errors import ArrayError, kind_of

Masks: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (N, H, W): 0 background, 255 lesion. Greys between are legal: resampling makes them on edges.

Example:
    >>> masks: Masks = np.zeros((2, 256, 256), np.uint8)
    >>> masks[:, 96:160, 96:160] = 255  # a square lesion in each
    >>> check_masks(masks, (256, 256)).shape
    (2, 256, 256)
"""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (H, W): one mask."""

Images: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 3): RGB, 0..255.

Example:
    >>> from m2l_runtime import Synthesizer
    >>> with Synthesizer.open(backend="fake") as synth:
    ...     images: Images = synth(np.zeros((2, 256, 256), np.uint8))
    >>> images.shape, images.dtype
    ((2, 256, 256, 3), dtype('uint8'))
"""

Image: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (H, W, 3): one image."""


def describe(value: object) -> str:
    """Describe a value for a message: '(1, 5, 6) float32' for an array, else its kind."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return kind_of(value)


def is_black_and_white(masks: Masks) -> bool:
    """Tell whether all values are 0 or 255.

    Example:
        >>> masks = np.zeros((1, 2, 2), np.uint8)
        >>> is_black_and_white(masks), is_black_and_white(masks + np.uint8(254))
        (True, False)
    """
    return not bool((masks + np.uint8(1) > 1).any())  # 255 + 1 is 0


def check_masks(masks: Any, image_size: tuple[int, int]) -> Masks:
    """Check that an array is `Masks` of `image_size` (height, width), and return it.

    Raises:
        ArrayError: not an array, wrong shape or type, boolean, or a mask with a maximum of 1. One of 0 and 1 would be
            read as black; only the caller knows whether 1 means lesion.
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
    if masks.size and (masks.max(axis=(1, 2)) == 1).any():
        raise ArrayError(f"{expected} from 0 to 255, got a maximum of 1; write masks * 255 if 1 means lesion")
    return masks


Appearance = npt.NDArray[np.float32]
"""float32 (K,): a number for each name that a bundle's table has, in its order; `NAMES` where nothing else is said."""


NAMES: Final = (
    *(f"lesion_{channel}" for channel in "Lab"),
    *(f"lesion_spread_{channel}" for channel in "Lab"),
    *(f"skin_{channel}" for channel in "Lab"),
    *(f"skin_spread_{channel}" for channel in "Lab"),
)
"""The first numbers of an appearance, and all that bundles of schema version 1 have.

For each region: mean of CIE L*, a*, b* (D65) over its pixels, then their deviations.
"""

LOOK_NAMES: Final = (
    "sharpness",
    "lesion_detail",
    "skin_detail",
    "vignette",
    "hair",
    "ink",
)
"""Numbers that are measured of an image beside its colors (:mod:`m2l_runtime.conditioning.numbers`)."""

STYLE_NAMES: Final = tuple(f"style_{place}" for place in range(1, 17))
"""Numbers that only training measures: principal components of image features, each over its deviation."""

KNOWN_NAMES: Final = (*NAMES, *LOOK_NAMES, *STYLE_NAMES)
"""Every number that a bundle's appearances may have. A bundle's table says which it has, and in which order."""


def list_names(names: Sequence[str]) -> str:
    """List numbers of an appearance for a message, three styles or more as a span.

    Example:
        >>> list_names(("hair", "ink", "style_1", "style_2", "style_3"))
        'hair, ink, style_1 to style_3'
    """
    styles = [name for name in names if name in STYLE_NAMES]
    others = [name for name in names if name not in STYLE_NAMES]
    return ", ".join([*others, *([f"{styles[0]} to {styles[-1]}"] if len(styles) > 2 else styles)])
