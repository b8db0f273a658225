"""Pair masks with photographs by their file names.

Names are those of the sources people have, in any letter case:

- ISIC: ``ISIC_0000000.jpg`` with ``ISIC_0000000_segmentation.png``; ``_superpixels.png`` is ignored;
- PH2: ``IMD003.bmp`` with ``IMD003_lesion.bmp``;
- any: equal names but for the ending, in two folders; ``NAME_mask`` too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from m2l_runtime._utils.text import printable, stem
from m2l_runtime.errors import InputError
from m2l_runtime.masks.appearance_query import MASK_SUFFIXES
from m2l_runtime.masks.mask_folder import SUFFIXES, find_masks

IGNORED_SUFFIXES: Final = ("_superpixels",)


@dataclass(frozen=True, order=True)
class Pair:
    """Describe the files of a photograph and its mask."""

    name: str
    """Of the photograph, without folder and ending."""
    image: Path
    mask: Path
    """The same file as `image` where both stand side by side in one picture."""

    @property
    def is_combined(self) -> bool:
        """Whether one picture holds both halves."""
        return self.image == self.mask


@dataclass(frozen=True)
class Pairing:
    """List the pairs in two folders, and what has no partner."""

    pairs: list[Pair]
    """In the order of their names."""
    images_without_mask: list[str] = field(default_factory=list)
    """Names relative to the folder searched."""
    masks_without_image: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    """Names that several files would pair under; none of them is taken."""


def find_pairs(images: str | os.PathLike[str], masks: str | os.PathLike[str]) -> Pairing:
    """Pair the pictures in two folders, or in one folder that holds both kinds.

    Raises:
        InputError: a folder does not exist or cannot be listed, or is a file.
    """
    image_folder, mask_folder = Path(images), Path(masks)
    for folder in (image_folder, mask_folder):
        if not folder.is_dir():
            what = "is a file" if folder.is_file() else "does not exist"
            raise InputError(f"{printable(folder)} {what}; expected a folder of pictures")
    is_one_folder = image_folder.resolve() == mask_folder.resolve()
    by_key: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for kind, folder in enumerate((image_folder, mask_folder)):
        for name in find_masks(folder).names:
            key, is_marked = _key(name)
            if key is None or ((is_one_folder or kind == 0) and is_marked != (kind == 1)):
                continue  # of the other kind, or of none
            by_key[kind].setdefault(key, []).append(name)
    for key, names in by_key[1].items():  # a photograph beside its mask, in a folder of masks
        by_key[1][key] = [name for name in names if _key(name)[1]] or names
    return _match(image_folder, mask_folder, *by_key)


def _match(image_folder: Path, mask_folder: Path, images: dict[str, list[str]], masks: dict[str, list[str]]) -> Pairing:
    pairs, ambiguous = [], []
    for key in images.keys() & masks.keys():
        if len(images[key]) == len(masks[key]) == 1:
            (image,), (mask,) = images[key], masks[key]
            pairs.append(Pair(os.path.basename(stem(image)), image_folder / image, mask_folder / mask))  # noqa: PTH119
        else:
            ambiguous += images[key] + masks[key]
    return Pairing(
        sorted(pairs),
        _flat(images[key] for key in images.keys() - masks.keys()),
        _flat(masks[key] for key in masks.keys() - images.keys()),
        sorted(ambiguous),
    )


def _flat(lists: Iterable[list[str]]) -> list[str]:
    return sorted(name for names in lists for name in names)


def pair_key(name: str) -> str:
    """Return what the names of a photograph and its mask share: lower case, no folder, ending or mask suffix."""
    key, _ = _key(name if os.path.splitext(name)[1].lower() in SUFFIXES else f"{name}.png")  # noqa: PTH122
    return key or name.lower()


def _key(name: str) -> tuple[str | None, bool]:
    """Return (what pairs share, whether the name has a mask suffix); None for files that are neither."""
    base = os.path.basename(stem(name)).lower()  # noqa: PTH119
    if base.endswith(IGNORED_SUFFIXES):
        return None, False
    for suffix in MASK_SUFFIXES:
        if base.endswith(suffix) and base != suffix:
            return base.removesuffix(suffix), True
    return base, False
