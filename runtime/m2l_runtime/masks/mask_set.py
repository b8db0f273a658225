"""Define a set of masks by name, from a folder or drawn on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from m2l_runtime.masks.mask_file import MaskFile


class MaskSet(Protocol):
    """Offer masks by name to a run. Only names are held in memory, so that a million masks fit."""

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
        """Whether it is one mask, given as a file."""
        ...

    @property
    def seed(self) -> int | None:
        """The seed that the masks are drawn with; None if they are not drawn."""
        ...

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """Read a mask at `image_size` (height, width). Safe to call from several threads.

        Raises:
            MaskFileError: it cannot be read, or is not a mask; the message begins with its name.
        """
        ...

    def sha256(self, name: str) -> str | None:
        """Return what :attr:`MaskFile.sha256` would be; None if it cannot be read."""
        ...
