"""Pairs to batches: what is drawn, and that mask and image stay together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_data import data_folder

from m2l_train.config import TrainConfig
from m2l_train.data.batches import augment, epoch_batches, order
from m2l_train.data.data_folder import open_data
from m2l_train.data.decoded_cache import decode_pairs, map_pixels
from m2l_train.data.photograph import DecodedPair, PairError

GOLDEN_ORDER = [0, 1, 9, 6, 8, 3, 5, 4, 7, 2]
SMALL = TrainConfig(image_size=128, batch_size=2)


def coordinates(side: int) -> DecodedPair:
    """A picture whose pixels say where they are, and a mask that says in which row."""
    rows, columns = np.mgrid[:side, :side]
    image = np.stack([rows & 255, columns & 255, (rows >> 8) | (columns >> 8) << 1], 2).astype(np.uint8)
    return DecodedPair(image[:, :, 0], image, (side, side), (side, side), 0.5, ())


def test_batches__crops_and_flips_are_the_originals_and_keep_mask_and_image_together() -> None:
    config, arrays = TrainConfig(), coordinates(286)
    tops, lefts, flips = set(), set(), []
    for place in range(600):
        mask, image = augment(arrays, config, 1, place)
        np.testing.assert_array_equal(mask, image[:, :, 0])
        low, column_low, high = np.moveaxis(image.astype(int), 2, 0)
        rows, columns = low + 256 * (high & 1), column_low + 256 * (high >> 1)
        flips.append(bool(columns[0, 0] > columns[0, 1]))
        columns = columns[:, ::-1] if flips[-1] else columns
        top, left = rows[0, 0], columns[0, 0]
        np.testing.assert_array_equal(rows, np.arange(top, top + 256)[:, None].repeat(256, 1))
        np.testing.assert_array_equal(columns, np.arange(left, left + 256)[None].repeat(256, 0))
        tops.add(int(top))
        lefts.add(int(left))
        unflipped = augment(arrays, replace(config, flip=False), 1, place)[1]
        np.testing.assert_array_equal(unflipped, image[:, ::-1] if flips[-1] else image)
    assert tops == lefts == set(range(30)), "offsets are 0..29"
    assert 0.43 < np.mean(flips) < 0.57


def test_batches__what_is_drawn_never_changes() -> None:
    config = TrainConfig(seed=7)
    assert order(10, config, 3) == GOLDEN_ORDER
    assert sorted(order(1000, config, 1)) == list(range(1000))
    orders = [order(1000, c, e) for c, e in ((config, 1), (config, 2), (replace(config, seed=8), 2))]
    assert len(set(map(tuple, orders))) == 3


def test_batches__an_epoch_has_every_pair_once_and_can_be_entered_anywhere(tmp_path: Path) -> None:
    pairs = open_data(data_folder(tmp_path, 7)).train
    with ThreadPoolExecutor(3) as pool:
        whole = list(epoch_batches(pairs, SMALL, 2, pool))
        assert sorted(name for batch in whole for name in batch.names) == [f"p{n:03}.png" for n in range(7)]
        assert [len(batch.names) for batch in whole] == [2, 2, 2, 1]
        assert [batch.last_position for batch in whole] == [1, 3, 5, 6]
        for start in range(4):
            rest = list(epoch_batches(pairs, SMALL, 2, pool, after=whole[start].last_position))
            assert [b.names for b in rest] == [b.names for b in whole[start + 1 :]]
            for one, other in zip(rest, whole[start + 1 :], strict=True):
                np.testing.assert_array_equal(one.images, other.images)
                np.testing.assert_array_equal(one.masks, other.masks)


def test_batches__a_bad_pair_stops_or_is_left_out(tmp_path: Path) -> None:
    data_folder(tmp_path, 5)
    (tmp_path / "train" / "images" / "p002.png").write_bytes(b"no")
    pairs = open_data(tmp_path).train
    with ThreadPoolExecutor(3) as pool:
        with pytest.raises(PairError, match=r"p002\.png: is not a PNG"):
            list(epoch_batches(pairs, SMALL, 1, pool))
        skipped: list[str] = []
        batches = list(epoch_batches(pairs, SMALL, 1, pool, skipped=skipped))
    assert sorted(n for b in batches for n in b.names) == ["p000.png", "p001.png", "p003.png", "p004.png"]
    assert len(skipped) == 1


def test_batches__combined_pictures_either_way_round(tmp_path: Path) -> None:
    data_folder(tmp_path / "apart", 3)
    for direction, folder in (("AtoB", "left"), ("BtoA", "right")):
        (tmp_path / folder / "train").mkdir(parents=True)
        for path in (tmp_path / "apart" / "train" / "images").iterdir():
            mask = np.repeat(np.array(Image.open(tmp_path / "apart" / "train" / "masks" / path.name))[:, :, None], 3, 2)
            halves = [mask, np.array(Image.open(path))]
            both = np.concatenate(halves if direction == "AtoB" else halves[::-1], 1)
            Image.fromarray(both).save(tmp_path / folder / "train" / path.name)
        config = replace(SMALL, direction=direction)  # type: ignore[arg-type]
        with ThreadPoolExecutor(2) as pool:
            expected = list(epoch_batches(open_data(tmp_path / "apart").train, SMALL, 1, pool))
            found = list(epoch_batches(open_data(tmp_path / folder).train, config, 1, pool))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.masks, other.masks)
            np.testing.assert_array_equal(one.images, other.images)


def test_batches__mirrored_margins_are_those_of_pictures_that_have_them(tmp_path: Path) -> None:
    """Pixel -k is pixel k, and likewise at the far end; either way of reading gives the crops of such pictures."""
    plain, made = data_folder(tmp_path / "plain", 5, side=128), tmp_path / "made"
    places = [*range(8, 0, -1), *range(128), *range(126, 118, -1)]
    for file in plain.rglob("*.png"):
        target = made / file.relative_to(plain)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(file))[places][:, places]).save(target)
    config = replace(SMALL, load_size=128, mirror=8, turn=True)
    other = replace(SMALL, load_size=144, turn=True)
    with ThreadPoolExecutor(2) as pool:
        mirrored = list(epoch_batches(open_data(plain).train, config, 1, pool))
        expected = list(epoch_batches(open_data(made).train, other, 1, pool))
        pixels = []
        for name, folder, settings in (("a", plain, config), ("b", made, other)):
            pairs = open_data(folder).train
            decode_pairs(pairs, settings, tmp_path / name, pool, None)
            pixels.append(np.asarray(map_pixels(tmp_path / name, len(pairs), settings.crop_from)))
    assert len(mirrored) == len(expected) == 3
    for one, wanted in zip(mirrored, expected, strict=True):
        np.testing.assert_array_equal(one.images, wanted.images)
        np.testing.assert_array_equal(one.masks, wanted.masks)
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert pixels[0].shape == (5, 144, 144, 4)
