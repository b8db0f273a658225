"""What is asked of appearances: numbers by name, or a photograph with its mask, or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support import Array, disc, save

from m2l_runtime import AppearanceChoice
from m2l_runtime.conditioning.appearance import lab, measure
from m2l_runtime.errors import InputError, PictureFileError
from m2l_runtime.masks.appearance_query import resolve_appearance_query, split_by_lightness
from m2l_runtime.types import NAMES

SIZE = (64, 64)


def photograph(mask: Array) -> Array:
    """Of two colors with some noise, dark where the mask is."""
    noise = np.random.default_rng(4).integers(-6, 7, (*mask.shape, 3))
    colors = np.where(mask[..., None] > 127, [100, 70, 60], [210, 170, 160])
    return (colors + noise).astype(np.uint8)


def numbers(text: str, mask: Path | None = None) -> npt.NDArray[np.float32]:
    choice, _ = resolve_appearance_query(text, SIZE, mask)
    assert [name for name, _ in choice.values] == list(NAMES)
    return np.array([number for _, number in choice.values], np.float32)


def test_appearance_query__numbers_by_name() -> None:
    assert AppearanceChoice.parse("lesion_L=35,skin_a=12").values == (("lesion_L", 35.0), ("skin_a", 12.0))
    assert resolve_appearance_query("skin_a=-3.5, lesion_L=1e1", SIZE)[0].values == (
        ("lesion_L", 10.0),
        ("skin_a", -3.5),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lesion_L=dark", "lesion_L must be a number, got 'lesion_L=dark'"),
        ("lesion_L=", "must be a number"),
        ("lesion_L=3,", "expected NAME=NUMBER,NAME=NUMBER,..., got ''"),
        ("lesion_L=3,35", "expected NAME=NUMBER"),
        ("lesion_X=3", "have no 'lesion_X'; expected some of lesion_L"),
        ("lesion_L=300", "between 0 and 100"),
        ("lesion_L=1,lesion_L=1", "given twice"),
    ],
)
def test_appearance_query__words_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_appearance_query(text, SIZE)


def test_appearance_query__a_photograph_is_squashed_as_in_training_and_measured_with_its_mask(tmp_path: Path) -> None:
    mask = disc(96, 25, 40, 50)[:72]
    path, its_mask = save(tmp_path / "x.png", photograph(mask)), save(tmp_path / "of_x.png", mask)
    small = [
        np.array(Image.fromarray(array).resize((64, 64), Image.Resampling.BICUBIC))
        for array in (photograph(mask), mask)
    ]
    np.testing.assert_array_equal(numbers(str(path), its_mask), measure(small[0], small[1]))


@pytest.mark.parametrize(
    "name",
    [
        "x_segmentation.png",
        "X_Segmentation.PNG",
        "x_lesion.bmp",
        "x_mask.png",
        "masks/x.png",
        "masks/x_mask.png",
        "../masks/x.png",
        "../masks/x_segmentation.png",
    ],
)
def test_appearance_query__its_mask_is_found_by_the_names_that_people_use(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data" / "images"
    for place in (folder, folder / "masks", tmp_path / "data" / "masks"):
        place.mkdir(parents=True)
    mask = disc(64, 9, 20, 20)  # not what is dark
    path = save(folder / "x.jpg", photograph(disc(64)), quality=95)
    save(folder / "x_superpixels.png", disc(64, 3))
    save(folder / "y_mask.png", disc(64, 3))
    save(folder / name, mask)
    choice, notes = resolve_appearance_query(str(path), SIZE)
    with Image.open(path) as picture:
        image = np.array(picture)
    np.testing.assert_array_equal(np.array([n for _, n in choice.values], np.float32), measure(image, mask))
    assert "its mask is" in notes[0]


def test_appearance_query__without_a_mask_the_darker_side_is_the_lesion(tmp_path: Path) -> None:
    mask = disc(64, 20, 30, 30)
    path = save(tmp_path / "x.png", photograph(mask))
    choice, notes = resolve_appearance_query(str(path), SIZE)
    np.testing.assert_allclose([n for _, n in choice.values], measure(photograph(mask), mask), atol=1e-4)
    assert "Otsu" in notes[0]


@pytest.mark.parametrize("seed", range(5))
def test_appearance_query__otsus_threshold_is_the_best_of_all(seed: int) -> None:
    """The definition, tried at every threshold: the split of least variance within its two sides."""
    rng = np.random.default_rng(seed)
    colors = np.concatenate([rng.normal(70, 30, (900, 3)), rng.normal(170, 40, (700, 3))])
    image = np.clip(colors, 0, 255).astype(np.uint8).reshape(40, 40, 3)
    bins = np.minimum(lab(image)[..., 0] * 2.56, 255).astype(int)

    def within(is_dark: npt.NDArray[np.bool_]) -> float:
        return float(sum(side.size * side.var() for side in (bins[is_dark], bins[~is_dark])))

    found = split_by_lightness(image) == 255
    best = min(within(bins <= edge) for edge in range(int(bins.min()), int(bins.max())))
    assert within(found) == pytest.approx(best, rel=1e-9)
    assert bins[found].max() < bins[~found].min()


def test_appearance_query__one_lightness_is_all_skin() -> None:
    assert not split_by_lightness(np.full((8, 8, 3), 77, np.uint8)).any()


def test_appearance_query__photographs_and_masks_that_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "x.png", photograph(disc(64)))
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(PictureFileError, match=r"bad\.jpg: is not a PNG, JPEG"):
        resolve_appearance_query(str(bad), SIZE)
    with pytest.raises(PictureFileError, match=r"absent\.jpg: cannot be read"):
        resolve_appearance_query(str(tmp_path / "absent.jpg"), SIZE)
    with pytest.raises(PictureFileError, match=r"wide\.png: has the color mode I;16"):
        resolve_appearance_query(str(save(tmp_path / "wide.png", np.zeros((8, 8), np.uint16))), SIZE)
    with pytest.raises(InputError, match=r"tall\.png: is 64 x 80 pixels, its photograph 64 x 64"):
        resolve_appearance_query(str(good), SIZE, save(tmp_path / "tall.png", np.vstack([disc(64), disc(64)[:16]])))
    with pytest.raises(InputError, match=r"x\.png: looks like a photograph"):
        resolve_appearance_query(str(good), SIZE, good)
    with pytest.raises(InputError, match="numbers need none"):
        resolve_appearance_query("skin_a=1", SIZE, good)
    for name in ("x_mask.png", "x_lesion.png"):
        save(tmp_path / name, disc(64))
    with pytest.raises(InputError, match=r"has several masks \(.*x_lesion\.png, .*x_mask\.png\)"):
        resolve_appearance_query(str(good), SIZE)
