"""Read folders of synthesized and of real images as arrays of one size that belong together.

Which synthesized image belongs to which real one is told by their names, as masks and photographs are paired
(:func:`m2l_train.data.pairing.pair_key`). Real images are squashed to the size of the synthesized ones, bicubic with
antialiasing, as training does.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.sides import both_sides
from m2l_runtime._utils.text import plural, printable, stem
from m2l_runtime.bundle.schema import MANIFEST_NAME
from m2l_runtime.conditioning.random import random_permutation
from m2l_runtime.errors import InputError, PictureFileError
from m2l_runtime.masks.image_file import decode, open_header, read_bytes
from m2l_runtime.masks.mask_file import BLACK_BELOW, MAX_GRAY_FRACTION, WHITE_FROM
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.samples import split_sample
from m2l_runtime.output.encoding import ImageProvenance, read_image_provenance
from m2l_runtime.types import Image, Images, Mask, Masks
from m2l_train.data.data_folder import IMAGES, MASKS, TRAIN, VAL, are_combined
from m2l_train.data.pairing import Pair, find_pairs, pair_key
from m2l_train.data.photograph import PairError, read_pair

MIN_IMAGES: Final = 2
BUNDLE_ELSEWHERE: Final = "is a bundle; expected a folder of real pairs there: m2l evaluate bundle DATA BUNDLE"
"""What is said of a bundle that is given as data."""
MIN_SIDE: Final = 32
MAX_SIDE: Final = 1024
_SHOWN: Final = 3
_AHEAD: Final = 8

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

Finish = Callable[[Path, Image], Image]
"""Of a file of a photograph and the image (H, W, 3) read from it, to the image that counts."""


def _as_read(path: Path, image: Image) -> Image:
    return image


@dataclass(frozen=True)
class RealFiles:
    """List files of real images: those to evaluate, and those of the training split."""

    pairs: tuple[Pair, ...]
    """To evaluate; where there are no masks, `mask` is `image` and `has_masks` is False."""
    has_masks: bool
    mask_is_left: bool
    """Of combined pictures."""
    reference: tuple[Pair, ...]
    """Of the training split; empty if there is none, or if it is what is evaluated."""
    split: str | None
    """What is evaluated; None where there are no splits."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RealSet:
    """Hold real images and their masks, in the order of `names`."""

    names: tuple[str, ...]
    images: Images
    """uint8 (N, H, W, 3)."""
    masks: Masks
    """uint8 (N, H, W); all 0 where there are none."""
    problems: tuple[str, ...]
    """A line for each pair left out because it cannot be read."""


@dataclass(frozen=True)
class SyntheticFiles:
    """List files of synthesized images by the key that they share with masks and photographs."""

    folder: Path
    by_key: Mapping[str, Path]
    ambiguous: tuple[str, ...]
    """Names that share a key with others; none of them is used."""
    label: str
    """What the set is called in the result: the folder's name, and of more samples of its masks their number."""
    more: tuple[SyntheticFiles, ...] = ()
    """Further images of the same masks in the same folder, of `m2l synth --samples`: a set for each sample."""


def in_threads(work: Callable[[Item], Outcome], items: Iterable[Item], workers: int) -> Iterator[Outcome]:
    """Yield `work` of each item, in order, `workers` at a time and only a few ahead of the caller."""
    pending: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(workers, "m2l-evaluate") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > _AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def image_provenance(path: Path) -> ImageProvenance | None:
    """Read the provenance in a picture's header; None if it has none of m2l, or cannot be read."""
    if not path.is_file():  # a pipe would wait for somebody to write to it
        return None
    try:
        with open_header(path) as picture:
            return read_image_provenance(picture)
    except Exception:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        return None  # told when it is read


def find_real(data: str | os.PathLike[str], split: str | None, *, mask_is_left: bool = True) -> RealFiles:
    """Find the real images to evaluate by, in the layouts of :mod:`m2l_train.data.data_folder`, or without masks.

    Args:
        data: a data folder with splits, with `images` and `masks`, of photographs beside their masks, of combined
            pictures, or of photographs alone.
        split: which one; None: val, or all where there are no splits.
        mask_is_left: of combined pictures.

    Raises:
        InputError: the folder is not there, has no such split, or no picture.
    """
    root = Path(data)
    if not root.is_dir():
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise InputError(f"{printable(root)} {what}; expected a folder of pairs, as m2l prepare makes it")
    wanted = VAL if split is None else split
    if Path(wanted).name != wanted or wanted in (IMAGES, MASKS):
        raise InputError(f"a split is the name of a folder in {printable(root)}, got '{printable(wanted)}'")
    splits = [name for name in dict.fromkeys((TRAIN, VAL, wanted)) if (root / name).is_dir()]
    if not splits:
        if split is not None:
            raise InputError(f"{printable(root)} has no splits; leave out --split to evaluate all of it")
        pairs, has_masks, warnings = _pairs_in(root)
        reason = f"{printable(root)} has no {TRAIN} split: there is nothing to measure real images against"
        return RealFiles(pairs, has_masks, mask_is_left, (), None, (*warnings, reason))
    if wanted not in splits:
        raise InputError(f"{printable(root)} has no split '{printable(wanted)}', only {', '.join(splits)}; see --split")
    pairs, has_masks, warnings = _pairs_in(root / wanted)
    reference: tuple[Pair, ...] = ()
    if wanted == TRAIN:
        warnings.append(f"the {TRAIN} split itself is evaluated: there is nothing else to measure real images against")
    elif TRAIN in splits:
        reference, reference_has_masks, more = _pairs_in(root / TRAIN)
        warnings += more
        if has_masks and not reference_has_masks:
            raise InputError(f"{printable(root / TRAIN)} has no masks, {printable(root / wanted)} has; expected both")
    else:
        warnings.append(f"{printable(root)} has no {TRAIN} split: there is nothing to measure real images against")
    return RealFiles(pairs, has_masks, mask_is_left, reference, wanted, tuple(warnings))


def _pairs_in(folder: Path) -> tuple[tuple[Pair, ...], bool, list[str]]:
    """Return (pairs, whether they have masks, warnings)."""
    images = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    masks = folder / MASKS if images != folder and (folder / MASKS).is_dir() else images
    pairing = find_pairs(images, masks)
    if pairing.pairs:
        warnings = []
        for names, noun, what in (
            (pairing.images_without_mask, "photograph", "without a mask"),
            (pairing.masks_without_image, "mask", "without a photograph"),
            (pairing.ambiguous, "name", "that pairs with several files"),
        ):
            if names:
                warnings.append(
                    f"{printable(folder)}: not used: {plural(len(names), noun)} {what}: {_first_names(names)}"
                )
        return tuple(pairing.pairs), True, warnings
    listed = find_masks(images)
    loose = tuple(Pair(stem(name), listed.path(name), listed.path(name)) for name in listed.names)
    if not loose:
        what = BUNDLE_ELSEWHERE if is_bundle(folder) else "holds no picture; expected photographs and their masks"
        raise InputError(f"{printable(folder)} {what}")
    if masks != images:
        raise InputError(
            f"no photograph in {printable(images)} has a mask in {printable(masks)}; expected equal names, or "
            "NAME_segmentation, as m2l prepare pairs them"
        )
    return loose, are_combined(loose), []


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder was given that is a bundle, by the name of its manifest."""
    return (Path(path) / MANIFEST_NAME).is_file()


def refuse_synthetic(pairs: Sequence[Pair], workers: int) -> None:
    """Make sure that no file of real images says that m2l made it.

    Raises:
        InputError: one does.
    """
    paths = [pair.image for pair in pairs]
    synthetic_paths = [
        path
        for path, found in zip(paths, in_threads(image_provenance, paths, workers), strict=True)
        if found is not None
    ]
    if synthetic_paths:
        count = len(synthetic_paths) - 1
        more = f", and so do {count} more of the files given as real" if count else ""
        raise InputError(
            f"{printable(synthetic_paths[0])} says that m2l made it{more}; expected photographs: synthesized "
            "images are "
            "no yardstick for themselves"
        )


def read_pairs(
    pairs: Sequence[Pair],
    size: int | tuple[int, int],
    *,
    workers: int,
    has_masks: bool = True,
    mask_is_left: bool = True,
    finish: Finish = _as_read,
) -> RealSet:
    """Decode pairs and squash them to one size (a side, or height and width); name and leave out what cannot be read.

    `finish` is called with each file and its image, and returns the image that counts.

    Raises:
        InputError: fewer than two can be read.
    """
    names, images, masks, problems = [], [], [], []
    for name, image, mask, problem in iterate_pairs(
        pairs, size, workers=workers, has_masks=has_masks, mask_is_left=mask_is_left, finish=finish
    ):
        if image is None or mask is None:
            problems.append(problem)
            continue
        names.append(name)
        images.append(image)
        masks.append(mask)
    if len(names) < MIN_IMAGES:
        first = f": {problems[0]}" if problems else ""
        raise InputError(f"{plural(len(names), 'pair')} can be used, at least {MIN_IMAGES} are needed{first}")
    return RealSet(tuple(names), np.stack(images), np.stack(masks), tuple(problems))


def iterate_pairs(
    pairs: Sequence[Pair],
    size: int | tuple[int, int],
    *,
    workers: int,
    has_masks: bool = True,
    mask_is_left: bool = True,
    finish: Finish = _as_read,
) -> Iterator[tuple[str, Image | None, Mask | None, str]]:
    """Yield (name, image, mask, "") of each pair, in order; (name, None, None, problem) of one that cannot be read."""
    sides = both_sides(size)

    def read(pair: Pair) -> tuple[str, Image | None, Mask | None, str]:
        try:
            if not has_masks:
                return pair.name, finish(pair.image, read_photograph(pair.image, sides)), np.zeros(sides, np.uint8), ""
            arrays = read_pair(pair, sides, mask_is_left=mask_is_left)
        except PairError as error:
            return pair.name, None, None, str(error)
        return pair.name, finish(pair.image, arrays.image), arrays.mask, ""

    yield from in_threads(read, pairs, workers)


def read_photograph(path: Path, size: tuple[int, int]) -> Image:
    """Decode a photograph and squash it to a size (H, W).

    Raises:
        PairError: it cannot be read.
    """
    try:
        picture = decode(read_bytes(path)).convert("RGB")
    except PictureFileError as error:
        raise PairError(f"{printable(path)}: {error}") from None
    return np.array(picture.resize(size[::-1], PillowImage.Resampling.BICUBIC))


def find_synthetic(folder: str | os.PathLike[str], real_keys: Collection[str] = ()) -> SyntheticFiles:
    """Find the images that `m2l synth` has written to a folder, with or without ``--pairs`` and ``--samples``.

    Args:
        folder: what `m2l synth` wrote to.
        real_keys: what the names of the real pairs are matched by. NAME_sample2 is the second sample of NAME where a
            pair is called NAME and none NAME_sample2; without pairs every image counts for itself.

    Raises:
        InputError: the folder is not there or holds no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise InputError(f"{printable(root)} {what}; expected a folder of images, as m2l synth makes it")
    if (root / IMAGES).is_dir():
        root = root / IMAGES
    listed = find_masks(root)
    if not listed.names:
        raise InputError(
            f"{printable(root)} holds no picture; expected png, jpeg or webp images of m2l synth (tars, parquet and "
            "npz are not read here)"
        )
    by_sample: dict[int, dict[str, list[str]]] = {}
    for name in listed.names:
        key, number = _key_and_sample(name, real_keys)
        by_sample.setdefault(number, {}).setdefault(key, []).append(name)
    label = Path(folder).resolve().name
    first, *more = (
        SyntheticFiles(
            root,
            {key: listed.path(names[0]) for key, names in by_key.items() if len(names) == 1},
            tuple(name for names in by_key.values() if len(names) > 1 for name in names),
            label if place == 0 else f"{label}, sample {number}",
        )
        for place, (number, by_key) in enumerate(sorted(by_sample.items()))
    )
    return replace(first, more=tuple(more))


def _key_and_sample(name: str, real_keys: Collection[str]) -> tuple[str, int]:
    """Return the key of an image and the number of the sample, 1 where its name has none."""
    own = pair_key(name)
    source, number = split_sample(os.path.basename(stem(name)))  # noqa: PTH119
    key = pair_key(f"{source}.png")
    return (own, 1) if number is None or own in real_keys or key not in real_keys else (key, number)


def read_synthetic(paths: Sequence[Path], workers: int) -> Images:
    """Decode synthesized images, which must all be of one size.

    Raises:
        InputError: one cannot be read, is no RGB picture, or is of another size than the others.
    """

    def read(path: Path) -> Image:
        try:
            picture = decode(read_bytes(path))
        except PictureFileError as error:
            raise InputError(f"{printable(path)}: {error}") from None
        return np.array(picture.convert("RGB"))

    images = list(in_threads(read, paths, workers))
    sizes = Counter(image.shape[:2] for image in images)
    (height, width), _ = sizes.most_common(1)[0]
    if len(sizes) > 1:
        other = next(i for i, image in enumerate(images) if image.shape[:2] != (height, width))
        raise InputError(
            f"{printable(paths[other])} is {images[other].shape[1]} x {images[other].shape[0]} pixels, others are "
            f"{width} x {height}; expected one size: m2l synth writes it without --output-size original"
        )
    check_side(height, width)
    return np.stack(images)


def refuse_masks(images: Images, folder: Path) -> None:
    """Make sure that most of the images (N, S, S, 3) are no masks: black and white, with few greys.

    Raises:
        InputError
    """
    masks = sum(
        bool((image == image[:, :, :1]).all())
        and float(((image[:, :, 0] >= BLACK_BELOW) & (image[:, :, 0] < WHITE_FROM)).mean()) <= MAX_GRAY_FRACTION
        for image in images
    )
    if 2 * masks > len(images):
        raise InputError(
            f"{masks} of {plural(len(images), 'image')} in {printable(folder)} are black and white, as masks are; "
            "expected the images that m2l synth makes of them"
        )


def check_side(height: int, width: int) -> None:
    """Make sure that images of this size can be evaluated.

    Raises:
        InputError: they are too small or too large.
    """
    if not MIN_SIDE <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise InputError(
            f"the synthesized images are {width} x {height} pixels; expected sides of {MIN_SIDE} to {MAX_SIDE}"
        )


def sample(count: int, max_count: int, seed: int, *names: str | int) -> list[int]:
    """Draw `max_count` of the places 0..count-1 by `seed`, in order; all of them if there are not more."""
    if count <= max_count:
        return list(range(count))
    return sorted(int(place) for place in random_permutation(count, seed, "evaluate", "sample", *names)[:max_count])


def fingerprint(names: Sequence[str], images: Images, masks: Masks) -> str:
    """Return the SHA-256 of names and pixels: two sets that share it are the same, decoded and resized alike."""
    hashed = hashlib.sha256(f"{images.shape} {masks.shape}".encode())
    for name, image, mask in zip(names, images, masks, strict=True):
        content = name.encode(errors="surrogateescape")
        hashed.update(len(content).to_bytes(8, "little") + content)
        hashed.update(image.tobytes())
        hashed.update(mask.tobytes())
    return hashed.hexdigest()


def _first_names(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
