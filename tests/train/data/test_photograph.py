"""Photographs and masks, as people have them, to two arrays of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import disc, save
from synthetic_data import photograph, write_pair

from m2l_train.data.pairing import Pair
from m2l_train.data.photograph import PairError, read_pair


def pair(folder: Path, image: str, mask: str = "mask.png") -> Pair:
    return Pair("x", folder / image, folder / mask)


def test_photograph__both_are_squashed_bicubic_straight_from_their_own_size(tmp_path: Path) -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[50:200, 100:250] = 255
    save(tmp_path / "mask.png", mask)
    save(tmp_path / "photo.png", photograph(mask, 1))
    found = read_pair(pair(tmp_path, "photo.png"), 286)
    with Image.open(tmp_path / "photo.png") as picture:
        expected = np.array(picture.resize((286, 286), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found.image, expected)
    with Image.open(tmp_path / "mask.png") as picture:
        expected = np.array(picture.resize((286, 286), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found.mask, expected)
    assert (found.original_size, found.notes) == ((300, 400), ())
    assert found.lesion_fraction == pytest.approx(150 * 150 / 120_000)


@pytest.mark.parametrize(("mode", "note"), [("L", "greyscale"), ("CMYK", "CMYK"), ("P", "P"), ("RGBA", "RGBA")])
def test_photograph__other_colour_modes_become_rgb_and_are_noted(tmp_path: Path, mode: str, note: str) -> None:
    mask = disc(100, 30, 50, 50)
    save(tmp_path / "mask.png", mask)
    picture = Image.fromarray(photograph(mask, 2))
    picture.convert(mode).save(tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png"))
    found = read_pair(pair(tmp_path, "photo.tif" if mode == "CMYK" else "photo.png"), 100)
    assert found.notes == (note,)
    expected = np.array(picture.convert("L").convert("RGB") if mode == "L" else picture).astype(int)
    assert np.abs(found.image - expected).mean() < (20 if mode == "P" else 3)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_photograph__exif_orientation_is_heeded_unless_the_mask_does_not(tmp_path: Path, turn: int) -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[5:20, 10:50] = 255
    upright = Image.fromarray(photograph(mask, 3))
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[turn]
    stored = upright if turned is None else upright.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "photo.png", exif=exif)
    save(tmp_path / "mask.png", mask)
    found = read_pair(pair(tmp_path, "photo.png"), 64)
    np.testing.assert_array_equal(found.image, np.array(upright.resize((64, 64), Image.Resampling.BICUBIC)))
    assert found.notes == ()
    if turn in (6, 8):  # drawn on the pixels as they are stored
        assert turned is not None
        Image.fromarray(mask).transpose(turned).save(tmp_path / "stored.png")
        found = read_pair(pair(tmp_path, "photo.png", "stored.png"), 64)
        np.testing.assert_array_equal(found.image, np.array(stored.resize((64, 64), Image.Resampling.BICUBIC)))
        assert found.notes == ("EXIF orientation ignored, as its mask does",)


def test_photograph__another_size_of_the_same_aspect_is_noted(tmp_path: Path) -> None:
    save(tmp_path / "mask.png", np.zeros((50, 100), np.uint8))
    save(tmp_path / "photo.png", photograph(np.zeros((100, 200), np.uint8), 4))
    assert read_pair(pair(tmp_path, "photo.png"), 64).notes == ("sizes differ", "empty")


def write_bad(folder: Path, what: str) -> None:
    mask = disc(80, 20, 40, 40)
    save(folder / "mask.png", mask)
    save(folder / "photo.png", photograph(mask, 5))
    writers: dict[str, Any] = {
        "text": lambda: (folder / "photo.png").write_text("hello"),
        "truncated": lambda: (folder / "photo.png").write_bytes((folder / "photo.png").read_bytes()[:600]),
        "absent": lambda: (folder / "photo.png").unlink(),
        "no mask": lambda: save(folder / "mask.png", photograph(mask, 5)),
        "aspect": lambda: save(folder / "mask.png", np.zeros((80, 100), np.uint8)),
        "16 bit": lambda: save(folder / "photo.png", np.full((80, 80), 40000, np.uint16)),
    }
    writers[what]()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("text", r"photo\.png: is not a PNG"),
        ("truncated", r"photo\.png: is damaged or truncated"),
        ("absent", r"photo\.png: cannot be read: No such file"),
        ("no mask", r"mask\.png: looks like a photograph"),
        ("aspect", r"mask\.png: is 100 x 80 pixels, its photograph 80 x 80; expected the same size"),
        ("16 bit", r"photo\.png: has the colour mode I;16; expected an 8-bit colour photograph"),
    ],
)
def test_photograph__what_cannot_be_used_is_named(tmp_path: Path, what: str, message: str) -> None:
    write_bad(tmp_path, what)
    with pytest.raises(PairError, match=message):
        read_pair(pair(tmp_path, "photo.png"), 64)


def test_photograph__a_combined_picture_with_jpeg_noise(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 3, suffix=".png")
    halves = [np.array(Image.open(tmp_path / n).convert("RGB")) for n in ("a_segmentation.png", "a.png")]
    Image.fromarray(np.concatenate(halves, 1)).save(tmp_path / "ab.jpg", quality=90)
    both = Pair("ab", tmp_path / "ab.jpg", tmp_path / "ab.jpg")
    found, apart = read_pair(both, 160), read_pair(pair(tmp_path, "a.png", "a_segmentation.png"), 160)
    assert np.abs(found.mask.astype(int) - apart.mask).mean() < 2
    assert np.abs(found.image.astype(int) - apart.image).mean() < 5
    with pytest.raises(PairError, match="its right half, the mask.*photograph"):
        read_pair(both, 160, mask_is_left=False)


@pytest.mark.parametrize("side", [64, 256, 286])
@pytest.mark.parametrize("mask_is_left", [True, False])
def test_photograph__color_that_jpeg_carries_over_the_seam(tmp_path: Path, side: int, mask_is_left: bool) -> None:
    mask = disc(side, side / 4, side / 2, side / 2)
    mask[side // 3 : side // 2, : side // 2] = mask[side // 3 : side // 2, side // 2 :] = 255  # up to both edges
    image = np.empty((side, side, 3), np.uint8)
    image[:] = (230, 120, 90)
    halves = [np.repeat(mask[:, :, None], 3, 2), image]
    both = np.concatenate(halves if mask_is_left else halves[::-1], 1)
    save(tmp_path / "ab.jpg", both, quality=95, subsampling="4:2:0")
    with Image.open(tmp_path / "ab.jpg") as picture:
        picture.save(tmp_path / "ab.png")  # that it was a JPEG cannot be seen any more
        picture.save(tmp_path / "ab.webp", quality=90)
    for name in ("ab.jpg", "ab.png", "ab.webp"):
        found = read_pair(Pair("ab", tmp_path / name, tmp_path / name), side, mask_is_left=mask_is_left)
        assert np.abs(found.mask.astype(int) - mask).max() < 90
        assert ((found.mask > 127) == (mask > 127)).mean() > 0.998


def test_photograph__labels_in_a_combined_picture_are_refused(tmp_path: Path) -> None:
    labels = np.where(disc(96, 30, 50, 50) > 0, np.uint8(1), np.uint8(0))
    labels[10:12] = 255
    save(
        tmp_path / "ab.png",
        np.concatenate([np.repeat(labels[:, :, None], 3, 2), photograph(disc(96, 30, 50, 50), 1)], 1),
    )
    with pytest.raises(PairError, match="its left half, the mask.*class labels"):
        read_pair(Pair("ab", tmp_path / "ab.png", tmp_path / "ab.png"), 96)
