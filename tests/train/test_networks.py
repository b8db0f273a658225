"""The generator against its description, key for key and number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from functional import original_generator
from support import TINY, assert_equals_original, assert_truncates_to_original, oracle

from m2l_train.networks import Norm, UnetGenerator, UnetSpec


@pytest.mark.parametrize(("levels", "ngf", "count"), [(8, 64, 54_409_603), (9, 64, 66_993_539)])
def test_parameter_counts(levels: int, ngf: int, count: int) -> None:
    with torch.device("meta"):
        network = UnetGenerator(UnetSpec(levels, ngf, 3, 3, "instance"))
    assert sum(p.numel() for p in network.parameters()) == count


def test_the_originals_state_dict_loads_key_for_key() -> None:
    state = torch.load(TINY / "tiny_net_G.pth", weights_only=True)
    network = UnetGenerator(UnetSpec(8, 2, 3, 3, "instance"))
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)


def test_it_computes_what_the_original_computed() -> None:
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
def test_it_equals_the_description_in_float64(norm: Norm, levels: int, side: int) -> None:
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


def test_dropout_stands_where_the_original_has_it() -> None:
    for levels, expected in ((8, 3), (7, 2), (9, 4), (5, 0)):
        network = UnetGenerator(UnetSpec(levels, 2, 3, 3, "instance"))
        dropouts = [m for m in network.modules() if isinstance(m, torch.nn.Dropout)]
        assert [d.p for d in dropouts] == [0.5] * expected
        assert list(network.state_dict()) == list(
            UnetGenerator(UnetSpec(levels, 2, 3, 3, "instance", False)).state_dict()
        )


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = UnetGenerator(UnetSpec(8, 16, 3, 3, "instance"))
    weights = torch.cat([p.flatten() for n, p in network.named_parameters() if n.endswith("weight")])
    biases = torch.cat([p.flatten() for n, p in network.named_parameters() if n.endswith("bias")])
    assert abs(weights.mean().item()) < 1e-4
    assert abs(weights.std().item() - 0.02) < 1e-4
    assert not biases.any()


def test_too_few_levels() -> None:
    with pytest.raises(ValueError, match="at least 5 levels, got 4"):
        UnetGenerator(UnetSpec(4, 2, 3, 3, "instance"))
