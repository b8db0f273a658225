"""Define sources of masks, and offer their masks to a run."""

from __future__ import annotations

import hashlib
import numbers
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.errors import ArgumentError, EngineNotInstalled, InputError, MaskFileError
from m2l_runtime.masks.mask_file import MaskFile, parse_mask, to_gray
from m2l_runtime.output.encoding import encode_gray_mask
from m2l_runtime.types import Mask

MAX_MASKS: Final = 10_000_000
MIN_SIDE: Final = 16
MAX_SIDE: Final = 4096
NOT_INSTALLED: Final = 'needs {package}, which is not installed: pip install "m2l[masks]"'


class MaskSource(Protocol):
    """Draw masks by number. The same options and number give the same mask, whatever else is drawn.

    Any object with these methods is a source.

    Example:
        >>> import numpy as np
        >>> class Squares:
        ...     seed = None
        ...     def label(self, number):
        ...         return "square"
        ...     def draw(self, number):
        ...         mask = np.zeros((256, 256), np.uint8)
        ...         mask[96:160, 96:160] = 255
        ...         return mask
        >>> DrawnMasks(Squares(), 2).names
        ['000000-square.png', '000001-square.png']
    """

    @property
    def seed(self) -> int | None:
        """The seed; None if nothing is random."""
        ...

    def label(self, number: int) -> str:
        """Name mask `number` (from 0) in a word for its file's name: 'circle', or the mask it is made from."""
        ...

    def draw(self, number: int) -> Mask:
        """Draw mask `number`: uint8 (S, S), greys on its edges, owned by the caller. Thread-safe.

        Raises:
            InputError: there is no such mask with these options.
        """
        ...


@check_types()
class DrawnMasks:
    """Offer the first `count` masks of a source as a MaskSet; each is drawn when it is read.

    Example:
        >>> from m2l_runtime import Shapes
        >>> masks = DrawnMasks(Shapes(kinds=("circle", "star"), seed=3), 3)
        >>> masks.names
        ['000000-circle.png', '000001-star.png', '000002-circle.png']
        >>> masks.read("000001-star.png", (64, 64)).mask.shape
        (64, 64)
    """

    base: Final[Path | None] = None
    is_single_file: Final = False

    def __init__(self, source: MaskSource, count: int) -> None:
        """Name the masks.

        Raises:
            InputError: `count` is out of range.
        """
        if not 1 <= count <= MAX_MASKS:
            raise InputError(f"the number of masks must be between 1 and {MAX_MASKS:,}, got {count:,}")
        self.source: Final = source
        self.seed: Final = source.seed
        digits = max(6, len(str(count - 1)))
        self.names: list[str] = [f"{number:0{digits}}-{source.label(number)}.png" for number in range(count)]

    def mask(self, name: str) -> Mask:
        """Draw a mask by its name.

        Where its edges are so much of it that a reader would not take it for a mask, as of a star of 16 pixels, it is
        drawn without greys.
        """
        mask = self.source.draw(int(name.partition("-")[0]))
        picture = PillowImage.fromarray(mask)
        picture.format = "PNG"  # as it is read back
        try:
            to_gray(picture)
        except MaskFileError:
            return np.where(mask > 127, np.uint8(255), np.uint8(0))
        return mask

    def content(self, name: str) -> bytes:
        """Encode a mask as PNG, as `m2l masks` writes it."""
        return encode_gray_mask(self.mask(name))

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return parse_mask(self.content(name), image_size, keep_original=keep_original)

    def sha256(self, name: str) -> str | None:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return hashlib.sha256(self.content(name)).hexdigest()


def check_number(number: object) -> None:
    """Check the number of a mask.

    Raises:
        InputError: it is no whole number, or below 0.
    """
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or int(number) < 0:
        raise ArgumentError(f"masks are numbered 0, 1, 2, ..., got {number!r}")


def check_size(size: int) -> None:
    """Check the side of masks in pixels.

    Raises:
        InputError: it is out of range.
    """
    if not MIN_SIDE <= size <= MAX_SIDE:
        raise ArgumentError(f"the size must be between {MIN_SIDE} and {MAX_SIDE} pixels, got {size}")


def not_installed(error: ModuleNotFoundError, what: str) -> EngineNotInstalled:
    """Make the error for a missing package of the extra `masks`; raise `error` again if it is about another package."""
    package = (error.name or "").partition(".")[0]
    if package not in ("scipy", "matplotlib"):
        raise error
    return EngineNotInstalled(f"{what} {NOT_INSTALLED.format(package=package)}")
