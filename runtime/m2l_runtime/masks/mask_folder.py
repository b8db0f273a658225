"""Find the mask files in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.text import plural, printable, stem
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import MaskFile, read_mask
from m2l_runtime.masks.mask_set import MaskSet

SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".pbm", ".ppm", ".pnm"}
)
"""File name suffixes, in lower case, by which masks are found in a folder."""

COMPANIONS: Final = frozenset(
    {".csv", ".tsv", ".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".json", ".jsonl", ".xml", ".yaml", ".yml"}
    | {".toml", ".ini", ".log", ".lock", ".py", ".ipynb", ".sh", ".bat", ".xls", ".xlsx", ".ods", ".docx", ".bib"}
    | {".db", ".sha256", ".md5", ".url", ".lnk"}
)
"""Suffixes of files that lie beside masks and are none: they are passed over without a word."""


DRAWN_KINDS: Final = {
    "shapes": "shapes:200",
    "deform": "deform:200,masks=FOLDER",
    "pca": "pca:200,model=FILE",
}
"""Kinds of masks that can be drawn in place of a folder's, with an example of what asks for them."""


@dataclass(frozen=True)
class MaskFolder:
    """Read mask files by name: a :class:`m2l_runtime.masks.mask_set.MaskSet`."""

    base: Path
    """The folder that names are relative to."""
    names: list[str]
    """Paths below `base` with ``/`` between parts, in the order of their stems (the name without its ending)."""
    is_single_file: bool
    seed: int | None = None
    passed_over: tuple[str, ...] = ()
    """Names of files that may be masks but whose endings are not read."""

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

    Files count by their suffix (`SUFFIXES`); others that may be masks are named in `passed_over`. Names that begin with
    a dot are skipped. Links to folders are followed, each folder once.

    Raises:
        InputError: `masks` does not exist or cannot be listed.
    """
    root = Path(masks)
    try:
        if root.is_file():
            return MaskFolder(root.parent, [root.name], True)
        if not root.is_dir():
            what = "is neither a file nor a folder" if os.path.lexists(root) else "does not exist"
            kind = os.fspath(masks).lower().rstrip("s/")
            drawn = next((one for one in DRAWN_KINDS if one.rstrip("s") == kind), None)
            hint = "" if drawn is None else f"; to draw masks say how many: {drawn}:COUNT, such as {DRAWN_KINDS[drawn]}"
            raise InputError(f"{printable(root)} {what}; expected a mask file or a folder of masks{hint}")
        names, passed_over = _walk(root)
    except OSError as error:
        raise InputError(f"cannot list {printable(error.filename or root)}: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{printable(root)}: {error}") from None
    names.sort(key=stem)
    return MaskFolder(root, names, False, passed_over=tuple(sorted(passed_over)))


def describe_passed_over(names: Sequence[str]) -> str | None:
    """Say which files were passed over for their endings; None if there are none.

    Example:
        >>> describe_passed_over(["a.npy", "b.npy"])
        '2 files are passed over, as their endings are not read (a.npy, b.npy); save masks as PNG to use them'
    """
    if not names:
        return None
    shown = printable(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")
    are, their = ("is", "its ending is") if len(names) == 1 else ("are", "their endings are")
    return (
        f"{plural(len(names), 'file')} {are} passed over, as {their} not read ({shown}); save masks as PNG to use them"
    )


def passed_over_note(masks: MaskSet) -> str | None:
    """Say which files of a folder of masks were passed over; None if none were, or the masks are no files."""
    return describe_passed_over(getattr(masks, "passed_over", ()))


def _may_be_mask(name: str) -> bool:
    """Tell files that somebody may take for masks from those that only lie beside them."""
    base, suffix = os.path.splitext(name)  # noqa: PTH122
    return suffix.lower() not in COMPANIONS and not (suffix == "" and base.upper() == base and base.isalpha())


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of masks, and of files passed over."""
    names: list[str] = []
    passed_over: list[str] = []
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
                elif _may_be_mask(entry.name):
                    passed_over.append(name)
    return names, passed_over


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a folder. What cannot be told, such as a link to itself, counts as a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False
