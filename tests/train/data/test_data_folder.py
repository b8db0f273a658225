"""What a folder of data is taken for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import disc, save
from synthetic_data import data_folder, photograph

from m2l_runtime.errors import InputError
from m2l_train.data.data_folder import open_data


def combined(folder: Path, count: int = 4, *, mask_is_left: bool = True) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        mask = disc(64, 12 + number, 30, 30)
        halves = [np.repeat(mask[:, :, None], 3, 2), photograph(mask, number)]
        save(folder / f"{number}.png", np.concatenate(halves if mask_is_left else halves[::-1], 1))
    return folder


@pytest.mark.parametrize("mask_is_left", [True, False])
def test_data_folder__combined_pictures_are_known_by_their_halves(tmp_path: Path, mask_is_left: bool) -> None:
    assert len(open_data(combined(tmp_path / "c", mask_is_left=mask_is_left)).train) == 4
    (tmp_path / "c" / "0.png").write_bytes(b"torn")  # told when it is read
    assert len(open_data(tmp_path / "c").train) == 4


def test_data_folder__a_photograph_of_one_color_is_no_mask(tmp_path: Path) -> None:
    mask = disc(256, 60, 128, 128)
    for name, color in (("colored", (230, 120, 90)), ("gray", (120, 120, 120))):
        both = np.concatenate([np.repeat(mask[:, :, None], 3, 2), np.full((256, 256, 3), color, np.uint8)], 1)
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(both).save(tmp_path / name / f"{number}.jpg", quality=95)  # 4:2:0, as Pillow's default
    assert len(open_data(tmp_path / "colored").train) == 2
    with pytest.raises(InputError, match="holds no combined A"):
        open_data(tmp_path / "gray")


def test_data_folder__folders_of_masks_or_of_photographs_are_no_combined_pictures(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 4, 2, 64)
    for folder in (data / "train" / "masks", data / "train" / "images"):
        with pytest.raises(InputError, match="holds no combined A|B pictures: 4 of 4 looked at have not a mask"):
            open_data(folder)


def test_data_folder__a_folder_of_other_layouts_is_not_searched_for_pairs(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "few" / "out", 4, 2, 64)
    (tmp_path / "few" / "i").mkdir()
    Image.open(next((data / "train" / "images").iterdir())).save(tmp_path / "few" / "i" / "a.png")
    with pytest.raises(InputError, match="holds no combined A"):
        open_data(tmp_path / "few")
