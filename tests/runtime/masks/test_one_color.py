"""Masks that were drawn in one color."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import disc, save

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import read_mask

SOFT = np.array(Image.fromarray(disc(512, 120, 240, 260)).resize((256, 256), Image.Resampling.BICUBIC))
SIZE = (256, 256)


def drawn(color: tuple[int, int, int], shape: np.ndarray = SOFT) -> np.ndarray:
    colors: np.ndarray = np.round(shape[:, :, None] / 255 * np.array(color)).astype(np.uint8)
    return colors


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 0, 255), (0, 128, 0), (255, 255, 0), (200, 30, 60)])
def test_one_color__shades_on_black_are_greys(tmp_path: Path, color: tuple[int, int, int]) -> None:
    found = read_mask(save(tmp_path / "mask.png", drawn(color)), SIZE)
    assert np.abs(found.mask.astype(int) - SOFT).max() <= 2
    assert found.note == "one color"
    for quality in (75, 95):
        found = read_mask(save(tmp_path / "mask.jpg", drawn(color), quality=quality), SIZE)
        assert ((found.mask > 127) == (SOFT > 127)).mean() > 0.998


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_one_color__several_colors_are_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    small = np.array(Image.fromarray(SOFT).resize((80, 80)))
    two, beside_white = np.zeros((2, 256, 256, 3), np.uint8)
    two[90:170, 90:170] = beside_white[90:170, 90:170] = drawn((255, 0, 0), small)
    two[:20, :20] = (0, 255, 0)
    beside_white[:20, :20] = 255
    for array in (two, beside_white):
        with pytest.raises(MaskFileError, match="is colored: .* one color on black; save the channel"):
            read_mask(save(tmp_path / f"mask{suffix}", array), SIZE)


def test_one_color__labels_in_one_color_are_labels(tmp_path: Path) -> None:
    labels = np.zeros((256, 256), np.uint8)
    labels[50:90, 50:90], labels[50:52, 50:90] = 90, 255
    with pytest.raises(MaskFileError, match="class labels"):
        read_mask(save(tmp_path / "mask.png", drawn((255, 0, 0), labels)), SIZE)
