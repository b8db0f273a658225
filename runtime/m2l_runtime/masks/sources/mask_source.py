"""A source of masks, which draws any of them by its number, to a set of masks that a run can take."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Protocol

from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_runtime.masks.mask_file import MaskFile, parse_mask
from m2l_runtime.output.encoding import encode_gray_mask
from m2l_runtime.types import Mask

MAX_MASKS: Final = 10_000_000
MIN_SIDE: Final = 16
MAX_SIDE: Final = 4096
NOT_INSTALLED: Final = "needs {package}, which is not installed: pip install '.[masks]' in a checkout of m2l"


class MaskSource(Protocol):
    """Draws masks by number. The same settings and number give the same mask, whatever else is drawn."""

    @property
    def seed(self) -> int | None:
        """What it draws with; None if nothing is left to chance."""
        ...

    def label(self, number: int) -> str:
        """What mask `number` (from 0) is, as a word for its file's name: 'circle', or the mask it is made from."""
        ...

    def draw(self, number: int) -> Mask:
        """Mask `number`: uint8 (S, S), greys on its edges, owned by the caller. Safe to call from several threads.

        Raises:
            InputError: there is no such mask with these settings.
        """
        ...


class DrawnMasks:
    """Offer the first `count` masks of a source as a MaskSet; each is drawn when it is read."""

    base: Final[Path | None] = None
    is_single_file: Final = False

    def __init__(self, source: MaskSource, count: int) -> None:
        """Name them.

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
        """A mask as it is drawn."""
        return self.source.draw(int(name.partition("-")[0]))

    def content(self, name: str) -> bytes:
        """The PNG file of a mask, as `m2l masks` writes it."""
        return encode_gray_mask(self.mask(name))

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """See MaskSet."""
        return parse_mask(self.content(name), image_size, keep_original=keep_original)

    def sha256(self, name: str) -> str | None:
        """See MaskSet."""
        return hashlib.sha256(self.content(name)).hexdigest()


def check_size(size: int) -> None:
    """A side in pixels that masks can have.

    Raises:
        InputError
    """
    if not MIN_SIDE <= size <= MAX_SIDE:
        raise InputError(f"the size must be between {MIN_SIDE} and {MAX_SIDE} pixels, got {size}")


def not_installed(error: ModuleNotFoundError, what: str) -> EngineNotInstalled:
    """The error for a missing package of the extra `masks`; raises `error` again if it is another one's."""
    package = (error.name or "").partition(".")[0]
    if package not in ("scipy", "matplotlib"):
        raise error
    return EngineNotInstalled(f"{what} {NOT_INSTALLED.format(package=package)}")
