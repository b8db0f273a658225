"""The modulated generator: against its formulas, sample by sample in float64, and Pillow's JPEG colors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functional_modulated import (
    FILTERED,
    SMALL,
    appearances,
    drawn_inputs,
    enlarged,
    images_by_formula,
    small_modulated,
)
from PIL import Image

from m2l_train.models.modulated import (
    ModulatedConv2d,
    ModulatedGenerator,
    ModulatedSpec,
    infer_modulated_spec,
    is_modulated,
    scale_noise,
    smooth_phases,
    to_rgb,
)
from m2l_train.models.networks import UnetGenerator, UnetSpec


def run(network: ModulatedGenerator, size: tuple[int, int], batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network gives in float64, and what the formulas do: both (B, H, W, 3)."""
    masks, rows, noise = drawn_inputs(network.spec, batch, size)
    x = torch.from_numpy(masks)[:, None].double() / 127.5 - 1
    scaled = (torch.from_numpy(noise).double() - 127.5) / np.sqrt((256**2 - 1) / 12)
    with torch.inference_mode():
        found = network.double()(x, torch.from_numpy(rows).double(), scaled)
    return found.permute(0, 2, 3, 1), torch.from_numpy(images_by_formula(network.state_dict(), masks, rows, noise))


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
@pytest.mark.parametrize(("spec", "seed"), [(SMALL, 0), (SMALL, 1), (FILTERED, 0)])
def test_modulated_generator__computes_the_formulas(spec: ModulatedSpec, seed: int, size: tuple[int, int]) -> None:
    found, expected = run(small_modulated(spec, seed), size)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)  # of T.871's rounded coefficients
    assert expected.std() > 0.1
    assert (expected[0] - expected[1]).abs().mean() > 0.05


def test_modulated_generator__of_other_depths() -> None:
    for spec in (
        ModulatedSpec(encoder=(3,), decoder=(4,), hidden=3, appearance_rows=4),
        ModulatedSpec(encoder=(2, 2, 2, 2), decoder=(3, 4, 5, 6), names=("ink", "hair"), hidden=4, appearance_rows=3),
    ):
        found, expected = run(small_modulated(spec), (16, 32))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("what", ["mask", "row", "noise"])
def test_modulated_generator__everything_that_comes_in_shows(what: str) -> None:
    network = small_modulated()
    given = [torch.from_numpy(one[:1]) for one in drawn_inputs(SMALL, 3)]
    other = [torch.from_numpy(one[1:2]) for one in drawn_inputs(SMALL, 3)]
    index = ["mask", "row", "noise"].index(what)
    changed = [*given[:index], other[index], *given[index + 1 :]]
    with torch.inference_mode():
        a, b = (network(m[:, None] / 127.5 - 1, row, scale_noise(noise)) for m, row, noise in (given, changed))
    assert (a - b).abs().mean() > 0.01


def test_modulated_generator__each_plane_of_noise_is_read_at_its_side() -> None:
    """A byte changes the image around its place, and no byte is read by nothing."""
    network, size = small_modulated(), (16, 16)
    masks, rows, noise = drawn_inputs(SMALL, 1, size)
    sides = SMALL.noise_sides(size)
    assert sides == ((2, 2), (2, 2), (2, 2), (4, 4), (4, 4), (8, 8))
    assert SMALL.noise_count(size) == 12 + 2 * 16 + 64 == noise.shape[1]
    count = noise.shape[1]
    changed = np.repeat(noise, count + 1, 0)
    changed[np.arange(count), np.arange(count)] ^= 128
    with torch.inference_mode():
        images = network(
            torch.from_numpy(masks)[:, None].float().expand(count + 1, 1, 16, 16) / 127.5 - 1,
            torch.from_numpy(rows).expand(count + 1, -1),
            scale_noise(torch.from_numpy(changed)),
        )
    moved = (images[:-1] - images[-1]).abs().sum(1)
    assert (moved.amax((1, 2)) > 1e-4).all()
    for byte, (row, column) in ((count - 64, (0, 0)), (count - 1, (15, 15))):
        y, x = torch.nonzero(moved[byte] > 1e-6).T
        assert max((y - row).abs().max(), (x - column).abs().max()) <= 8


def test_modulated_conv2d__keeps_variance_one() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(24, 8, 400, hidden=6)
    x, skip, noise = torch.randn(2, 24, 24, 24), torch.randn(2, 8, 24, 24), torch.randn(2, 1, 24, 24)
    with torch.inference_mode():
        y = layer(x, skip, torch.randn(2, 6) * 3, noise)[:, :, 1:-1, 1:-1]
    assert y.square().mean().item() == pytest.approx(1, abs=0.05)


def test_to_rgb__colors_are_those_of_pillow() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(levels, "YCbCr").convert("RGB")).astype(float)
    centered = torch.from_numpy(levels).permute(2, 0, 1)[None].double() - torch.tensor([0.0, 128, 128])[:, None, None]
    found = to_rgb(centered)[0].permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(found - expected).max() <= 1


def test_to_rgb__chroma_is_enlarged_as_pillow_and_libjpeg_do() -> None:
    color = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    flat = torch.from_numpy(color)[None] * torch.tensor([0.0, 1, 1])[:, None, None]
    found = to_rgb(flat, torch.zeros(1, 1, 12, 16))[0]
    for channel, plane, factor in ((0, 2, 1.402), (2, 1, 1.772)):
        by_pillow = np.asarray(Image.fromarray(color[plane]).resize((16, 12), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[channel].numpy(), factor * by_pillow, atol=1e-5)
        np.testing.assert_allclose(enlarged(color[plane].astype(np.float64)), by_pillow, atol=1e-5)


def test_to_rgb__luma_is_added_to_all_channels_at_the_full_side() -> None:
    luma = torch.randn(2, 1, 8, 8)
    found = to_rgb(torch.zeros(2, 3, 4, 4), luma)
    assert torch.equal(found, luma.expand(2, 3, 8, 8))


def test_smooth_phases__lets_frequencies_through_as_twice_the_binomial_filter_less_its_square() -> None:
    """Of waves across and down, by the filter's closed form: cos^2 is what [1, 2, 1] / 4 leaves of half a wave."""
    side = 64
    places = np.arange(side)
    for cycles in ((0, 0), (4, 0), (0, 8), (12, 20), (31, 2), (32, 0), (32, 32)):
        left = 1.0
        for number in cycles:
            binomial = np.cos(np.pi * number / side) ** 2
            left *= 2 * binomial - binomial**2
        angles = 2 * np.pi * (cycles[0] * places[:, None] + cycles[1] * places) / side
        wave = torch.from_numpy(np.cos(angles))[None, None]
        found = F.pixel_shuffle(smooth_phases(F.pixel_unshuffle(wave, 2)), 2)
        inner = (..., slice(2, -2), slice(2, -2))
        assert found[inner].numpy() == pytest.approx(left * wave[inner].numpy(), abs=1e-12)


def test_draw__half_the_side_is_the_full_one_without_fine_luma() -> None:
    network = small_modulated()
    masks, rows, noise = (torch.from_numpy(one) for one in drawn_inputs(SMALL, 2))
    with torch.inference_mode():
        color, luma = network.draw(masks[:, None] / 127.5 - 1, rows, scale_noise(noise))
        full = network(masks[:, None] / 127.5 - 1, rows, scale_noise(noise))
    assert (color.shape, luma.shape) == ((2, 3, 16, 16), (2, 1, 32, 32))
    rest = full - luma
    torch.testing.assert_close(rest, F.interpolate(to_rgb(color), scale_factor=2.0, mode="bilinear"))


@pytest.mark.parametrize("spec", [SMALL, FILTERED, ModulatedSpec(), ModulatedSpec((3,), (4,), ("ink",), 2, 1)])
def test_infer_modulated_spec__finds_what_was_built(spec: ModulatedSpec) -> None:
    with torch.device("meta"):
        state = ModulatedGenerator(spec).state_dict()
    state["names"] = torch.tensor(list(",".join(spec.names).encode()), dtype=torch.uint8)
    if "filters" in state:
        state["filters"] = torch.tensor([spec.sharpening, spec.chroma_passes])
    assert is_modulated(state)
    assert infer_modulated_spec(state) == spec


def test_is_modulated__other_networks_are_not() -> None:
    with torch.device("meta"):
        unet = UnetGenerator(UnetSpec(5, 2, 3, 3, "instance", appearance_rows=3))
    assert not is_modulated(unet.state_dict())


def test_names__are_kept_as_text_in_the_state() -> None:
    assert bytes(small_modulated().state_dict()["names"].tolist()).decode() == ",".join(SMALL.names)


def test_set_table__keeps_mean_and_deviation() -> None:
    table = appearances()
    table[:, 2] = 7.0
    network = ModulatedGenerator(SMALL)
    network.set_table(table)
    assert torch.equal(network.table, table)
    np.testing.assert_allclose(network.mean, table.numpy().mean(0), rtol=1e-5)
    expected = np.maximum(table.numpy().std(0, ddof=1), 1e-3)
    np.testing.assert_allclose(network.std, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 13), (9, 12), (8, 13)])
def test_set_table__refuses_others(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected appearances of shape \(9, 13\), two rows at least, got"):
        ModulatedGenerator(SMALL).set_table(torch.zeros(shape))
    with pytest.raises(ValueError, match="two rows at least"):
        ModulatedGenerator(dataclasses.replace(SMALL, appearance_rows=1)).set_table(torch.zeros(1, 13))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": (3, 2)}, "as many sides"),
        ({"encoder": (), "decoder": ()}, "at least one side"),
        ({"encoder": (2, 0, 4)}, "one channel in each layer"),
        ({"names": ()}, "0 names"),
        ({"hidden": 0}, "0 hidden"),
    ],
)
def test_modulated_spec__that_is_none(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]
