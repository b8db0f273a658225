"""Find the splits that lie inside the folders of photographs and masks: images/train beside masks/train."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_train.data.pairing import Pair, Pairing, PairPattern, find_pairs

SPLIT_NAMES: Final[Mapping[str, str]] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
"""The split by a word of a folder's name, in lower case."""

_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def find_split_pairs(
    images: str | os.PathLike[str], masks: str | os.PathLike[str], pattern: PairPattern | None = None
) -> dict[str, Pairing] | None:
    """Pair the pictures of each split that two folders hold; None if neither holds at least two.

    Names are made different with the split's in front, where two splits have the same.

    Raises:
        InputError: a folder does not exist or cannot be listed, holds a split twice, or pictures outside of its
            splits.
    """
    image_folder, mask_folder = Path(images), Path(masks)
    of_images, of_masks = _splits_in(image_folder), _splits_in(mask_folder)
    if not of_images and not of_masks:
        return None
    for folder, splits in ((image_folder, of_images), (mask_folder, of_masks)):
        if splits:
            _refuse_outside(folder, splits)
    if of_images and of_masks:
        found = {
            split: _of_split(image_folder, mask_folder, of_images.get(split), of_masks.get(split), pattern)
            for split in sorted(of_images.keys() | of_masks.keys())
        }
    else:
        found = _dealt_out(
            find_pairs(image_folder, mask_folder, pattern), image_folder, mask_folder, of_images, of_masks
        )
    count = Counter(pair.name for pairing in found.values() for pair in pairing.pairs)
    if max(count.values(), default=0) > 1:
        found = {
            split: replace(pairing, pairs=[replace(pair, name=f"{split}-{pair.name}") for pair in pairing.pairs])
            for split, pairing in found.items()
        }
    return found


def split_of_name(name: str) -> str | None:
    """Return the split that a folder's name has a word for; None if there is no such word, or are several.

    Example:
        >>> split_of_name("train2017"), split_of_name("ISIC2018_Validation_Input"), split_of_name("TestSet")
        ('train', 'val', 'test')
        >>> split_of_name("latest"), split_of_name("train-val")
        (None, None)
    """
    splits = {SPLIT_NAMES[word.lower()] for word in _WORD.findall(name) if word.lower() in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _splits_in(folder: Path) -> dict[str, str]:
    """Return the names of subfolders by their splits; empty if there are fewer than two splits."""
    if not folder.is_dir():
        return {}
    splits: dict[str, str] = {}
    for entry in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
        split = split_of_name(entry)
        if split is None:
            continue
        if split in splits:
            raise InputError(
                f"{printable(folder)} holds the split {split} twice, as {printable(splits[split])} and as "
                f"{printable(entry)}; leave one of them"
            )
        splits[split] = entry
    if len(splits) > 1:
        return splits
    for entry in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
        below = {split_of_name(name.name) for name in (folder / entry).iterdir() if name.is_dir()} - {None}
        if len(below) > 1:
            raise InputError(
                f"{printable(folder / entry)} holds the splits {', '.join(sorted(filter(None, below)))}, one folder "
                f"further down than expected; give {printable(folder / entry)}, or move its folders up"
            )
    return {}


def _refuse_outside(folder: Path, splits: Mapping[str, str]) -> None:
    outside = [name for name in find_masks(folder).names if name.split("/")[0] not in splits.values()]
    if outside:
        raise InputError(
            f"{printable(folder)} holds the splits {printable(', '.join(splits.values()))}, and pictures that are in "
            f"none of them ({printable(', '.join(outside[:3]))}); move these into a split, or elsewhere"
        )


def _of_split(
    images: Path, masks: Path, image_split: str | None, mask_split: str | None, pattern: PairPattern | None
) -> Pairing:
    """Pair one split, whose folders have these names; names of files are told from the whole folders on."""
    if image_split is None or mask_split is None:
        return Pairing(
            [],
            [] if image_split is None else [f"{image_split}/{name}" for name in find_masks(images / image_split).names],
            [] if mask_split is None else [f"{mask_split}/{name}" for name in find_masks(masks / mask_split).names],
        )
    found = find_pairs(images / image_split, masks / mask_split, pattern)
    return replace(
        found,
        images_without_mask=[f"{image_split}/{name}" for name in found.images_without_mask],
        masks_without_image=[f"{mask_split}/{name}" for name in found.masks_without_image],
        ambiguous=[f"{image_split}/{name}" for name in found.ambiguous],
    )


def _dealt_out(
    pairing: Pairing, images: Path, masks: Path, of_images: Mapping[str, str], of_masks: Mapping[str, str]
) -> dict[str, Pairing]:
    """Deal pairs out to the splits of the one folder that has any."""
    folders = {name: split for split, name in (of_images or of_masks).items()}

    def split_of(pair: Pair) -> str:
        path, base = (pair.image, images) if of_images else (pair.mask, masks)
        return folders[path.relative_to(base).parts[0]]

    found = {split: Pairing([pair for pair in pairing.pairs if split_of(pair) == split]) for split in folders.values()}
    first = next(iter(found))
    found[first] = replace(pairing, pairs=found[first].pairs)  # what has no partner is told once
    return found
