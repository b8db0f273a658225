"""Real pairs of the usefulness experiment: which are drawn, and that no test pair is trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import Array
from usefulness_data import QUICK, TEST, TRAIN, pair

from m2l_runtime import synthesize_folder
from m2l_runtime.errors import ArgumentError, InputError
from m2l_train.evaluate.metrics.mask_fidelity import dice
from m2l_train.evaluate.usefulness.data import draw_pairs, read_masks, read_real
from m2l_train.evaluate.usefulness.masks import make_masks
from m2l_train.evaluate.usefulness.plan import UsefulnessOptions

OPTIONS = UsefulnessOptions(**QUICK)


@pytest.fixture
def copy(pairs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pairs, tmp_path / "data"))


def image_of(folder: Path, number: int, split: str = "train") -> Array:
    return np.asarray(Image.open(folder / split / "images" / f"p{number:04}.png"))


def put(folder: Path, number: int, image: Array) -> None:
    Image.fromarray(image).save(folder / "train" / "images" / f"p{number:04}.png")


def test_read_real__gives_both_splits(pairs: Path) -> None:
    real = read_real(pairs, OPTIONS)
    assert (len(real.train.pairs), len(real.test.pairs)) == (TRAIN, TEST)
    image, mask = pair(3)
    np.testing.assert_array_equal(real.train.images[3], image)
    np.testing.assert_array_equal(real.train.masks[3], mask)
    assert list(real.warnings) == ["6 pairs to test on: intervals are wide, and little can be shown"]
    np.testing.assert_array_equal(next(iter(read_masks(real.train.pairs[3:4], 32, OPTIONS))), mask)


TURNS: dict[str, Any] = {
    "as it is": lambda image: image,
    "turned": np.rot90,
    "mirrored": lambda image: image[:, ::-1],
    "transposed": lambda image: image.swapaxes(0, 1),
}


@pytest.mark.parametrize("turn", TURNS)
def test_read_real__test_pairs_among_training_pairs_are_refused_by_pixels(copy: Path, turn: str) -> None:
    put(copy, 7, np.ascontiguousarray(TURNS[turn](image_of(copy, 1002, "val"))))
    with pytest.raises(InputError, match=r"1 test pair of val .* by their pixels: .*p1002.png is .*p0007"):
        read_real(copy, OPTIONS)


def test_read_real__a_test_pair_of_the_same_name_but_other_pixels_is_none(copy: Path) -> None:
    for kind in ("images", "masks"):
        (copy / "val" / kind / "p1002.png").rename(copy / "val" / kind / "p0007.png")
    assert len(read_real(copy, OPTIONS).train.pairs) == TRAIN


def test_read_real__near_duplicates_of_test_pairs_are_not_trained_on(copy: Path) -> None:
    brighter = np.clip(image_of(copy, 1002, "val").astype(int) + 6, 0, 255).astype(np.uint8)
    put(copy, 7, brighter)
    real = read_real(copy, OPTIONS)
    assert len(real.train.pairs) == len(real.train.images) == len(real.train.masks) == TRAIN - 1
    assert "p0007" not in real.train.names
    np.testing.assert_array_equal(real.train.images[7], pair(8)[0])
    assert "left out 1 training pair nearly the same as a test pair: p0007 of p1002" in real.warnings


def test_read_real__broken_pictures_are_left_out_and_named(copy: Path) -> None:
    (copy / "train" / "images" / "p0007.png").write_bytes(b"none")
    real = read_real(copy, OPTIONS)
    assert len(real.train.pairs) == TRAIN - 1
    assert any(text.startswith("left out ") and "p0007.png" in text for text in real.warnings)


def test_read_real__what_cannot_be_used(copy: Path, pairs: Path, tmp_path: Path, tiny_synth: Any) -> None:
    with pytest.raises(InputError, match="has no val split"):
        read_real(pairs / "train", OPTIONS)
    with pytest.raises(InputError, match="does not exist"):
        read_real(tmp_path / "none", OPTIONS)
    for kind in ("images", "masks"):
        for path in sorted((copy / "val" / kind).iterdir())[1:]:
            path.unlink()
    with pytest.raises(InputError, match="1 pair to test on, at least 2"):
        read_real(copy, OPTIONS)
    synthesize_folder(pairs / "val" / "masks", tmp_path / "made", tiny_synth)
    shutil.copy(tmp_path / "made" / "p1000.png", copy / "train" / "images" / "p0007.png")
    with pytest.raises(InputError, match=r"p0007.png says that m2l made it"):
        read_real(copy, OPTIONS)


def test_draw_pairs__draws_parts_that_share_nothing_and_nest() -> None:
    smaller, larger, other = draw_pairs(200, 10, 0), draw_pairs(200, 50, 0), draw_pairs(200, 10, 1)
    for drawn, count in ((smaller, 20), (larger, 100), (other, 20)):
        assert len({*drawn.training, *drawn.validation}) == len(drawn.training) + len(drawn.validation) == count
        assert len(drawn.validation) == count / 5
        assert {*drawn.training, *drawn.validation} <= set(range(200))
    assert {*smaller.training, *smaller.validation} < {*larger.training, *larger.validation}
    assert smaller != other
    assert smaller == draw_pairs(200, 10, 0)
    assert len(draw_pairs(5000, 100, 0).validation) == 100


def test_draw_pairs__too_few_are_refused() -> None:
    assert len(draw_pairs(6, 100, 0).training) == 4
    with pytest.raises(InputError, match=r"5 % of 40 training pairs is 2 pairs, too few for an arm: at least 6"):
        draw_pairs(40, 5, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("AllAug", "allaug")}, "each once"),
        ({"arms": ()}, "some of the arms"),
        ({"arms": ("AllAugg",)}, "there is no arm 'AllAugg'"),
        ({"fractions": (0.0,)}, "above 0 and at most 100"),
        ({"fractions": (float("nan"),)}, "above 0 and at most 100"),
        ({"fractions": (5.0, 5.0)}, "each once"),
        ({"seeds": 0}, "number of seeds"),
        ({"steps": 0}, "number of steps"),
        ({"ratio": 0.0}, "ratio must be"),
        ({"share": 1.0}, "share of synthesized"),
        ({"side": 100}, "multiple of 16"),
        ({"side": 16}, "at least 32"),
        ({"width": 0}, "width must be"),
        ({"threads": 0}, "threads and workers"),
        ({"masks": "drawn"}, "masks"),
        ({"use": "both"}, "use"),
    ],
)
def test_options__out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        UsefulnessOptions(**options)


def given_masks() -> Array:
    return np.stack([pair(number, 64)[1] for number in range(5)])


def test_make_masks__as_they_are_go_round_with_samples_of_their_own() -> None:
    masks = given_masks()
    made = list(make_masks("as-they-are", list("abcde"), masks, 12, 0))
    assert [(one.name, one.sample) for one in made[:7]] == [*((name, 1) for name in "abcde"), ("a", 2), ("b", 2)]
    assert all(np.array_equal(one.mask, masks["abcde".index(one.name)]) for one in made)


def test_make_masks__deformed_are_of_the_given_ones() -> None:
    masks = given_masks()
    made = list(make_masks("deform", list("abcde"), masks, 10, 0))
    for number, one in enumerate(made):
        assert one.mask.shape == (64, 64)
        assert 0.5 < dice(one.mask > 127, masks[number % 5] > 127) < 1
    assert len({(one.name, one.sample) for one in made}) == 10
    again, other = (next(make_masks("deform", list("abcde"), masks, 1, seed)).mask for seed in (0, 1))
    assert np.array_equal(again, made[0].mask)
    assert not np.array_equal(other, made[0].mask)


def test_make_masks__shapes_have_the_areas_of_the_given_ones() -> None:
    masks = np.stack([pair(number, 64)[1] for number in range(20)])
    areas = (masks > 127).sum((1, 2))
    made = list(make_masks("pca", [f"{n:02}" for n in range(20)], masks, 8, 0))
    for one in made:
        assert one.mask.shape == (64, 64)
        assert areas.min() * 0.6 < (one.mask > 127).sum() < areas.max() * 1.6


def test_make_masks__shapes_of_too_few_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least 3 masks .* choose masks as-they-are or deform"):
        list(make_masks("pca", ["a", "b"], given_masks()[:2], 1, 0))
