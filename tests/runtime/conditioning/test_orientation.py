"""Random orientations: against NumPy's rot90, letters, another Philox, and a bundle that gives its inputs back."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from steered_bundle import SIDE, drawn, image, steered_bundle
from support import philox_stream, save

from m2l_runtime import Synthesizer
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.conditioning.orientation import draw_orientation, orient, orient_back
from m2l_runtime.errors import BundleDamaged, BundleTooNew

SHAPES: list[tuple[int, ...]] = [(5, 5), (6, 6, 3)]


def oriented_bundle(folder: Path, **options: Any) -> Bundle:
    """The bundle that gives its inputs back, with its masks oriented."""
    bundle = steered_bundle(folder, **options)
    manifest = msgspec.structs.replace(bundle.manifest, schema_version=3, random_orientation=True)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest.fields()))
    return open_bundle(folder)


def mask_without_symmetry() -> np.ndarray[Any, np.dtype[np.uint8]]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[1:5, 2:4] = mask[4, 2:9] = 255
    return mask


@pytest.mark.parametrize("shape", SHAPES)
def test_orient__are_the_eight_symmetries_of_a_square(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = {orient(pixels[None], [number])[0].tobytes() for number in range(8)}
    expected = {np.rot90(one, turns).tobytes() for one in (pixels, pixels[::-1]) for turns in range(4)}
    assert found == expected
    assert len(found) == 8
    assert orient(pixels[None], [0])[0].tobytes() == pixels.tobytes()


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, "cd ab"), (2, "ba dc"), (3, "dc ba"), (4, "ac bd"), (5, "bd ac"), (6, "ca db"), (7, "db ca")],
)
def test_orient__by_the_bits_that_the_format_names(number: int, expected: str) -> None:
    """Transposed first, then rows, then columns turned around."""
    letters = np.array([list("ab"), list("cd")])
    assert " ".join("".join(row) for row in orient(letters[None], [number])[0]) == expected


@pytest.mark.parametrize("shape", [*SHAPES, (4, 7), (4, 7, 3)])
def test_orient_back__undoes_it_item_by_item(shape: tuple[int, ...]) -> None:
    numbers = list(range(8 if shape[0] == shape[1] else 4))
    pixels = np.random.default_rng(1).integers(0, 256, (len(numbers), *shape), np.uint8)
    before = pixels.copy()
    oriented = orient(pixels, numbers)
    assert oriented.flags.c_contiguous
    np.testing.assert_array_equal(orient_back(oriented, numbers), before)
    np.testing.assert_array_equal(pixels, before)
    assert orient(pixels[:0], []).shape == (0, *shape)


def test_draw_orientation__is_what_the_format_says_and_uniform() -> None:
    for seed in (0, 7, 2**64 - 1):
        (number,) = philox_stream(1, seed, "orientation")
        assert draw_orientation(seed, (8, 8)) == number % 8
        assert draw_orientation(seed, (8, 4)) == number % 4
    counts = collections.Counter(draw_orientation(seed, (8, 8)) for seed in range(4000))
    assert sorted(counts) == list(range(8))
    assert max(abs(count - 500) for count in counts.values()) < 5 * (4000 * 7 / 64) ** 0.5


@pytest.mark.parametrize("batch_size", [1, 4])
def test_synthesizer__images_lie_as_their_masks_and_what_is_at_fixed_places_is_turned(
    tmp_path: Path, batch_size: int
) -> None:
    """Red is the mask as it was given; green and blue, which are drawn in columns, are turned back with it."""
    mask = mask_without_symmetry()
    bundle = oriented_bundle(tmp_path / "b", roles=("appearance", "dropout_bits"))
    plain = steered_bundle(tmp_path / "plain")
    seeds = list(range(20))
    with (
        Synthesizer.open(bundle, backend="onnxruntime", batch_size=batch_size) as synth,
        Synthesizer.open(plain, backend="onnxruntime") as unoriented,
    ):
        images = synth(np.stack([mask] * 20), seeds=seeds)
        others = unoriented(np.stack([mask] * 20), seeds=seeds)
        again = synth(mask[None], seeds=[11])
        alone, repeated = synth(mask[None]), synth(np.stack([mask, mask]))
    np.testing.assert_array_equal(images[..., 0], others[..., 0])
    np.testing.assert_array_equal(again[0], images[11])
    np.testing.assert_array_equal(repeated, np.concatenate([alone, alone]))
    seen = set()
    for seed, found, other in zip(seeds, images, others, strict=True):
        number = draw_orientation(seed, (SIDE, SIDE))
        seen.add(number)
        np.testing.assert_array_equal(orient(found[None], [number])[0, ..., 1:], other[..., 1:])
    assert len(seen) > 5


def test_synthesizer__images_that_are_not_square_are_flipped_alone(tmp_path: Path) -> None:
    """With the backend that runs no model, whose lesions have one color and lie where the mask is."""
    bundle = oriented_bundle(tmp_path / "b")
    manifest = bundle.manifest
    inputs = [msgspec.structs.replace(manifest.inputs[0], shape=("batch", SIDE, 2 * SIDE)), *manifest.inputs[1:]]
    output = msgspec.structs.replace(manifest.outputs[0], shape=("batch", SIDE, 2 * SIDE, 3))
    wide = msgspec.structs.replace(manifest, image_size=(SIDE, 2 * SIDE), inputs=tuple(inputs), outputs=(output,))
    (bundle.path / "manifest.json").write_bytes(msgspec.json.encode(wide.fields()))
    mask = np.zeros((SIDE, 2 * SIDE), np.uint8)
    mask[:4, :9] = 255
    with Synthesizer.open(bundle.path, backend="fake") as synth:
        images = synth(np.stack([mask] * 30), seeds=range(30))
    assert images.shape == (30, SIDE, 2 * SIDE, 3)
    for found in images:
        np.testing.assert_array_equal((found == found[0, 0]).all(-1), mask == 255)


def test_synth__the_seed_says_how(tmp_path: Path, m2l: CommandLine) -> None:
    bundle = oriented_bundle(tmp_path / "b")
    mask = mask_without_symmetry()
    save(tmp_path / "m.png", mask)
    done = m2l(
        *("synth", tmp_path / "m.png", tmp_path / "out", "--bundle", bundle.path),
        *("--samples", "9", "--seed", "3", "--backend", "onnxruntime"),
    )
    assert done.code == 0, done.err
    seen = set()
    for sample in range(1, 10):
        found = np.asarray(Image.open(next((tmp_path / "out").glob(f"**/m*{sample}.png"))))
        (item,) = philox_stream(1, 3, "item", "m", sample)
        number = philox_stream(1, item, "orientation")[0] % 8
        seen.add(number)
        expected = image(orient(mask[None], [number])[0], *drawn(3, "m", sample))
        np.testing.assert_array_equal(found, orient_back(expected[None], [number])[0])
    assert len(seen) > 3
    assert "rotated and flipped at random" in " ".join(m2l("inspect", bundle.path).out.split())


def test_write_bundle__takes_version_3(tmp_path: Path) -> None:
    bundle = oriented_bundle(tmp_path / "b")
    content = json.loads((bundle.path / "manifest.json").read_text())
    assert (content["schema_version"], content["random_orientation"]) == (3, True)
    assert "random_orientation" not in steered_bundle(tmp_path / "c").manifest.fields()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda fields: fields.update(schema_version=1), BundleDamaged, "version 1, and has.*orientations.*version 3"),
        (lambda fields: fields.update(schema_version=4), BundleTooNew, "reads versions 1 to 3"),
        (lambda fields: fields.update(random_orientation=8), BundleDamaged, "does not follow its schema"),
    ],
)
def test_open_bundle__refuses_orientations_that_cannot_be(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], error: type[Exception], message: str
) -> None:
    bundle = oriented_bundle(tmp_path / "b")
    fields = bundle.manifest.fields()
    change(fields)
    (bundle.path / "manifest.json").write_bytes(msgspec.json.encode(fields))
    with pytest.raises(error, match=message):
        open_bundle(bundle.path)


def test_open_bundle__refuses_orientations_of_a_generator_without_seeds(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match="takes the mask alone"):
        oriented_bundle(tmp_path / "b", roles=())
