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
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The split by a folder's name, in lower case and without a year: train2017 is train."""

_YEAR: Final = re.compile(r"[-_]?(19|20)\d\d$")


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


def _splits_in(folder: Path) -> dict[str, str]:
    """Return the names of subfolders by their splits; empty if there are fewer than two splits."""
    if not folder.is_dir():
        return {}
    splits: dict[str, str] = {}
    for entry in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
        split = SPLIT_NAMES.get(_YEAR.sub("", entry.lower()))
        if split is None:
            continue
        if split in splits:
            raise InputError(
                f"{printable(folder)} holds the split {split} twice, as {printable(splits[split])} and as "
                f"{printable(entry)}; leave one of them"
            )
        splits[split] = entry
    return splits if len(splits) > 1 else {}


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
