"""The ResNet generator against its description, key for key and number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from functional_resnet import original_resnet

from m2l_runtime.errors import InputError
from m2l_runtime.literals import Norm
from m2l_train import TrainConfig
from m2l_train.models.networks import UnetGenerator
from m2l_train.models.pix2pix import Pix2Pix, make_generator
from m2l_train.models.resnet import ResnetGenerator, ResnetSpec


@pytest.mark.parametrize(
    ("blocks", "norm", "millions"),
    [(9, "instance", "11.378"), (9, "batch", "11.383"), (6, "instance", "7.838"), (6, "batch", "7.841")],
)
def test_resnet__parameter_counts_are_those_that_the_original_prints(blocks: int, norm: Norm, millions: str) -> None:
    with torch.device("meta"):
        network = ResnetGenerator(ResnetSpec(blocks, 64, 3, 3, norm))
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.3f}" == millions


@pytest.mark.parametrize("has_dropout", [False, True])
def test_resnet__keys_are_the_originals(has_dropout: bool) -> None:
    """Places of reflections, activations and dropout count, though they have no weights."""
    network = ResnetGenerator(ResnetSpec(6, 1, 3, 3, "instance", has_dropout))
    second = 6 if has_dropout else 5
    layers = ["1", "4", "7", *(f"{10 + k}.conv_block.{n}" for k in range(6) for n in (1, second)), "16", "19", "23"]
    assert list(network.state_dict()) == [f"model.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("blocks", "size"), [(1, (8, 8)), (3, (20, 32))])
def test_resnet__it_equals_the_description_in_float64(norm: Norm, blocks: int, size: tuple[int, int]) -> None:
    torch.manual_seed(blocks)
    network = ResnetGenerator(ResnetSpec(blocks, 2, 3, 3, norm)).double().eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor) / 4
            )
    x = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        found, expected = network(x), original_resnet(network.state_dict(), x, blocks)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-11)
    assert expected.std() > 0.1


def test_resnet__weights_are_drawn_as_the_originals() -> None:
    torch.manual_seed(0)
    state = ResnetGenerator(ResnetSpec(2, 16, 3, 3, "batch")).state_dict()
    assert state["model.10.conv_block.1.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["model.2.weight"].mean().item() == pytest.approx(1, abs=0.02)
    assert not state["model.13.bias"].any()


def test_resnet__a_config_says_which_generator() -> None:
    network = make_generator(TrainConfig(generator="resnet_9blocks", ngf=2, dropout=False))
    assert isinstance(network, ResnetGenerator)
    assert network.spec == ResnetSpec(9, 2, 3, 3, "instance", dropout=False)
    assert isinstance(make_generator(TrainConfig(ngf=2, image_size=128)), UnetGenerator)
    for changes in ({"appearance": True}, {"upsample": "resize"}):
        with pytest.raises(InputError, match="resnet_6blocks takes no appearance and has transposed convolutions"):
            TrainConfig(generator="resnet_6blocks", **changes)


def test_resnet__a_step_trains_it() -> None:
    torch.manual_seed(0)
    config = TrainConfig(image_size=128, generator="resnet_6blocks", ngf=1, ndf=1, ema=0.9, dropout=False, lr=0.01)
    networks = Pix2Pix(config)
    masks = np.zeros((1, 128, 128), np.uint8)
    masks[:, 40:90, 30:80] = 255
    images = np.full((1, 128, 128, 3), 200, np.uint8)
    images[masks > 0] = 60
    before = {name: tensor.clone() for name, tensor in networks.generator.state_dict().items()}
    first = [networks.step(masks, images).G_L1 for _ in range(6)]
    assert first[-1] < 0.9 * first[0]
    still = [name for name, tensor in networks.generator.state_dict().items() if torch.equal(tensor, before[name])]
    assert all(name.endswith("bias") for name in still)
    assert networks.synthesize(masks).shape == (1, 128, 128, 3)
