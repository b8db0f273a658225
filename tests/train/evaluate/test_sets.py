"""Files to sets: layouts, names, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import masks, photographs, write, write_data
from PIL import Image
from support import save

from m2l_runtime.errors import InputError
from m2l_runtime.output.encoding import FAKE, SYNTHETIC, Encoding, ImageProvenance, encode_image
from m2l_train.data.pairing import Pair
from m2l_train.evaluate import sets

TEXT = {
    "Description": SYNTHETIC,
    "Software": "m2l 0.1",
    "m2l-bundle-sha256": "ab" * 32,
    "m2l-backend": "engine, cpu, fp32",
}


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("is_fake", [False, True])
def test_sets__images_of_m2l_are_known_by_what_they_say(tmp_path: Path, format_: str, is_fake: bool) -> None:
    path = tmp_path / f"image.{format_}"
    text = TEXT | {"Description": FAKE} if is_fake else TEXT
    path.write_bytes(encode_image(photographs(1)[0], masks(1)[0], Encoding(format_), text))  # type: ignore[arg-type]
    assert sets.image_provenance(path) == ImageProvenance("ab" * 32, is_fake)
    pair = Pair("image", path, path)
    with pytest.raises(InputError, match=r"image\.\w+ says that m2l made it"):
        sets.refuse_synthetic([pair], 1)
    assert sets.image_provenance(save(tmp_path / "plain.png", photographs(1)[0])) is None
    (tmp_path / "none.png").write_bytes(b"none")
    assert sets.image_provenance(tmp_path / "none.png") is None


def test_sets__splits(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 4, 3)
    found = sets.find_real(data, None)
    assert ([p.name for p in found.pairs], len(found.reference), found.split) == (["p100", "p101", "p102"], 4, "val")
    assert found.has_masks
    assert found.warnings == ()
    train = sets.find_real(data, "train")
    assert (len(train.pairs), train.reference) == (4, ())
    assert "itself is evaluated" in train.warnings[0]
    (data / "val").rename(data / "test")
    assert [p.name for p in sets.find_real(data, "test").pairs] == ["p100", "p101", "p102"]
    with pytest.raises(InputError, match="has no split 'val', only train"):
        sets.find_real(data, None)
    with pytest.raises(InputError, match="a split is the name of a folder"):
        sets.find_real(data, "../data")


def test_sets__data_without_splits(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 0, 3) / "val"
    found = sets.find_real(data, None)
    assert (len(found.pairs), found.has_masks, found.reference, found.split) == (3, True, (), None)
    assert "has no train split" in found.warnings[0]
    with pytest.raises(InputError, match="leave out --split"):
        sets.find_real(data, "val")
    photographs_alone = sets.find_real(data / "images", None)
    assert (len(photographs_alone.pairs), photographs_alone.has_masks) == (3, False)
    beside = write(tmp_path / "beside", photographs(2))
    write(beside, masks(2), suffix="_segmentation")
    assert [(p.name, p.mask.name) for p in sets.find_real(beside, None).pairs] == [
        ("p000", "p000_segmentation.png"),
        ("p001", "p001_segmentation.png"),
    ]


def test_sets__combined_pictures(tmp_path: Path) -> None:
    wide = np.concatenate([np.repeat(masks(3)[..., None], 3, 3), photographs(3)], 2)
    found = sets.find_real(write(tmp_path / "combined", wide), None)
    read = sets.read_pairs(found.pairs, 64, workers=2)
    np.testing.assert_array_equal(read.masks, masks(3))
    np.testing.assert_array_equal(read.images, photographs(3))


def test_sets__what_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (("missing", "does not exist"), ("file", "is not a folder"), ("empty", "holds no picture")):
        with pytest.raises(InputError, match=message):
            sets.find_real(tmp_path / name, None)
        with pytest.raises(InputError, match=message):
            sets.find_synthetic(tmp_path / name)
    write(tmp_path / "other" / "images", photographs(2))
    write(tmp_path / "other" / "masks", masks(2), first=7)
    with pytest.raises(InputError, match="no photograph in .* has a mask"):
        sets.find_real(tmp_path / "other", None)


def test_sets__real_images_are_squashed_as_training_squashes_them(tmp_path: Path) -> None:
    image = np.asarray(Image.fromarray(photographs(1, 128)[0]).resize((200, 100)))
    mask = np.asarray(Image.fromarray(masks(1, 128)[0]).resize((200, 100), Image.Resampling.NEAREST))
    for kind, picture in (("images", image), ("masks", mask)):
        write(tmp_path / kind, np.stack([picture] * 2))
    read = sets.read_pairs(sets.find_real(tmp_path, None).pairs, 64, workers=1)
    for array, picture in ((read.images[0], image), (read.masks[0], mask)):
        np.testing.assert_array_equal(array, Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC))


def test_sets__pairs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 0, 4) / "val"
    (data / "images" / "p101.png").write_bytes(b"none")
    read = sets.read_pairs(sets.find_real(data, None).pairs, 64, workers=2)
    assert read.names == ("p100", "p102", "p103")
    assert "p101.png: is not a PNG" in read.problems[0]
    for name in ("p100", "p102"):
        (data / "images" / f"{name}.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"1 pair can be used, at least 2 are needed: .*p100\.png"):
        sets.read_pairs(sets.find_real(data, None).pairs, 64, workers=2)


def test_sets__synthesized_images_are_of_one_size(tmp_path: Path) -> None:
    folder = write(tmp_path / "images", photographs(3))
    found = sets.find_synthetic(tmp_path)  # as with --pairs
    assert sorted(found.by_key) == ["p000", "p001", "p002"]
    assert sets.read_synthetic(list(found.by_key.values()), 2).shape == (3, 64, 64, 3)
    save(folder / "p001.png", photographs(1, 96)[0])
    with pytest.raises(InputError, match=r"p001\.png is 96 x 96 pixels, others are 64 x 64"):
        sets.read_synthetic(list(found.by_key.values()), 2)
    for side, shape in ((16, "16 x 16"), (1040, "1040 x 1040")):
        with pytest.raises(InputError, match=f"{shape} pixels; expected sides of 32 to 1024"):
            sets.check_side(side, side)
    with pytest.raises(InputError, match="16 x 64 pixels"):
        sets.check_side(64, 16)
    sets.check_side(64, 48)
    (folder / "p002.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"p002\.png: is not a PNG"):
        sets.read_synthetic([folder / "p002.png"], 1)


def test_sets__names_that_several_images_share_are_not_used(tmp_path: Path) -> None:
    write(tmp_path / "a", photographs(2))
    write(tmp_path / "b", photographs(1), suffix="_segmentation")
    found = sets.find_synthetic(tmp_path)
    assert list(found.by_key) == ["p001"]
    assert found.ambiguous == ("a/p000.png", "b/p000_segmentation.png")


def test_sets__samples_and_fingerprints() -> None:
    assert sets.sample(5, 9, 0, "a") == [0, 1, 2, 3, 4]
    some = sets.sample(100, 9, 0, "a")
    assert len(set(some)) == 9
    assert some == sorted(some) == sets.sample(100, 9, 0, "a") != sets.sample(100, 9, 1, "a")
    names, images, all_masks = ("a", "b"), photographs(2), masks(2)
    prints = {
        sets.fingerprint(names, images, all_masks),
        sets.fingerprint(("a", "c"), images, all_masks),
        sets.fingerprint(names, images[::-1], all_masks),
        sets.fingerprint(names, images, all_masks[::-1]),
    }
    assert len(prints) == 4


def test_sets__work_in_threads_stays_in_order_and_only_a_little_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield number

    found = sets.in_threads(lambda number: number * number, numbers(), 2)
    assert next(found) == 0
    assert len(taken) <= 2 * sets._AHEAD + 1
    assert list(found) == [n * n for n in range(1, 200)]
