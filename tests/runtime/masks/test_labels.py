"""Maps of class labels are no masks, whatever their largest value is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import disc, save

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.jpeg_noise import is_jpeg_of_black_and_white
from m2l_runtime.masks.mask_file import read_mask

pytestmark = pytest.mark.once

SIZE = (64, 64)
SMALL = np.zeros((8, 8), np.uint8)
SMALL[2:6, 2:6] = 1
LESION, BORDER = disc(96, 24, 50, 40) > 0, (disc(96, 28, 50, 40) > 0) & (disc(96, 24, 50, 40) == 0)


def void_map(label: int, void: int = 255, dtype: type = np.uint8) -> np.ndarray:
    """A lesion of one class with a border that is to be ignored."""
    return np.where(LESION, label, np.where(BORDER, void, 0)).astype(dtype)


@pytest.mark.parametrize("label", [1, 2, 15, 20, 100, 200, 254])
def test_labels__a_class_with_a_border_of_void_is_refused(tmp_path: Path, label: int) -> None:
    path = save(tmp_path / "mask.png", void_map(label))
    with pytest.raises(MaskFileError, match=rf"mask.png: holds 0 \(\d,\d+ pixels\), {label} .*255 .*class labels"):
        read_mask(path, SIZE)


@pytest.mark.parametrize("label", [1, 15])
def test_labels__one_void_pixel_is_enough(tmp_path: Path, label: int) -> None:
    labels = SMALL * label
    labels[2, 2] = 255
    with pytest.raises(MaskFileError, match="class labels does.*write 255 where the label is the lesion's"):
        read_mask(save(tmp_path / "mask.png", labels), SIZE)


@pytest.mark.parametrize("void", [255, 65535])
@pytest.mark.parametrize("label", [1, 255])
def test_labels__sixteen_bits(tmp_path: Path, label: int, void: int) -> None:
    if label == void:
        return
    with pytest.raises(MaskFileError, match="class labels"):
        read_mask(save(tmp_path / "mask.png", void_map(label, void, np.uint16)), SIZE)


def test_labels__several_classes_with_and_without_void(tmp_path: Path) -> None:
    rows = np.arange(96)[:, None] // 16
    for labels in (
        np.broadcast_to(rows, (96, 96)),  # 0 to 5
        np.broadcast_to(rows + 14, (96, 96)),  # 14 to 19
        np.where(rows == 5, 255, np.broadcast_to(rows, (96, 96))),
        np.where(rows > 3, 0, np.broadcast_to(rows * 50, (96, 96))),  # classes spread over the greys
        np.where(LESION, 1, np.where(BORDER, 255, 2)),
    ):
        path = save(tmp_path / "mask.png", labels.astype(np.uint8))
        with pytest.raises(MaskFileError, match=r"class labels|photograph"):
            read_mask(path, SIZE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_labels__in_other_color_modes(tmp_path: Path, mode: str) -> None:
    Image.fromarray(void_map(1)).convert(mode).save(tmp_path / "mask.png")
    with pytest.raises(MaskFileError, match="class labels"):
        read_mask(tmp_path / "mask.png", SIZE)


def test_labels__greys_of_resampling_and_of_jpeg_are_none(tmp_path: Path) -> None:
    for radius in (10, 30):
        sharp = disc(128, radius, 60, 50)
        for resampling in Image.Resampling:
            for side in (48, 200):
                soft = Image.fromarray(sharp).resize((side, side), resampling)
                for picture in (soft, soft.resize((4 * side, 4 * side), Image.Resampling.NEAREST)):
                    picture.save(tmp_path / "soft.png")
                    found = read_mask(tmp_path / "soft.png", (side, side))
                    assert found.note is None
                    assert ((found.mask > 127) == (np.array(soft) > 127)).mean() > 0.99
        for quality in (50, 90, 95):
            save(tmp_path / "noisy.jpg", sharp, quality=quality)
            with Image.open(tmp_path / "noisy.jpg") as picture:
                picture.save(tmp_path / "noisy.png")
            assert ((read_mask(tmp_path / "noisy.png", (128, 128)).mask > 127) == (sharp > 0)).mean() > 0.99


def through_jpeg(mask: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def test_labels__few_values_that_jpeg_left_of_black_and_white_are_none(tmp_path: Path) -> None:
    """A sharp shape at a high quality keeps so little noise that there are three values, as in a map of labels."""
    random, few = np.random.default_rng(0), 0
    for side in (64, 96, 125):
        for _ in range(12):
            sharp = np.zeros((side, side), np.uint8)
            (y, x), (height, width) = random.integers(4, side // 2, 2), random.integers(side // 6, side // 2, 2)
            sharp[y : y + height, x : x + width] = 255
            for quality in (75, 95, 98, 100):
                noisy = through_jpeg(sharp, quality)
                values = np.unique(noisy)
                few += len(values) == 3 and (values[1] < 16 or values[1] >= 240)
                for shown in (noisy, np.repeat(noisy[:, :, None], 3, 2)):
                    found = read_mask(save(tmp_path / "noisy.png", shown), (side, side))
                    np.testing.assert_array_equal(found.mask > 127, sharp > 0)
                    assert found.note is None
    assert few > 5


def test_labels__maps_that_are_near_black_and_white_are_not_what_jpeg_left(tmp_path: Path) -> None:
    """Whatever their places and sizes: as a lesion of the dark label with a border, or single pixels of either."""
    random = np.random.default_rng(1)
    for _ in range(60):
        side, label = int(random.integers(8, 40)), int(random.choice([1, 2, 3, 15, 240, 254]))
        labels = np.zeros((side, side), np.uint8)
        y, x, height, width = random.integers((0, 0, 2, 2), side // 2 + 2)
        labels[y : y + height, x : x + width] = 255
        if random.random() < 0.5:
            labels[y + 1 : y + height - 1, x : x + width - 1] = label
        else:
            labels[random.integers(0, side, 5), random.integers(0, side, 5)] = label
        if len(np.unique(labels)) == 3:
            with pytest.raises(MaskFileError, match="class labels"):
                read_mask(save(tmp_path / "mask.png", labels), SIZE)
    tampered = through_jpeg(disc(96, 24, 50, 40), 98)
    tampered[tampered == 1] = 2
    assert not is_jpeg_of_black_and_white(tampered)
    assert is_jpeg_of_black_and_white(through_jpeg(disc(96, 24, 50, 40), 98))
    assert not is_jpeg_of_black_and_white(through_jpeg(disc(96, 24, 50, 40), 98).astype(np.uint16))


def test_labels__an_area_of_grey_beside_more_white_is_kept_with_a_note(tmp_path: Path) -> None:
    mask = disc(64, 20, 30, 30)
    mask[50:60, 50:60] = 128
    found = read_mask(save(tmp_path / "mask.png", mask), SIZE)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.note == "gray areas"


def test_labels__a_dark_jpeg_is_no_empty_mask(tmp_path: Path) -> None:
    soft = Image.fromarray(disc(128, 30, 60, 60)).resize((96, 96))
    path = save(tmp_path / "mask.jpg", (np.array(soft) // 8).astype(np.uint8), quality=95)
    with pytest.raises(MaskFileError, match=r"is dark: its brightest grey is \d+ of 255"):
        read_mask(path, SIZE)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
@pytest.mark.parametrize(("label", "border"), [(15, 255), (60, 255), (2, 0), (5, 0)])
def test_labels__areas_of_one_grey_stay_labels_in_lossy_files(file_format: str, label: int, border: int) -> None:
    """A class with a border of 255, and a class of 2 or 5 on black, which noise would have made many values of."""
    levels = np.where(disc(64, 20, 30, 30) > 0, np.uint8(label), np.uint8(0))
    levels[(disc(64, 22, 30, 30) > 0) & (levels == 0)] = border
    file = io.BytesIO()
    Image.fromarray(levels).save(file, file_format, quality=95)
    assert len(np.unique(np.asarray(Image.open(file).convert("L")))) > 2
    with pytest.raises(MaskFileError, match="has an area of the grey|is dark|looks like a photograph"):
        read_mask(file.getvalue(), (64, 64))


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_labels__noise_is_no_area(file_format: str, quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(disc(96, 30, 40, 50)).save(file, file_format, quality=quality)
    found = read_mask(file.getvalue(), (96, 96))
    assert found.note is None
    assert ((found.mask > 127) == (disc(96, 30, 40, 50) > 127)).mean() > 0.99


def test_labels__a_smaller_area_of_grey_in_a_jpeg_has_a_note() -> None:
    levels = disc(96, 30, 40, 50)
    levels[80:92, :24] = 128
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=95)
    assert read_mask(file.getvalue(), (96, 96)).note == "gray areas"
