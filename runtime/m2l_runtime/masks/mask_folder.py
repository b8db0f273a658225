"""Find the mask files in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.text import printable, stem
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import MaskFile, read_mask
from m2l_runtime.masks.mask_set import MaskSet

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""File name suffixes, in lower case, by which masks are found in a folder."""


@dataclass(frozen=True)
class MaskFolder:
    """Read mask files by name: a :class:`m2l_runtime.masks.mask_set.MaskSet`."""

    base: Path
    """The folder that names are relative to."""
    names: list[str]
    """Paths below `base` with ``/`` between parts, in the order of their stems (the name without its ending)."""
    is_single_file: bool
    seed: int | None = None

    def path(self, name: str) -> Path:
        """Return the path of a name."""
        return self.base / name

    @property
    def paths(self) -> list[Path]:
        """All files, in order."""
        return [self.path(name) for name in self.names]

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return read_mask(self.path(name), image_size, keep_original=keep_original)

    def sha256(self, name: str) -> str | None:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return file_sha256(self.path(name))


def mask_set(masks: str | os.PathLike[str] | MaskSet) -> MaskSet:
    """Return `masks` if it is a set of masks already, else :func:`find_masks` of it."""
    return find_masks(masks) if isinstance(masks, str | os.PathLike) else masks


def find_masks(masks: str | os.PathLike[str]) -> MaskFolder:
    """Find mask files: `masks` itself, or all below that folder.

    Files count by their suffix (`SUFFIXES`). Names that begin with a dot are skipped. Links to folders are followed,
    each folder once.

    Raises:
        InputError: `masks` does not exist or cannot be listed.
    """
    root = Path(masks)
    try:
        if root.is_file():
            return MaskFolder(root.parent, [root.name], True)
        if not root.is_dir():
            what = "is neither a file nor a folder" if os.path.lexists(root) else "does not exist"
            raise InputError(f"{printable(root)} {what}; expected a mask file or a folder of masks")
        names = _walk(root)
    except OSError as error:
        raise InputError(f"cannot list {printable(error.filename or root)}: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{printable(root)}: {error}") from None
    names.sort(key=stem)
    return MaskFolder(root, names, False)


def _walk(root: Path) -> list[str]:
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        status = (root / below).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{below}{entry.name}"
                if _is_folder(entry):
                    waiting.append(f"{name}/")
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122
                    names.append(name)
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a folder. What cannot be told, such as a link to itself, counts as a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False
