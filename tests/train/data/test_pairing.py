"""Which mask belongs to which photograph."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2l_runtime.errors import InputError
from m2l_train.data.data_folder import open_data
from m2l_train.data.pairing import Pairing, PairPattern, find_pairs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def matched(found: Pairing) -> list[tuple[str, str]]:
    return [(pair.image.name, pair.mask.name) for pair in found.pairs]


def test_pairing__the_names_of_isic_in_two_folders_or_one(tmp_path: Path) -> None:
    images = ("ISIC_0000001.jpg", "ISIC_0000002.JPG", "ISIC_0000001_superpixels.png", "metadata.csv")
    masks = ("ISIC_0000001_segmentation.png", "ISIC_0000002_Segmentation.PNG")
    expected = [(images[0], masks[0]), (images[1], masks[1])]
    two = find_pairs(touch(tmp_path / "i", *images), touch(tmp_path / "m", *masks))
    one = find_pairs(touch(tmp_path / "both", *images, *masks), tmp_path / "both")
    mixed = find_pairs(tmp_path / "i", touch(tmp_path / "mixed", *images, *masks))
    assert matched(two) == matched(one) == matched(mixed) == expected
    for found in (two, one):
        assert (found.images_without_mask, found.masks_without_image, found.ambiguous) == ([], [], [])


def test_pairing__the_names_of_ph2_and_equal_names(tmp_path: Path) -> None:
    folder = touch(tmp_path / "ph2", "IMD003/a/IMD003.bmp", "IMD003/b/IMD003_lesion.bmp")
    assert matched(find_pairs(folder, folder)) == [("IMD003.bmp", "IMD003_lesion.bmp")]
    touch(tmp_path, "x/Photo.tif", "x/other.jpeg", "y/photo.png", "y/other_mask.png")
    assert matched(find_pairs(tmp_path / "x", tmp_path / "y")) == [
        ("Photo.tif", "photo.png"),
        ("other.jpeg", "other_mask.png"),
    ]


def test_pairing__what_does_not_pair_is_told(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "b.jpg", "c.jpg", "sub/c.png")
    masks = touch(tmp_path / "m", "a_segmentation.png", "c.png", "d_segmentation.png")
    found = find_pairs(images, masks)
    assert matched(found) == [("a.jpg", "a_segmentation.png")]
    assert found.images_without_mask == ["b.jpg"]
    assert found.masks_without_image == ["d_segmentation.png"]
    assert found.ambiguous == ["c.jpg", "c.png", "sub/c.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has 0 pairs to train on, at least 2"),
        (["train/images/a.jpg", "train/masks/a.png"], "has 1 pair to train on"),
        (["images/a.jpg", "images/b.jpg"], "has images but no masks"),
        (["images/a.jpg", "images/b.jpg", "masks/a.png"], r"1 photograph without a mask \(b.jpg\); m2l prepare"),
        (["images/a.jpg", "masks/a.png", "masks/b.png"], "1 mask without a photograph"),
    ],
)
def test_pairing__folders_that_cannot_be_trained_on(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_data(touch(tmp_path, *files))
    with pytest.raises(InputError, match="does not exist; expected a folder of pairs"):
        open_data(tmp_path / "absent")


def test_pairing__all_layouts_are_read(tmp_path: Path) -> None:
    split = touch(
        tmp_path / "split", *(f"{s}/{k}/{n}.png" for s in ("train", "val") for k in ("images", "masks") for n in "ab")
    )
    plain = touch(tmp_path / "plain", *(f"{k}/{n}.png" for k in ("images", "masks") for n in "abc"))
    combined = touch(tmp_path / "combined", "train/1.jpg", "train/2.jpg", "val/3.jpg", "test/4.jpg")
    flat = touch(tmp_path / "flat", "1.png", "2.png")
    for folder, train, val, is_combined in (
        (split, 2, 2, False),
        (plain, 3, 0, False),
        (combined, 2, 1, True),
        (flat, 2, 0, True),
    ):
        found = open_data(folder)
        assert (len(found.train), len(found.val)) == (train, val), folder
        assert {pair.is_combined for pair in found.train} == {is_combined}
        assert bool(found.warnings) == (val == 0)


@pytest.mark.parametrize(
    ("pattern", "image", "mask", "other"),
    [
        ("NAME_expert", "a.jpg", "a_expert.png", "a_novice.png"),
        ("NAME_expert", "A.JPG", "a_Expert.PNG", "b.png"),
        ("NAME_downsampled:NAME_segmentation", "a_downsampled.jpg", "a_segmentation.png", "a.txt"),
        ("NAME_attribute_globules", "a.jpg", "a_attribute_globules.png", "a_attribute_streaks.png"),
        ("img-NAME:gt-NAME-*", "img-7.jpg", "gt-7-x2.png", "seg-7.png"),
    ],
)
def test_pairing__ones_own_pattern(tmp_path: Path, pattern: str, image: str, mask: str, other: str) -> None:
    parsed = PairPattern.parse(pattern)
    two = find_pairs(touch(tmp_path / "i", image), touch(tmp_path / "m", mask, other), parsed)
    assert matched(two) == [(image, mask)]
    one = find_pairs(touch(tmp_path / "both", image, mask), tmp_path / "both", parsed)
    assert matched(one) == [(image, mask)]


@pytest.mark.parametrize("pattern", ["", "_expert", "NAMENAME", "NAME:NAME:NAME", ":", "NAME_x:", ":NAME"])
def test_pairing__a_pattern_that_is_none(pattern: str) -> None:
    with pytest.raises(InputError, match=f"MASK or IMAGE:MASK with NAME once in each.*got '{pattern}'"):
        PairPattern.parse(pattern)


def test_pairing__copies_with_equal_bytes_count_once(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "one/a.jpg", "two/a.jpg", "one/b.jpg", "two/b.jpg")
    masks = touch(tmp_path / "m", "one/a.png", "two/a.png", "b.png")
    (images / "two" / "b.jpg").write_bytes(b"y")
    found = find_pairs(images, masks)
    assert [(pair.image, pair.mask) for pair in found.pairs] == [(images / "one/a.jpg", masks / "one/a.png")]
    assert found.ambiguous == ["b.png", "one/b.jpg", "two/b.jpg"]


def test_pairing__files_whose_endings_are_not_read_are_named(tmp_path: Path) -> None:
    for kind, names in (("images", "abc"), ("masks", "abc")):
        touch(tmp_path / kind, *(f"{name}.png" for name in names))
    touch(tmp_path / "masks", "d.npy", "e.dcm", "notes.csv", "LICENSE", "e_superpixels.png")
    found = open_data(tmp_path)
    assert any("2 files are passed over, as their endings are not read (d.npy, e.dcm)" in w for w in found.warnings)


@pytest.mark.parametrize("suffix", ["_segmentation", "_lesion", "_mask", "_Segmentation", "_segmentation_sample1", ""])
def test_pairing__equal_names_pair_first(tmp_path: Path, suffix: str) -> None:
    """What m2l synth --pairs writes of masks that are named as ISIC, PH2 and others name them."""
    for place, name in enumerate(("A", "B")):
        for folder in ("images", "masks"):
            file(tmp_path / folder / f"{name}{suffix}.png", f"{folder} {place}".encode())
    found = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [(pair.name, pair.image.parent.name, pair.mask.name) for pair in found.pairs] == [
        (f"{name}{suffix}", "images", f"{name}{suffix}.png") for name in ("A", "B")
    ]
    assert found.images_without_mask + found.masks_without_image + found.ambiguous == []


def test_pairing__a_mask_beside_its_photograph_is_no_photograph(tmp_path: Path) -> None:
    for name in ("images/A.jpg", "images/A_segmentation.png", "masks/A_segmentation.png"):
        file(tmp_path / name, name.encode())
    (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks").pairs
    assert (pair.image.name, pair.mask.parent.name) == ("A.jpg", "masks")


def test_pairing__a_mask_is_not_the_photograph_of_its_copy(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        file(tmp_path / folder / "A_segmentation.png", b"the same")
    assert find_pairs(tmp_path / "images", tmp_path / "masks").pairs == []
