"""Pair masks with photographs by their file names.

Names are those of the sources people have, in any letter case:

- ISIC: ``ISIC_0000000.jpg`` with ``ISIC_0000000_segmentation.png``; ``_superpixels.png`` is ignored;
- PH2: ``IMD003.bmp`` with ``IMD003_lesion.bmp``;
- any: equal names but for the ending, in two folders; ``NAME_mask`` too;
- `m2l synth --pairs`: equal names, whatever the mask's file was called (``NAME_segmentation`` on both sides);
- one's own, by a `PairPattern`.

A pair that is there several times with the same bytes counts once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.text import printable, stem
from m2l_runtime.errors import InputError
from m2l_runtime.masks.appearance_query import MASK_SUFFIXES
from m2l_runtime.masks.mask_folder import SUFFIXES, MaskFolder, find_masks

IGNORED_SUFFIXES: Final = ("_superpixels",)


@dataclass(frozen=True, order=True)
class Pair:
    """Describe the files of a photograph and its mask."""

    name: str
    """Of the photograph, without folder and ending."""
    image: Path
    mask: Path
    """The same file as `image` where both stand side by side in one picture."""
    key: str = field(default="", compare=False)
    """What the names of both share, in lower case; empty where nothing was paired by name."""

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
    passed_over: list[str] = field(default_factory=list)
    """Names of files that may be pictures but whose endings are not read."""


@dataclass(frozen=True)
class PairPattern:
    """Tell how photographs and masks are named: where NAME stands is what both share."""

    image: re.Pattern[str] | None
    """None: as usual."""
    mask: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> PairPattern:
        """Read ``MASK`` or ``IMAGE:MASK``, such as ``NAME_expert`` or ``NAME_downsampled:NAME_attribute_*``.

        Example:
            >>> PairPattern.parse("NAME_downsampled:NAME_expert*").key("isic_1_Expert2", 1)
            'isic_1'

        Raises:
            InputError: there are more than two, or NAME is not in each once.
        """
        parts = text.split(":")
        if len(parts) > 2 or any(part.count("NAME") != 1 for part in parts):
            raise InputError(
                f"a pair pattern is MASK or IMAGE:MASK with NAME once in each, such as NAME_expert or "
                f"NAME_downsampled:NAME_attribute_*, got '{printable(text)}'"
            )
        return cls(_compiled(parts[0]) if len(parts) == 2 else None, _compiled(parts[-1]))

    def key(self, name: str, kind: int) -> str | None:
        """Return what a name, without its ending, shares with its partner's; None if it is not of this kind.

        Args:
            name: of a file, without folders.
            kind: 0 for photographs, 1 for masks; there must be a pattern of it.
        """
        pattern = (self.image, self.mask)[kind]
        match = None if pattern is None else pattern.fullmatch(name)
        return None if match is None else match["name"].lower()


def _compiled(part: str) -> re.Pattern[str]:
    before, after = (re.escape(half).replace(r"\*", ".*") for half in part.split("NAME"))
    return re.compile(f"{before}(?P<name>.+?){after}", re.IGNORECASE)


def find_pairs(
    images: str | os.PathLike[str], masks: str | os.PathLike[str], pattern: PairPattern | None = None
) -> Pairing:
    """Pair the pictures in two folders, or in one folder that holds both kinds.

    Args:
        images: folder of photographs.
        masks: folder of masks.
        pattern: how they are named, where it is not as usual.

    Raises:
        InputError: a folder does not exist or cannot be listed, or is a file.
    """
    image_folder, mask_folder = Path(images), Path(masks)
    for folder in (image_folder, mask_folder):
        if not folder.is_dir():
            what = "is a file" if folder.is_file() else "does not exist"
            raise InputError(f"{printable(folder)} {what}; expected a folder of pictures")
    is_one_folder = image_folder.resolve() == mask_folder.resolve()
    passed_over: list[str] = []
    by_key: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    found = (find_masks(image_folder), find_masks(mask_folder))
    equal = set() if is_one_folder or pattern is not None else _equal_marked_names(*found)
    for kind, given in enumerate(found):
        passed_over += [name for name in given.passed_over if kind == 0 or not is_one_folder]
        for name in given.names:
            key = _base(name) if _base(name) in equal else _key_of_kind(name, kind, is_one_folder, pattern)
            if key is None:
                continue
            by_key[kind].setdefault(key, []).append(name)
    for key, names in (
        by_key[1].items() if pattern is None else ()
    ):  # a photograph beside its mask, in a folder of masks
        by_key[1][key] = [name for name in names if _key(name)[1]] or names
    return replace(_match(image_folder, mask_folder, *by_key), passed_over=passed_over)


def _equal_marked_names(images: MaskFolder, masks: MaskFolder) -> set[str]:
    """Return names with a mask suffix that are those of photographs: a mask has the same name, and other bytes.

    A photograph of the name without the suffix says that the file beside it is its mask.
    """
    photographs = {_base(name) for name in images.names}
    by_base: dict[str, list[Path]] = {}
    for name in masks.names:
        by_base.setdefault(_base(name), []).append(masks.path(name))
    return {
        _base(name)
        for name in images.names
        if _key(name)[1]
        and _key(name)[0] not in photographs
        and _base(name) in by_base
        and not any(_are_equal(images.path(name), mask) for mask in by_base[_base(name)])
    }


def _are_equal(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same bytes; what cannot be read is equal to nothing."""
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
    except OSError:
        return False
    sha256 = file_sha256(one)
    return sha256 is not None and sha256 == file_sha256(other)


def _base(name: str) -> str:
    """Return a name without folders and ending, in lower case."""
    return os.path.basename(stem(name)).lower()  # noqa: PTH119


def _key_of_kind(name: str, kind: int, is_one_folder: bool, pattern: PairPattern | None) -> str | None:
    """Return what pairs share; None for a file of the other kind, or of none."""
    if pattern is not None:
        base = os.path.basename(stem(name))  # noqa: PTH119
        if (pattern.image, pattern.mask)[kind] is not None:
            return pattern.key(base, kind)
        if (is_one_folder or kind == 0) and pattern.key(base, 1 - kind) is not None:
            return None
    key, is_marked = _key(name)
    return None if key is None or ((is_one_folder or kind == 0) and is_marked != (kind == 1)) else key


def _without_copies(folder: Path, names: list[str]) -> list[str]:
    """Return one of the files if all have the same name and bytes, in several folders, else all."""
    if len({os.path.basename(name).lower() for name in names}) > 1 or len(names) < 2:  # noqa: PTH119
        return names
    paths = [folder / name for name in names]
    try:
        if len({path.stat().st_size for path in paths}) > 1:
            return names
    except OSError:
        return names
    hashes = {file_sha256(path) for path in paths}
    return names if len(hashes) > 1 or None in hashes else sorted(names)[:1]


def _match(image_folder: Path, mask_folder: Path, images: dict[str, list[str]], masks: dict[str, list[str]]) -> Pairing:
    pairs, ambiguous = [], []
    for key in images.keys() & masks.keys():
        some_images, some_masks = _without_copies(image_folder, images[key]), _without_copies(mask_folder, masks[key])
        if len(some_images) == len(some_masks) == 1:
            (image,), (mask,) = some_images, some_masks
            pairs.append(Pair(os.path.basename(stem(image)), image_folder / image, mask_folder / mask, key))  # noqa: PTH119
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
    base = _base(name)
    if base.endswith(IGNORED_SUFFIXES):
        return None, False
    for suffix in MASK_SUFFIXES:
        if base.endswith(suffix) and base != suffix:
            return base.removesuffix(suffix), True
    return base, False
