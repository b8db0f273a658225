"""Find the pairs of each split in a data folder of any common layout.

Layouts, looked for in this order:

- ``train/images`` and ``train/masks`` (and the same of ``val``): what `m2l prepare` writes;
- ``images/train`` and ``masks/train`` (and the same of ``val``);
- ``images`` and ``masks``: pairs without a split;
- ``train/*`` (and ``val/*``): combined A|B pictures, as pix2pix-tensorflow and pytorch-CycleGAN-and-pix2pix read them;
- ``*``: combined pictures without a split.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.sides import plain_sides
from m2l_runtime._utils.text import plural, printable, stem
from m2l_runtime.errors import InputError, PictureFileError
from m2l_runtime.masks.image_file import decode, open_header, read_bytes
from m2l_runtime.masks.mask_file import to_gray
from m2l_runtime.masks.mask_folder import describe_passed_over, find_masks
from m2l_train.data.pairing import Pair, Pairing, find_pairs
from m2l_train.data.photograph import mask_half
from m2l_train.data.split_folders import SPLIT_NAMES, find_split_pairs

IMAGES: Final = "images"
MASKS: Final = "masks"
TRAIN: Final = "train"
VAL: Final = "val"
DATASET_FILE: Final = "dataset.json"
"""Written by `m2l prepare` beside the splits: how it made them."""
_SAMPLE_PICTURES: Final = 16
_MAX_EVEN_RANGE: Final = 12
"""Levels that JPEG leaves of one, in means of a few pixels."""
_MIN_COLOR: Final = 32
"""Levels between the channels of what is surely no grey."""


@dataclass(frozen=True)
class DataFolder:
    """Hold the pairs of a data folder."""

    train: tuple[Pair, ...]
    """In the order of their names."""
    val: tuple[Pair, ...]
    stored_size: int | str | None
    """Size that the pictures were brought to before, as 286 or 286x572; None if they are not all of one size, or of one
    that cameras give, which is no square."""
    warnings: tuple[str, ...]
    layout: str
    """What the folder was taken for."""


def open_data(data: str | os.PathLike[str]) -> DataFolder:
    """Find the pairs in a data folder. Only the headers of a few pictures are read for their size.

    Raises:
        InputError: the folder is not there or is in no known layout, has fewer than two pairs to train on, or has
            photographs without masks.
    """
    root = Path(data)
    if not root.is_dir():
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise InputError(f"{printable(root)} {what}; expected a folder of pairs, as m2l prepare makes it")
    warnings: list[str] = []
    val_folder = _val_folder(root)
    train: tuple[Pair, ...]
    val: tuple[Pair, ...] = ()
    if (root / TRAIN / IMAGES).is_dir():
        train = _paired(root / TRAIN, warnings)
        if val_folder is not None and (val_folder / IMAGES).is_dir():
            val = _paired(val_folder, warnings)
        layout = f"{TRAIN}/{IMAGES} with {TRAIN}/{MASKS}"
    elif (root / IMAGES).is_dir():
        _check_has_masks(root)
        splits = find_split_pairs(root / IMAGES, root / MASKS)
        if splits is None:
            train = _paired(root, warnings)
            layout = f"{IMAGES} with {MASKS}"
        else:
            if TRAIN not in splits:
                raise InputError(
                    f"{printable(root / IMAGES)} has the splits {', '.join(splits)}, and none called {TRAIN}; rename "
                    f"one to {TRAIN}"
                )
            train = _usable(root, splits[TRAIN], warnings)
            val = _usable(root, splits[VAL], warnings) if VAL in splits else ()
            layout = f"{IMAGES}/{TRAIN} with {MASKS}/{TRAIN}"
    elif (root / TRAIN).is_dir():
        _refuse_other_splits(root / TRAIN)
        train, val = _combined(root / TRAIN), () if val_folder is None else _combined(val_folder)
        layout = f"combined pictures in {TRAIN}"
    else:
        _refuse_other_splits(root)
        train, val = _combined(root), ()
        layout = "combined pictures"
    if len(train) < 2:
        raise InputError(
            f"{printable(root)} has {plural(len(train), 'pair')} to train on, at least 2 are needed; expected "
            f"{TRAIN}/{IMAGES} and {TRAIN}/{MASKS}, {IMAGES} and {MASKS}, or combined A|B pictures in {TRAIN}"
        )
    if not val:
        warnings.append(f"there is no {VAL} split: figures and grids are of pairs that are trained on")
    stored_size = _stored_size(train, is_prepared=(root / DATASET_FILE).is_file())
    return DataFolder(train, val, stored_size, tuple(warnings), layout)


def _refuse_other_splits(root: Path) -> None:
    """Make sure that a folder without a split called train holds combined pictures, not splits of other names.

    Raises:
        InputError: it holds splits of other names.
    """
    splits = sorted(path.name for path in root.iterdir() if (path / IMAGES).is_dir() and (path / MASKS).is_dir())
    if not splits and (root.resolve().parent / DATASET_FILE).is_file():  # combined pictures of `m2l prepare`
        splits = sorted(path.name for path in root.iterdir() if path.is_dir())
    if splits:
        raise InputError(
            f"{printable(root)} has the splits {printable(', '.join(splits[:5]))}, and none called {TRAIN}; rename one "
            f"to {TRAIN} (and one to {VAL}), or give one of them as data"
        )


def _val_folder(root: Path) -> Path | None:
    """Return the folder of the split to validate on: val, or another name of it; None if there is none."""
    names = sorted(
        (name for name, split in SPLIT_NAMES.items() if split == VAL and (root / name).is_dir()), key=VAL.__ne__
    )
    return root / names[0] if names else None


def _check_has_masks(folder: Path) -> None:
    if not (folder / MASKS).is_dir():
        raise InputError(f"{printable(folder)} has {IMAGES} but no {MASKS}; expected both")


def _paired(folder: Path, warnings: list[str]) -> tuple[Pair, ...]:
    _check_has_masks(folder)
    return _usable(folder, find_pairs(folder / IMAGES, folder / MASKS), warnings)


def _usable(folder: Path, pairing: Pairing, warnings: list[str]) -> tuple[Pair, ...]:
    """Return the pairs, once nothing is without a partner."""
    for names, noun, what in (
        (pairing.images_without_mask, "photograph", "without a mask"),
        (pairing.masks_without_image, "mask", "without a photograph"),
        (pairing.ambiguous, "name", "that pairs with several files"),
    ):
        if names:
            shown = printable(", ".join(names[:3]))
            has = f"{plural(len(names), noun)} {what} ({shown})"
            raise InputError(f"{printable(folder)} has {has}; m2l prepare sorts such out")
    passed_over = describe_passed_over(pairing.passed_over)
    if passed_over is not None:
        warnings.append(f"{printable(folder)}: {passed_over}")
    return tuple(pairing.pairs)


def _combined(folder: Path) -> tuple[Pair, ...]:
    """Take every picture as a pair, once a few of them are known to have a mask in one half and not in the other.

    Raises:
        InputError: most of those looked at are not.
    """
    masks = find_masks(folder)
    pairs = tuple(Pair(stem(name), masks.path(name), masks.path(name)) for name in masks.names)
    sampled = _sample_pairs(pairs)
    others = [pair for pair in sampled if not _is_combined_pair(pair.image)]
    if 2 * len(others) > len(sampled):
        raise InputError(
            f"{printable(folder)} holds no combined A|B pictures: {len(others)} of {len(sampled)} looked "
            "at have "
            f"not a mask in one half and a photograph in the other, as {printable(others[0].image.name)}; expected "
            f"{TRAIN}/{IMAGES} and {TRAIN}/{MASKS}, {IMAGES} and {MASKS}, or combined pictures in {TRAIN}"
        )
    return pairs


def are_combined(pairs: tuple[Pair, ...]) -> bool:
    """Tell whether most of a few pictures have a mask in one half and not in the other."""
    seen = [_is_combined_pair(pair.image) for pair in _sample_pairs(pairs)]
    return 2 * sum(seen) >= len(seen)


def _sample_pairs(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Return a few pairs, evenly spaced."""
    return pairs[:: -(-len(pairs) // _SAMPLE_PICTURES)] if pairs else ()


def _is_combined_pair(path: Path) -> bool:
    """Whether exactly one half of a picture is a mask; True also of one that cannot be read, which is told later."""
    try:
        picture = decode(read_bytes(path))
    except PictureFileError:
        return True
    if picture.width < 2:
        return False
    colors = picture if picture.mode in ("1", "L") else picture.convert("RGB")
    return _is_mask(mask_half(colors, is_left=True)) != _is_mask(mask_half(colors, is_left=False))


def _is_mask(picture: PillowImage.Image) -> bool:
    if _is_one_color(picture):
        return False
    picture.format = "JPEG"  # its edges may have noise whatever the file is now
    try:
        to_gray(picture)
    except PictureFileError:
        return False
    return True


def _is_one_color(picture: PillowImage.Image) -> bool:
    """Tell whether the middle of a picture has one color, and no grey: no mask is that, a plain photograph may be."""
    width, height = picture.size  # near the seam, its color was taken away
    middle = (width / 4, 0, width * 3 / 4, height)
    small = np.asarray(picture.convert("RGB").resize((32, 32), PillowImage.Resampling.BOX, middle)).reshape(-1, 3)
    is_even = np.ptp(small, axis=0).max() <= _MAX_EVEN_RANGE
    return bool(is_even and np.ptp(small.mean(axis=0)) > _MIN_COLOR)


def _stored_size(pairs: tuple[Pair, ...], *, is_prepared: bool) -> int | str | None:
    """What a few of the pictures' headers say."""
    sizes: set[tuple[int, int]] = set()
    for pair in _sample_pairs(pairs):
        if not pair.image.is_file():  # a pipe would wait for somebody to write to it
            continue
        try:
            with open_header(pair.image) as picture:
                width, height = picture.size
        except Exception:  # noqa: BLE001, S112 - decoders raise whatever a damaged file leads them to
            continue  # told when it is read
        sizes.add((width // 2 if pair.is_combined else width, height))
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return plain_sides((height, width)) if is_prepared or width == height else None
