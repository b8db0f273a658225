"""The model inside the package: lesions where the masks are, and colors as they are asked for."""

from __future__ import annotations

import numpy as np
from support import Array

from m2l_runtime import Synthesizer, read_mask
from m2l_runtime.bundle import embedded
from m2l_runtime.conditioning.appearance import lab, measure
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.types import NAMES


def examples(synth: Synthesizer) -> Array:
    found = find_masks(embedded.EXAMPLE_MASKS)
    return np.stack([read_mask(embedded.EXAMPLE_MASKS / name, synth.image_size).mask for name in found.names])


def test_embedded__colors_are_those_that_were_asked_for() -> None:
    with Synthesizer.open(streams=None) as synth:
        masks = examples(synth)
        table = synth.bundle.read_appearances()
        asked = table[:: len(table) // (3 * len(masks))][: 3 * len(masks)]
        many = np.tile(masks, (3, 1, 1))
        images = synth(many, seeds=range(len(many)), appearances=asked)
    found = np.stack([measure(image, mask) for image, mask in zip(images, many, strict=True)])
    for region, start in (("lesion", 0), ("skin", 6)):
        place = slice(start, start + 3)
        distance = np.linalg.norm(found[:, place] - asked[:, place], axis=1).mean()
        by_chance = np.linalg.norm(found[:, place] - np.roll(asked, 1, 0)[:, place], axis=1).mean()
        assert distance < 0.5 * by_chance, region
    for name in ("lesion_L", "skin_L", "skin_a", "skin_b"):
        column = NAMES.index(name)
        assert np.corrcoef(found[:, column], asked[:, column])[0, 1] > 0.8, name


def test_embedded__one_number_moves_what_it_says_and_little_else() -> None:
    with Synthesizer.open() as synth:
        masks = examples(synth)[:4]
        middle = np.median(synth.bundle.read_appearances(), 0).astype(np.float32)
        darker, lighter = middle.copy(), middle.copy()
        column = NAMES.index("lesion_L")
        darker[column] -= 12
        lighter[column] += 12
        dark, light = (synth(masks, seeds=range(4), appearances=look) for look in (darker, lighter))
    for mask, one, other in zip(masks, dark, light, strict=True):
        before, after = measure(one, mask), measure(other, mask)
        assert after[column] - before[column] > 12
        assert abs(after[NAMES.index("skin_L")] - before[NAMES.index("skin_L")]) < 4


def test_embedded__lesions_are_where_the_masks_are() -> None:
    """Asked to be dark, they are darker than the skin around them, and by less if the mask is mirrored."""
    with Synthesizer.open() as synth:
        masks = examples(synth)
        look = np.median(synth.bundle.read_appearances(), 0).astype(np.float32)
        look[NAMES.index("lesion_L")] = 35
        images = synth(masks, seeds=range(len(masks)), appearances=look)
    contrast: dict[str, list[float]] = {"given": [], "mirrored": [], "upside down": []}
    for mask, image in zip(masks, images, strict=True):
        lightness = lab(image)[..., 0]
        for name, wrong in (("given", mask), ("mirrored", mask[:, ::-1]), ("upside down", mask[::-1])):
            contrast[name].append(float(lightness[wrong < 128].mean() - lightness[wrong >= 128].mean()))
    assert min(contrast["given"]) > 10
    assert np.mean(contrast["given"]) > np.mean(contrast["mirrored"]) + 1
    assert np.mean(contrast["given"]) > np.mean(contrast["upside down"]) + 1


def test_embedded__images_of_one_mask_differ_by_seed_and_not_by_company() -> None:
    with Synthesizer.open() as synth:
        masks = examples(synth)[:3]
        alone = synth(masks[1:2], seeds=[7])
        together = synth(masks, seeds=[6, 7, 8])
        other = synth(masks[1:2], seeds=[8])
    np.testing.assert_array_equal(alone[0], together[1])
    assert np.abs(alone.astype(int) - other).mean() > 3
