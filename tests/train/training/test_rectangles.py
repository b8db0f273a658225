"""Pictures that are no squares: prepared, trained on, exported, synthesized and evaluated."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image
from support import Array
from synthetic_data import photograph

from m2l_runtime.errors import InputError
from m2l_train import TrainConfig
from m2l_train.config_file import from_json, to_json
from m2l_train.data import decoded_cache
from m2l_train.data.batches import augment, epoch_batches, placement
from m2l_train.data.data_folder import open_data
from m2l_train.data.photograph import read_pair
from m2l_train.evaluate.metrics import checkerboard, sliced_wasserstein
from m2l_train.models.networks import UnetGenerator
from m2l_train.models.pix2pix import make_generator

SIZE = (64, 128)
CONFIG = TrainConfig(image_size="64x128", ngf=1, ndf=1, n_epochs=1, n_epochs_decay=0, turn=True)


def ellipse(height: int, width: int, number: int) -> Array:
    rows, columns = np.ogrid[:height, :width]
    y, x = height * (0.4 + 0.02 * number), width * (0.5 + 0.01 * number)
    inside = ((rows - y) / (0.2 * height)) ** 2 + ((columns - x) / (0.15 * width)) ** 2 < 1
    return np.where(inside, np.uint8(255), np.uint8(0))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of photographs of 100 x 200 pixels, and their masks."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(8):
        mask = ellipse(100, 200, number)
        Image.fromarray(photograph(mask, number)).save(folder / f"p{number}.png")
        Image.fromarray(mask).save(folder / f"p{number}_segmentation.png")
    return folder


@pytest.mark.slow
def test_rectangles__from_photographs_to_images(photographs: Path, tmp_path: Path, m2l: CommandLine) -> None:
    data, run, bundle, out = (tmp_path / name for name in ("data", "run", "bundle", "out"))
    prepared = m2l("prepare", photographs, photographs, data, "--size", "71x143", "--split", "train=0.5,val=0.5")
    assert prepared.code == 0, prepared.err
    assert json.loads((data / "dataset.json").read_text())["size"] == "71x143"
    with Image.open(next((data / "train" / "images").glob("*.png"))) as picture:
        assert picture.size == (143, 71)
    again = m2l("prepare", photographs, photographs, data, "--resume", "--json")
    assert json.loads(again.out)["kept"] == 8
    trained = m2l(
        "train", data, run, "--image-size", "64x128", "--ngf", 2, "--ndf", 1, "--max-steps", 1, "--threads", 1
    )
    assert trained.code == 0, trained.err
    assert "second resampling" not in trained.err
    assert json.loads((run / "config.json").read_text())["image_size"] == "64x128"
    assert m2l("train", data, run, "--resume", "--max-steps", 2).code == 0
    exported = m2l("export", run, bundle)
    assert exported.code == 0, exported.err
    assert "masks and images of 64x128 (height x width)" in exported.err
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["image_size"] == list(SIZE)
    assert manifest["network"]["levels"] == 6
    assert manifest["provenance"]["training"]["config"]["image_size"] == "64x128"
    for command in (
        ("verify", bundle),
        ("synth", data / "val" / "masks", out, "--bundle", bundle, "--contact-sheet", tmp_path / "s.png"),
    ):
        outcome = m2l(*command)
        assert outcome.code == 0, outcome.err
    written = sorted(out.glob("p*.png"))
    assert len(written) == 4
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == (128, 64)


@pytest.mark.slow
def test_rectangles__are_evaluated(photographs: Path, tmp_path: Path, m2l: CommandLine) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    assert m2l("prepare", photographs, photographs, data, "--size", "64x128", "--split", "train=0.5,val=0.5").code == 0
    out.mkdir()
    for path in (data / "val" / "images").iterdir():
        with Image.open(path) as picture:
            Image.fromarray(np.asarray(picture) // 2 + 40).save(out / path.name)
    evaluated = m2l("evaluate", "images", out, data, "--json", "--encoding", "none")
    assert evaluated.code == 0, evaluated.err
    found = json.loads(evaluated.out)
    assert found["image_size"] == "64x128"
    assert found["figures"]["l1"]["value"] > 10
    assert {"swd_64", "swd_32", "swd_16", "checkerboard_4"} <= found["figures"].keys()


def test_rectangles__a_mask_of_another_aspect_is_squashed(tmp_path: Path) -> None:
    """As one of another aspect is to a square: each side by its own factor."""
    from m2l_runtime.masks.mask_file import read_mask

    mask = np.zeros((80, 80), np.uint8)
    mask[20:60, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    expected = np.array(Image.fromarray(mask).resize((160, 40), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (40, 160)).mask, expected)


def test_placement__covers_each_side_and_turns_by_halves() -> None:
    found = [placement(CONFIG, 1, place) for place in range(3000)]
    assert CONFIG.resize_to == CONFIG.crop_from == (71, 143)
    assert {at.top for at in found} == set(range(71 - 64))
    assert {at.left for at in found} == set(range(143 - 128))
    turns = [at.quarter_turns for at in found]
    assert set(turns) == {0, 2}
    assert np.mean(turns) == pytest.approx(1, abs=0.06)
    square = replace(CONFIG, image_size=128)
    assert {placement(square, 1, place).quarter_turns for place in range(99)} == {0, 1, 2, 3}


@pytest.mark.parametrize("margin", [0, 3])
def test_batches__decoded_once_equal_those_of_files(photographs: Path, tmp_path: Path, margin: int) -> None:
    (photographs / "masks").mkdir()
    (photographs / "images").mkdir()
    for number in range(8):
        (photographs / f"p{number}_segmentation.png").rename(photographs / "masks" / f"p{number}.png")
        (photographs / f"p{number}.png").rename(photographs / "images" / f"p{number}.png")
    pairs = open_data(photographs).train
    config = replace(CONFIG, mirror=margin, batch_size=3)
    with ThreadPoolExecutor(2) as pool:
        bad = decoded_cache.decode_pairs(pairs, config, tmp_path / "pixels", pool, None)
        pixels = decoded_cache.map_pixels(tmp_path / "pixels", len(pairs), config.crop_from)
        cut = decoded_cache.decoded_batches(pairs, pixels, bad, config, 1, pool, torch.device("cpu"))
        read = epoch_batches(pairs, config, 1, pool)
        count = 0
        for one, other in zip(cut, read, strict=True):
            assert one.names == other.names
            assert tuple(other.images.shape[1:]) == (*SIZE, 3)
            np.testing.assert_array_equal(np.asarray(one.masks), np.asarray(other.masks))
            np.testing.assert_array_equal(np.asarray(one.images), np.asarray(other.images))
            count += len(one.names)
    assert count == 8
    mask, image = augment(read_pair(pairs[0], config.resize_to), replace(config, mirror=0), 1, 0)
    assert (mask.shape, image.shape) == (SIZE, (*SIZE, 3))


@pytest.mark.parametrize(
    ("size", "generator", "depth"),
    [
        ("256x512", "unet", 8),
        ("192x256", "unet", 6),
        (96, "unet", 5),
        ("512x256", "unet", 8),
        ("100x68", "resnet_6blocks", 2),
    ],
)
def test_config__depth_is_what_both_sides_allow(size: Any, generator: Any, depth: int) -> None:
    config = TrainConfig(image_size=size, generator=generator, ngf=1)
    assert config.levels == depth
    network = make_generator(config).eval()
    assert network.spec.levels == depth
    if isinstance(network, UnetGenerator) and depth < 7:
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, *config.size)).shape == (1, 3, *config.size)
    assert from_json(to_json(config), "x") == config
    assert TrainConfig(image_size=config.size, generator=generator, ngf=1) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": "256x500"},
            "multiples of 32 pixels from 64 to 1024 with the generator unet, got 256x500; the nearest is 256x512",
        ),
        ({"image_size": "32x256"}, "the nearest is 64x256"),
        (
            {"image_size": "66x256", "generator": "resnet_9blocks"},
            "multiples of 4 pixels .* got 66x256; the nearest is 64x256",
        ),
        ({"image_size": "wide"}, "image_size must be a number of pixels, or height x width as 256x512, got 'wide'"),
        ({"image_size": "256x512", "load_size": 286}, "load_size must be between image_size"),
        ({"image_size": "64x512", "discriminators": 3}, "must be at most 2 for images of 64x512 pixels"),
        ({"image_size": "64x96", "l1_cell": 64}, r"must divide image_size \(64x96\), got 64"),
        ({"image_size": "64x128", "mirror": 71}, r"must be less than the side that pictures are resized to \(71\)"),
    ],
)
def test_config__sizes_that_do_not_go(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**changes)


def test_checkerboard__a_grid_shows_in_a_rectangle_as_in_a_square() -> None:
    random = np.random.default_rng(0)
    images = random.normal(128, 10, (4, *SIZE, 3)).astype(np.float32)
    weights = np.ones((1, 4))
    plain = checkerboard.energy(checkerboard.measure(images.astype(np.uint8)), weights)
    images[:, ::4, ::4] += 25
    grid = checkerboard.energy(checkerboard.measure(images.clip(0, 255).astype(np.uint8)), weights)
    assert set(grid) == {None, 2, 4}
    assert plain[4].value < 3 < 20 < grid[4].value
    for stride, places in checkerboard.points(SIZE).items():
        wanted = {(r * 64 // stride, c * 128 // stride) for r in range(stride) for c in range(stride)}
        assert set(places) <= wanted


def test_pyramid__adds_up_to_the_rectangle() -> None:
    picture = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    levels = sliced_wasserstein.laplacian_pyramid(picture.float())
    assert [tuple(level.shape[2:]) for level in levels] == [(64, 96), (32, 48), (16, 24)]
    assert sliced_wasserstein.pyramid_sides((64, 96)) == sliced_wasserstein.pyramid_sides((96, 64)) == [64, 32, 16]
    total = levels[-1]
    for level in levels[-2::-1]:
        total = level + sliced_wasserstein._doubled(total)
    torch.testing.assert_close(total, picture.float(), rtol=0, atol=1e-5)
    patches = sliced_wasserstein.describe((picture[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)[None], 1)
    assert [len(level) for level in patches] == [sliced_wasserstein.PATCHES] * 3
