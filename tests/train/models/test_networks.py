"""The generator against its description, key for key and number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functional_unet import original_generator
from support import TINY, assert_equals_original, assert_truncates_to_original, oracle

from m2l_runtime.literals import Norm
from m2l_train.models import losses
from m2l_train.models.networks import (
    PatchDiscriminator,
    ResizeConv2d,
    ScaledDiscriminators,
    UnetGenerator,
    UnetSpec,
    detail,
)


@pytest.mark.parametrize(("levels", "ngf", "count"), [(8, 64, 54_409_603), (9, 64, 66_993_539)])
def test_networks__parameter_counts(levels: int, ngf: int, count: int) -> None:
    with torch.device("meta"):
        network = UnetGenerator(UnetSpec(levels, ngf, 3, 3, "instance"))
    assert sum(p.numel() for p in network.parameters()) == count


def test_networks__the_originals_state_dict_loads_key_for_key() -> None:
    state = torch.load(TINY / "tiny_net_G.pth", weights_only=True)
    network = UnetGenerator(UnetSpec(8, 2, 3, 3, "instance"))
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)


def test_networks__it_computes_what_the_original_computed() -> None:
    network = UnetGenerator(UnetSpec(8, 2, 3, 3, "instance")).eval()
    network.load_state_dict(torch.load(TINY / "tiny_net_G.pth", weights_only=True))
    for _, mask, original in oracle(TINY / "masks", TINY / "images_eval"):
        x = torch.from_numpy(mask).float() / 127.5 - 1
        with torch.inference_mode():
            y = network(x.expand(1, 3, 256, 256))[0]
        image = ((y + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        assert_equals_original(image, original)
        assert_truncates_to_original(y.permute(1, 2, 0).numpy(), original)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("levels", "side"), [(5, 32), (7, 128), (8, 256), (7, 256), (6, 64)])
def test_networks__it_equals_the_description_in_float64(norm: Norm, levels: int, side: int) -> None:
    """Against a plain functional reading of DESIGN's table, in-place activations and all."""
    torch.manual_seed(levels)
    network = UnetGenerator(UnetSpec(levels, 2, 3, 3, norm)).double().eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor) / 4
            )
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        found, expected = network(x), original_generator(network.state_dict(), x, levels, batch_norm="running")
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-12)


def test_networks__dropout_stands_where_the_original_has_it() -> None:
    for levels, expected in ((8, 3), (7, 2), (9, 4), (5, 0)):
        network = UnetGenerator(UnetSpec(levels, 2, 3, 3, "instance"))
        dropouts = [m for m in network.modules() if isinstance(m, torch.nn.Dropout)]
        assert [d.p for d in dropouts] == [0.5] * expected
        assert list(network.state_dict()) == list(
            UnetGenerator(UnetSpec(levels, 2, 3, 3, "instance", False)).state_dict()
        )


def test_networks__initialisation() -> None:
    torch.manual_seed(0)
    network = UnetGenerator(UnetSpec(8, 16, 3, 3, "instance"))
    weights = torch.cat([p.flatten() for n, p in network.named_parameters() if n.endswith("weight")])
    biases = torch.cat([p.flatten() for n, p in network.named_parameters() if n.endswith("bias")])
    assert abs(weights.mean().item()) < 1e-4
    assert abs(weights.std().item() - 0.02) < 1e-4
    assert not biases.any()


def test_networks__too_few_levels() -> None:
    with pytest.raises(ValueError, match="at least 5 levels, got 4"):
        UnetGenerator(UnetSpec(4, 2, 3, 3, "instance"))


def test_networks__the_discriminator_is_the_one_described() -> None:
    torch.manual_seed(3)
    network = PatchDiscriminator(6, 4, "instance").double()
    state = network.state_dict()
    x = torch.rand(2, 6, 256, 256, dtype=torch.float64)
    y = x
    for index, stride in ((0, 2), (2, 2), (5, 2), (8, 1), (11, 1)):
        y = F.conv2d(y, state[f"model.{index}.weight"], state[f"model.{index}.bias"], stride, 1)
        if index in (2, 5, 8):
            y = (y - y.mean((2, 3), True)) / torch.sqrt(y.var((2, 3), unbiased=False, keepdim=True) + 1e-5)
        y = y if index == 11 else torch.where(y > 0, y, 0.2 * y)
    assert y.shape == (2, 1, 30, 30)
    torch.testing.assert_close(network(x), y)


def test_networks__the_discriminator_judges_patches_of_70_pixels() -> None:
    network = PatchDiscriminator(6, 4, "none").double()
    x = torch.rand(1, 6, 256, 256, dtype=torch.float64, requires_grad=True)
    network(x)[0, 0, 15, 15].backward()
    assert x.grad is not None
    rows, columns = (torch.where(x.grad.abs().sum((0, 1)).sum(axis) > 0)[0] for axis in (1, 0))
    assert (len(rows), len(columns)) == (70, 70)


def test_networks__weights_begin_as_the_originals() -> None:
    torch.manual_seed(0)
    for network in (UnetGenerator(UnetSpec(8, 8, 3, 3, "instance")), PatchDiscriminator(6, 16, "instance")):
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                assert not value.any()
            elif value.numel() > 4000:
                assert abs(float(value.detach().mean())) < 2e-3
                assert float(value.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_networks__upsampling_by_resize_repeats_pixels_and_convolves() -> None:
    torch.manual_seed(0)
    layer = ResizeConv2d(3, 5, bias=True).double()
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    repeated = np.repeat(np.repeat(x.numpy(), 2, 2), 2, 3)
    padded = np.pad(repeated, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((2, 5, 8, 12))
    for row in range(3):
        for column in range(3):
            part = padded[:, :, row : row + 8, column : column + 12]
            expected += np.einsum("oi,bihw->bohw", layer.weight.detach().numpy()[:, :, row, column], part)
    assert layer.bias is not None
    expected += layer.bias.detach().numpy()[None, :, None, None]
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_networks__a_generator_that_resizes_has_its_levels_and_sizes(norm: Norm) -> None:
    network = UnetGenerator(UnetSpec(7, 2, 3, 3, norm, upsample="resize")).eval()
    assert sum(isinstance(m, ResizeConv2d) for m in network.modules()) == 7
    assert not any(isinstance(m, torch.nn.ConvTranspose2d) for m in network.modules())
    assert network(torch.rand(1, 3, 128, 256)).shape == (1, 3, 128, 256)


def test_networks__several_discriminators_judge_at_half_the_side_each() -> None:
    torch.manual_seed(4)
    network = ScaledDiscriminators(3, 6, 2, "instance").double()
    x = torch.rand(2, 6, 256, 256, dtype=torch.float64)
    found = network(x)
    assert [tuple(logits.shape) for logits in found] == [(2, 1, 30, 30), (2, 1, 14, 14), (2, 1, 6, 6)]
    for side, logits, alone in zip((256, 128, 64), found, network.scales, strict=True):
        cells = x.reshape(2, 6, side, 256 // side, side, 256 // side).mean((3, 5))
        torch.testing.assert_close(logits, alone(cells))


def test_networks__detail_is_what_a_blur_takes_away() -> None:
    """The impulse response by hand; a flat color has no detail, not even at its frame; grey has none of color."""
    flat = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 9, 9)
    torch.testing.assert_close(detail(flat), torch.zeros_like(flat))

    impulse = torch.zeros(1, 3, 9, 9, dtype=torch.float64)
    impulse[0, 0, 4, 4] = 1  # red
    highpass = -np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    highpass[1, 1] += 1
    found = detail(impulse)[0].numpy()
    for channel, share in enumerate((1 / 3, 1 / 2, 1 / 4)):
        np.testing.assert_allclose(found[channel, 3:6, 3:6], 16 * share * highpass, atol=1e-12)
    assert not found[:, :3].any()

    gray = torch.rand(1, 1, 16, 16, dtype=torch.float64).expand(1, 3, 16, 16)
    of_gray = detail(gray)
    assert float(of_gray[:, 0].std()) > 1
    torch.testing.assert_close(of_gray[:, 1:], torch.zeros_like(of_gray[:, 1:]))


def test_networks__l1_over_cells_sees_their_means_alone() -> None:
    real = torch.zeros(1, 3, 8, 8)
    checks = real + 1 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)  # 1 and -1 by turns: the mean is 0
    assert float(losses.l1(checks, real, 1)) == 1
    assert float(losses.l1(checks, real, 2)) == 0
    assert float(losses.l1(checks + 0.25, real, 4)) == pytest.approx(0.25)
