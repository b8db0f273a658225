"""Masks by name, whether they lie in a folder or are drawn when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from m2l_runtime.masks.mask_file import MaskFile


class MaskSet(Protocol):
    """What a run over masks needs of them. Names are all that is kept of each, so that a million fit in memory."""

    @property
    def names(self) -> list[str]:
        """File names with ``/`` between parts, in the order of their stems (the name without its ending)."""
        ...

    @property
    def base(self) -> Path | None:
        """The folder that names are relative to; None if the masks lie in none."""
        ...

    @property
    def is_single_file(self) -> bool:
        """Whether it is one mask, given by its file's name."""
        ...

    @property
    def seed(self) -> int | None:
        """What the masks are drawn with; None if nothing is drawn."""
        ...

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """A mask at `image_size` (height, width). Safe to call from several threads.

        Raises:
            MaskFileError: it cannot be read, or is no mask; the message begins with its name.
        """
        ...

    def sha256(self, name: str) -> str | None:
        """What :attr:`MaskFile.sha256` would be; None if it cannot be read."""
        ...
